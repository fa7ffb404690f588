"""A deformation to look at: as a grid, arrows or contours, and played from nothing to the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from . import check, layout, volumes
from .files import FIXED_REFERENCE, MOVING_REFERENCE
from .overlays import LEFT, legend
from .part import part_of
from .results import ROLE, SceneResult, adopt, discard, hidden

Mode = Literal["off", "grid", "glyphs", "contours"]
#: A part of the structures: the segmentation, and a segment of it.
Segment = tuple[slicer.vtkMRMLSegmentationNode, str]

_MODES = {
    "grid": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID,
    "glyphs": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GLYPH,
    "contours": slicer.vtkMRMLTransformDisplayNode.VIS_MODE_CONTOUR,
}
#: Shorter displacements (mm) get no arrow.
STILL = 0.1
#: The color scale ends at this percentile of the displacements, on a round figure.
LONGEST = 99.0
#: Parts of the color scale, from no displacement on; readable on gray and without seeing red and green apart.
SCALE = ((0.27, 0.45, 0.85), (0.2, 0.75, 0.75), (0.95, 0.9, 0.25), (0.98, 0.5, 0.1), (0.9, 0.1, 0.3))
CONTOURS = 8
#: Places of a deformation that are looked at for the color scale.
SAMPLES = 10_000


def deformation(
    scene: slicer.vtkMRMLScene,
    result: SceneResult,
    mode: Mode,
    spacing_mm: float = 5.0,
    segment: Segment | None = None,
) -> None:
    """Draw the deformation over the deformation view, with a color legend in mm.

    Parameters
    ----------
    spacing_mm : float
        Between lines of the grid, or arrows; contours are computed four times as finely.
    segment : (vtkMRMLSegmentationNode, str), optional
        Draw the deformation as if nothing but this segment of a segmentation in fixed space had moved: around it grid
        lines are straight, and there are no arrows and contours. A few mm along its border lead over.

    Raises
    ------
    InputError
        If the transform is not in the scene anymore, or the segment is empty.
    """
    shown = None
    if mode != "off":
        shown = part_of(result, *segment) if segment is not None else result.need("transform")
    for role in ("transform", "part"):
        node = result.get(role)
        if node is not None and node is not shown and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)
            legend(node, "", "", False)
    if shown is None:
        return
    shown.CreateDefaultDisplayNodes()
    display = shown.GetDisplayNode()
    longest = _longest(result.need("transform"))
    changing = display.StartModify()
    display.SetVisualizationMode(_MODES[mode])
    display.SetGridSpacingMm(spacing_mm)
    display.SetGridResolutionMm(spacing_mm / 4)
    display.SetGlyphSpacingMm(spacing_mm)
    display.SetGlyphDisplayRangeMinMm(STILL)
    display.SetGlyphDisplayRangeMaxMm(1e3)
    display.SetGlyphScalePercent(100)
    display.SetContourResolutionMm(spacing_mm / 4)
    levels = np.linspace(0, longest, CONTOURS + 1)[1:]
    display.SetContourLevelsMmFromString(" ".join(f"{level:.3g}" for level in levels))
    colors = f"{shown.GetAttribute(ROLE)}_colors"
    if result.get(colors) is None:
        display.SetColorMap(_colors(longest))
        adopt(result, colors, display.GetColorNode())
    display.SetScalarRange(0, longest)
    display.SetScalarVisibility(True)
    display.SetSliceIntersectionThickness(1)
    display.SetViewNodeIDs([layout.slice_node(scene, layout.DEFORMATION).GetID()])
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetVisibility3D(False)
    display.EndModify(changing)
    for own in (display, result.get(colors), legend(shown, "mm", "%.3g", True, LEFT)):
        own.SetSaveWithScene(shown.GetSaveWithScene())


def play(
    scene: slicer.vtkMRMLScene, result: SceneResult, moving: slicer.vtkMRMLScalarVolumeNode, percent: float
) -> None:
    """Show the moving volume in the warped view, brought as far as ``percent`` of the way onto the fixed one.

    Its voxels are shared and not resampled: a hidden volume under a hidden transform, which Slicer applies as it draws.

    Raises
    ------
    InputError
        If the transform is not in the scene anymore.
    """
    transform = result.need("transform")
    volume = hidden(scene, result, "vtkMRMLScalarVolumeNode", "played")
    way = hidden(scene, result, "vtkMRMLTransformNode", "playing")
    if volume.GetImageData() is not moving.GetImageData():
        volume.SetAndObserveImageData(moving.GetImageData())
    matrix = vtk.vtkMatrix4x4()
    moving.GetIJKToRASMatrix(matrix)
    volume.SetIJKToRASMatrix(matrix)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetSaveWithScene(False)
    like = result.get("warped") or moving
    if like.GetDisplayNode() is not None:
        volume.GetDisplayNode().CopyContent(like.GetDisplayNode())
    way.SetAndObserveTransformFromParent(_partly(transform, moving, percent / 100))
    volume.SetAndObserveTransformNodeID(way.GetID())
    if layout.composite(scene, layout.WARPED).GetBackgroundVolumeID() != volume.GetID():
        layout.background(scene, layout.WARPED, volume)


def stop(scene: slicer.vtkMRMLScene, result: SceneResult) -> None:
    """Show the warped volume again; nothing is left of the playing."""
    for role in ("played", "playing"):
        discard(result, role)
    layout.background(scene, layout.WARPED, result.get("warped"))


def _partly(
    transform: slicer.vtkMRMLTransformNode, moving: slicer.vtkMRMLVolumeNode, fraction: float
) -> vtk.vtkAbstractTransform:
    """From fixed points part of the way to moving ones, and on into the moving volume's own parents."""
    whole = volumes.grid_of(transform)
    part = slicer.vtkOrientedGridTransform()
    part.SetDisplacementGridData(whole.GetDisplacementGrid())
    part.SetGridDirectionMatrix(whole.GetGridDirectionMatrix())
    part.SetInterpolationMode(whole.GetInterpolationMode())
    part.SetDisplacementScale(float(np.clip(fraction, 0, 1)))
    out = vtk.vtkGeneralTransform()
    out.PostMultiply()
    out.Concatenate(part)
    parent = moving.GetParentTransformNode()
    if parent is not None:
        from_world = vtk.vtkGeneralTransform()
        parent.GetTransformFromWorld(from_world)
        out.Concatenate(from_world)
    return out


