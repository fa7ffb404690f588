"""A deformation of which only one segment takes part.

MRML can limit what it draws to a box, not to a segment. So a hidden transform holds the deformation within the segment
and nothing elsewhere. It is made of the map that points follow, from moving to fixed space: this is the one that is
drawn, and where it stops at a border it cannot be inverted.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import InputError
from . import sitk, volumes
from .results import SceneResult, hidden
from .segments import mask_of

#: Over how many mm around the segment the deformation fades out.
FADE = 3.0
#: Attribute of the transform: what it was made of, and when that had last changed.
MADE_OF = "JointRegSeg.MadeOf"


def part_of(
    result: SceneResult, segmentation: slicer.vtkMRMLSegmentationNode, identifier: str
) -> slicer.vtkMRMLTransformNode:
    """The result's hidden transform, of role 'part', which moves no more than a segment in fixed space.

    Raises
    ------
    InputError
        If the inverse transform is not in the scene anymore, or the segment is empty.
    """
    grid = volumes.grid_of(result.need("inverse"))
    field = grid.GetDisplacementGrid()
    state = _state(field, segmentation, identifier)
    made = result.get("part")
    if made is not None and made.GetAttribute(MADE_OF) == state:
        return made
    vectors = vtk_to_numpy(field.GetPointData().GetScalars())
    points = _points(grid) + vectors
    share = _share(segmentation, identifier, points)
    limited = vtk.vtkImageData()
    limited.CopyStructure(field)
    limited.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(vectors * share[:, None]), deep=True))
    part = slicer.vtkOrientedGridTransform()
    part.SetDisplacementGridData(limited)
    part.SetGridDirectionMatrix(grid.GetGridDirectionMatrix())
    part.SetInterpolationModeToLinear()
    node = hidden(result.need("inverse").GetScene(), result, "vtkMRMLGridTransformNode", "part")
    node.SetAndObserveTransformToParent(part)
    node.SetAttribute(MADE_OF, state)
    return node


def _state(field: vtk.vtkImageData, segmentation: slicer.vtkMRMLSegmentationNode, identifier: str) -> str:
    """By which it is seen that a part need not be made again."""
    parent = segmentation.GetParentTransformNode()
    changed = [field.GetMTime(), segmentation.GetSegmentation().GetMTime()]
    changed += [parent.GetTransformToWorldMTime()] if parent is not None else []
    segment = segmentation.GetSegmentation().GetSegment(identifier)
    stored = segmentation.GetSegmentation().GetSourceRepresentationName()
    content = segment.GetRepresentation(stored) if segment is not None else None
    changed += [content.GetMTime()] if content is not None else []
    return " ".join(map(str, (segmentation.GetID(), identifier, *changed)))


def _points(grid: slicer.vtkOrientedGridTransform) -> np.ndarray:
    """(n, 3) RAS mm of a field's lattice, in the order of its vectors."""
    field = grid.GetDisplacementGrid()
    i, j, k = (np.arange(n) for n in field.GetDimensions())
    index = np.stack(np.meshgrid(k, j, i, indexing="ij"), -1).reshape(-1, 3)[:, ::-1]
    axes = volumes.to_numpy(grid.GetGridDirectionMatrix())[:3, :3] * field.GetSpacing()
    return index @ axes.T + field.GetOrigin()


def _share(segmentation: slicer.vtkMRMLSegmentationNode, identifier: str, points: np.ndarray) -> np.ndarray:
    """(n,) 1 in the segment, 0 farther than `FADE` from it, at RAS points (n, 3)."""
    segment = segmentation.GetSegmentation().GetSegment(identifier)
    mask = mask_of(segmentation, identifier) if segment is not None else None
    if mask is None:
        raise InputError(f"'{segmentation.GetName()}': has nothing in the chosen segment; choose another one")
    inside = sitk.GetArrayFromImage(mask)
    affine = volumes.FLIP @ volumes.image_affine(mask)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    border = np.ceil(FADE / spacing).astype(int) + 1  # a segment's own image may end where it does
    inside = np.pad(inside, [(int(n), int(n)) for n in border[::-1]])
    affine[:3, 3] -= affine[:3, :3] @ border
    image = volumes.to_image(inside, affine)  # RAS all along: neither the distance nor the sampling minds
    far = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))
    index = np.rint((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    within = ((index >= 0) & (index < far.shape[::-1])).all(1)
    share = np.zeros(len(points))
    i, j, k = index[within].T
    share[within] = np.clip(1 - far[k, j, i] / FADE, 0, 1)
    return share
