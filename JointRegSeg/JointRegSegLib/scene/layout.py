"""The reading layout: four linked slice views, fixed | warped over comparison | deformation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import slicer

from . import compare, volumes
from .results import SceneResult

Comparison = Literal["checkerboard", "difference", "blend"]

#: Layout of this module among those of Slicer, which are numbered below 1000.
LAYOUT = 7310
#: Views with the same group follow each other, and no others.
GROUP = 7310
#: The four views, by their singleton tags, which are also their layout names.
FIXED, WARPED, COMPARISON, DEFORMATION = (
    f"JointRegSeg{name}" for name in ("Fixed", "Warped", "Comparison", "Deformation")
)
#: In reading order: label and color of the bar above.
VIEWS = {
    FIXED: ("F", "#4C9BD6"),
    WARPED: ("W", "#E0913A"),
    COMPARISON: ("C", "#8C8C8C"),
    DEFORMATION: ("D", "#5BAA6A"),
}
#: Empty space around a fitted volume.
MARGIN = 1.05


def show(
    scene: slicer.vtkMRMLScene,
    result: SceneResult,
    fixed: slicer.vtkMRMLScalarVolumeNode,
    comparison: Comparison = "checkerboard",
    fraction: float = 0.5,
) -> None:
    """Show a result for reading, axial at first, through the middle of its structures.

    It shows images alone: what was laid over them before has to be laid over them again. For ``comparison`` and
    ``fraction`` see `show_comparison`.

    Raises
    ------
    InputError
        If the warped volume is not in the scene anymore, or a volume holds no image.
    """
    warped = result.need("warped")
    for tag, volume in ((FIXED, fixed), (WARPED, warped), (DEFORMATION, warped)):
        slice_node(scene, tag)
        background(scene, tag, volume)
    slice_node(scene, COMPARISON)
    show_comparison(scene, result, fixed, comparison, fraction)
    fit(scene, fixed, result.get("fixed_segmentation"))
    offer(scene).SetViewArrangement(LAYOUT)


def offer(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLLayoutNode:
    """Let Slicer know the layout; saved scenes name it by number, so it has to be known before one is opened."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode") or scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    if layout.IsLayoutDescription(LAYOUT):
        layout.SetLayoutDescription(LAYOUT, description())
    else:
        layout.AddLayoutDescription(LAYOUT, description())
    return layout


def show_comparison(
    scene: slicer.vtkMRMLScene,
    result: SceneResult,
    fixed: slicer.vtkMRMLScalarVolumeNode,
    comparison: Comparison,
    fraction: float = 0.5,
) -> None:
    """Compare fixed and warped image in the comparison view.

    Parameters
    ----------
    fraction : float
        Of the warped image in a blend: 0 shows the fixed one, 1 the warped one.

    Raises
    ------
    InputError
        If the warped volume is not in the scene anymore, or a volume holds no image.
    """
    if comparison != "blend":
        background(scene, COMPARISON, getattr(compare, comparison)(result, fixed))
        return
    node = composite(scene, COMPARISON)
    node.SetBackgroundVolumeID(fixed.GetID())
    node.SetForegroundVolumeID(result.need("warped").GetID())
    node.SetForegroundOpacity(float(np.clip(fraction, 0, 1)))


def description() -> str:
    """The layout in Slicer's own XML."""
    views = [
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{color}</property>'
        f'<property name="viewgroup" action="default">{GROUP}</property>'
        "</view></item>"
        for tag, (label, color) in VIEWS.items()
    ]
    rows = [f'<item><layout type="horizontal">{"".join(views[i : i + 2])}</layout></item>' for i in (0, 2)]
    return f'<layout type="vertical">{"".join(rows)}</layout>'


def fit(
    scene: slicer.vtkMRMLScene,
    volume: slicer.vtkMRMLScalarVolumeNode,
    structures: slicer.vtkMRMLSegmentationNode | None = None,
) -> None:
    """Let the views hold the whole volume, cut through the middle of ``structures``, else of the volume."""
    box = _bounds(volume)
    middle = box.mean(1)
    target = middle
    if structures is not None and structures.GetSegmentation().GetNumberOfSegments() > 0:
        target = _bounds(structures).mean(1)
    corners = np.stack(np.meshgrid(*box, indexing="ij"), -1).reshape(-1, 3) - middle
    for tag in VIEWS:
        node = slice_node(scene, tag)
        matrix = volumes.to_numpy(node.GetSliceToRAS())
        axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        normal = axes[:, 2]
        matrix[:3, 3] = middle + normal * ((target - middle) @ normal)
        width, height, _ = node.GetDimensions()
        extent = MARGIN * np.ptp(corners @ axes, axis=0)
        pixel = max(extent[0] / width, extent[1] / height)
        spacing = np.array(volume.GetSpacing())
        directions = volumes.affine_of(volume)[:3, :3] / spacing * [[-1], [-1], [1]]
        step = spacing[np.abs(normal @ directions).argmax()]
        node.GetSliceToRAS().DeepCopy(volumes.to_vtk(matrix))
        node.SetFieldOfView(pixel * width, pixel * height, step)
        node.UpdateMatrices()


def background(scene: slicer.vtkMRMLScene, tag: str, volume: slicer.vtkMRMLVolumeNode | None) -> None:
    """Show one volume alone in a view."""
    node = composite(scene, tag)
    node.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
    node.SetForegroundVolumeID(None)
    node.SetLabelVolumeID(None)


def composite(scene: slicer.vtkMRMLScene, tag: str) -> slicer.vtkMRMLSliceCompositeNode:
    """What is shown in a view; made if the application has not yet."""
    node = scene.GetSingletonNode(tag, "vtkMRMLSliceCompositeNode")
    if node is None:
        node = _new(scene, "vtkMRMLSliceCompositeNode", tag)
    node.SetLinkedControl(True)
    node.SetHotLinkedControl(True)
    node.SetDoPropagateVolumeSelection(False)  # a volume that is loaded later leaves this view alone
    return node


def slice_node(scene: slicer.vtkMRMLScene, tag: str) -> slicer.vtkMRMLSliceNode:
    """Where a view cuts; made if the application has not yet."""
    node = scene.GetSingletonNode(tag, "vtkMRMLSliceNode")
    if node is None:
        node = _new(scene, "vtkMRMLSliceNode", tag)
        node.SetOrientation("Axial")
        label, color = VIEWS[tag]
        node.SetLayoutLabel(label)
        node.SetLayoutColor(*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        node.SetViewGroup(GROUP)
    return node


def _new(scene: slicer.vtkMRMLScene, kind: str, tag: str) -> slicer.vtkMRMLNode:
    """A singleton with the scene's defaults for its kind."""
    node = scene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(tag.replace("JointRegSeg", "JointRegSeg "))
    node.SetLayoutName(tag)
    node.SetSingletonTag(tag)
    return scene.AddNode(node)


def _bounds(node: slicer.vtkMRMLDisplayableNode) -> np.ndarray:
    """(3, 2) from and to along R, A and S, where the node is seen."""
    out = [0.0] * 6
    node.GetRASBounds(out)
    return np.reshape(out, (3, 2))