def _longest(transform: slicer.vtkMRMLTransformNode) -> float:
    """Where the color scale ends, in mm: what the body does, where the moving volume shows it."""
    grid = volumes.grid_of(transform)
    field = grid.GetDisplacementGrid()
    size = field.GetDimensions()
    index = np.stack([np.random.default_rng(0).integers(0, n, SAMPLES) for n in size], 1)
    vectors = vtk_to_numpy(field.GetPointData().GetScalars())[np.ravel_multi_index(index.T[::-1], size[::-1])]
    axes = volumes.to_numpy(grid.GetGridDirectionMatrix())[:3, :3] * field.GetSpacing()
    points = index @ axes.T + field.GetOrigin()
    counts = _shown(transform.GetNodeReference(MOVING_REFERENCE), points + vectors)
    counts &= _shown(transform.GetNodeReference(FIXED_REFERENCE), points, check.in_body)
    longest = float(np.percentile(np.linalg.norm(vectors[counts] if counts.any() else vectors, axis=1), LONGEST))
    if longest < STILL:
        return STILL
    unit = 10 ** np.floor(np.log10(longest))
    return float(np.ceil(longest / unit * 2) / 2 * unit)


def _shown(
    node: slicer.vtkMRMLVolumeNode | None, points: np.ndarray, which: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """(n,) Whether a volume shows something at points (n, 3) in RAS mm; True where there is no volume to ask.

    ``which`` chooses among the values there.
    """
    if node is None or node.GetImageData() is None:
        return np.ones(len(points), bool)
    values = volumes.values_of(node)
    index = np.rint(volumes.index_in(node, points * (-1, -1, 1)))
    out = volumes.within(index, values.shape[::-1])
    if which is not None and out.any():
        out[out] = which(values[tuple(index[out].astype(int).T[::-1])])
    return out


def _colors(longest: float) -> vtk.vtkColorTransferFunction:
    out = vtk.vtkColorTransferFunction()
    for i, color in enumerate(SCALE):
        out.AddRGBPoint(longest * i / (len(SCALE) - 1), *color)
    return out
