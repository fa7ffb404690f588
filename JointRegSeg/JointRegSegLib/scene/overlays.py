"""What is laid over the images: segmentations, the Jacobian determinant, and where the segmentations agree."""

from __future__ import annotations

from typing import Literal

import numpy as np
import slicer

from . import layout
from .results import ATTRIBUTE, SceneResult, adopt

#: The prediction is a wide, soft band, the carried-over one a fine line: where they agree the line runs in the band.
OUTLINES = {"fixed_segmentation": (5, 0.5), "warped_segmentation": (1, 1.0)}
FILL = 0.3
#: Determinants at the ends of the scale: 0 is where the deformation begins to fold.
JACOBIAN = (0.0, 2.0)
JACOBIAN_OPACITY = 0.5
#: Below 1, and above.
BLUE, RED = np.array([0.05, 0.35, 1.0]), np.array([1.0, 0.1, 0.05])
#: Unchanged: neither hue, and no brighter or darker than most tissue.
GRAY = 0.5
AGREEMENT_OPACITY = 0.6
COLORS = 255
#: Width and height of legends, as shares of the view: text fills what it is given, and names are longer than numbers.
NUMBERS, NAMES = (0.1, 0.35), (0.2, 0.2)
#: Where legends stand, so that those of one view do not cover each other.
LEFT, RIGHT = (0.02, 0.03), (0.98, 0.03)


def segmentations(result: SceneResult, mode: Literal["off", "outline", "fill"]) -> None:
    """Show the fixed volume's segmentation and the one that was carried over.

    The moving volume's own is taken from view: it lies in the moving volume's space, where these views do not look.
    """
    for role in (*OUTLINES, "moving_segmentation"):
        node = result.get(role)
        if node is None:
            continue
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetVisibility(mode != "off" and role in OUTLINES)
        if role in OUTLINES:
            width, opacity = OUTLINES[role]
            display.SetSliceIntersectionThickness(width)
            display.SetVisibility2DOutline(True)
            display.SetOpacity2DOutline(opacity)
            display.SetVisibility2DFill(mode == "fill")
            display.SetOpacity2DFill(FILL)


def jacobian(scene: slicer.vtkMRMLScene, result: SceneResult, on: bool) -> None:
    """Lay the Jacobian determinant over the deformation view.

    It is of the map from fixed to moving space: red where a place was larger in the moving image, blue where it was
    smaller, gray where nothing changed.

    Raises
    ------
    InputError
        If it is to be shown and is not in the scene anymore.
    """
    node = result.need("jacobian") if on else result.get("jacobian")
    if node is not None:
        if on:
            node.CreateDefaultDisplayNodes()
            display = node.GetDisplayNode()
            display.SetAndObserveColorNodeID(_jacobian_colors(scene, result).GetID())
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(JACOBIAN[1] - JACOBIAN[0], sum(JACOBIAN) / 2)
        legend(node, "volume ×", "%.1f", on)
    view = layout.composite(scene, layout.DEFORMATION)
    view.SetForegroundVolumeID(node.GetID() if on else None)
    view.SetForegroundOpacity(JACOBIAN_OPACITY if on else 0.0)


def agreement(scene: slicer.vtkMRMLScene, result: SceneResult, on: bool) -> None:
    """Lay over the fixed image where carried-over and predicted labels agree, and where they do not.

    Raises
    ------
    InputError
        If it is to be shown and the model gave none, or it is not in the scene anymore.
    """
    node = result.need("agreement") if on else result.get("agreement")
    if node is not None:
        legend(node, "labels", "", on)
    view = layout.composite(scene, layout.FIXED)
    view.SetLabelVolumeID(node.GetID() if on else None)
    view.SetLabelOpacity(AGREEMENT_OPACITY)


def legend(
    node: slicer.vtkMRMLDisplayableNode, title: str, numbers: str, on: bool, place: tuple[float, float] = RIGHT
) -> slicer.vtkMRMLColorLegendDisplayNode | None:
    """A node's color legend: how to print numbers, or names of colors where that is empty."""
    logic = slicer.vtkSlicerColorLogic
    out = logic.GetColorLegendDisplayNode(node)
    if out is None and on:
        out = logic.AddDefaultColorLegendDisplayNode(node)
        out.SetAttribute(ATTRIBUTE, node.GetAttribute(ATTRIBUTE))  # so that it goes with what it explains
        out.SetTitleText(title)
        out.SetSize(*(NUMBERS if numbers else NAMES))
        out.SetPosition(*place)
        if numbers:
            out.SetLabelFormat(numbers)
            out.SetNumberOfLabels(5)
        out.SetUseColorNamesForLabels(not numbers)
    if out is not None:
        out.SetVisibility(on)
    return out


def _jacobian_colors(scene: slicer.vtkMRMLScene, result: SceneResult) -> slicer.vtkMRMLColorTableNode:
    node = result.get("jacobian_colors")
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", scene.GenerateUniqueName("Volume change colors"))
        node.SetTypeToUser()
        node.SetNumberOfColors(COLORS)
        low, high = JACOBIAN
        for i, determinant in enumerate(np.linspace(low, high, COLORS)):
            color = GRAY + ((BLUE if determinant < 1 else RED) - GRAY) * abs(determinant - 1)
            node.SetColor(i, f"{determinant:.2f}", *color, 1.0)
        adopt(result, "jacobian_colors", node)
    return node
