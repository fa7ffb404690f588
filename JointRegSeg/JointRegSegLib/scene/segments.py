"""A segment as an image, where it is seen, however its segmentation is stored."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from . import sitk, volumes


def as_label_maps(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLSegmentationNode:
    """The node itself, or, of one that stores surfaces, a copy with all segments on one lattice.

    Raises
    ------
    InputError
        If a segment that is stored as a surface cannot be made a mask.
    """
    if node.GetSegmentation().ContainsRepresentation(_BINARY):
        return node
    copy = _copy(node)
    if not copy.CreateBinaryLabelmapRepresentation():
        raise InputError(f"'{node.GetName()}': cannot be made a label map; convert it in the module Segmentations")
    return copy


def mask_of(
    node: slicer.vtkMRMLSegmentationNode, identifier: str, stored: slicer.vtkMRMLSegmentationNode | None = None
) -> sitk.Image | None:
    """A segment as a mask of 0 and 1 on the lattice that it is stored on, parent transforms applied to a copy.

    Parameters
    ----------
    stored : vtkMRMLSegmentationNode, optional
        `as_label_maps` of the node, which takes long for surfaces: made once where several segments are read.

    Returns
    -------
    SimpleITK.Image or None
        None for a segment that is empty.

    Raises
    ------
    InputError
        As `as_label_maps`.
    """
    mask = slicer.vtkOrientedImageData()
    stored = stored or as_label_maps(node)
    if not stored.GetBinaryLabelmapRepresentation(identifier, mask) or mask.IsEmpty():
        return None
    if node.GetParentTransformNode() is not None:
        slicer.vtkSlicerSegmentationsModuleLogic.ApplyParentTransformToOrientedImageData(node, mask)
    here = vtk.vtkMatrix4x4()
    mask.GetImageToWorldMatrix(here)
    extent = mask.GetExtent()
    affine = volumes.FLIP @ volumes.to_numpy(here)
    affine[:3, 3] += affine[:3, :3] @ extent[::2]
    shape = [extent[2 * a + 1] - extent[2 * a] + 1 for a in (2, 1, 0)]
    values = (vtk_to_numpy(mask.GetPointData().GetScalars()).reshape(shape) > 0).astype(np.uint8)
    return volumes.to_image(values, affine) if values.any() else None


def _copy(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLSegmentationNode:
    """Outside the scene and without transforms, to be converted: the user's own node stays as it is."""
    here, there = node.GetSegmentation(), slicer.vtkMRMLSegmentationNode()
    stored = here.GetSourceRepresentationName()
    there.GetSegmentation().SetSourceRepresentationName(stored)
    there.GetSegmentation().CopyConversionParameters(here)
    for i in range(here.GetNumberOfSegments()):
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(here.GetNthSegment(i))
        segment.AddRepresentation(stored, here.GetNthSegment(i).GetRepresentation(stored))
        there.GetSegmentation().AddSegment(segment, here.GetNthSegmentID(i))
    return there


_BINARY = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def layers(masks: dict[str, sitk.Image]) -> list[tuple[sitk.Image, list[str]]]:
    """As few label maps as masks allow, which overlap or lie on different lattices; touches no node.

    Returns
    -------
    list
        Label maps with the identifiers of their values 1, 2, …
    """
    frames: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []  # first voxel by identifier
    for identifier, mask in masks.items():
        affine = volumes.image_affine(mask)
        for frame, begins in frames:
            begin = _begin_in(frame, affine)
            if begin is not None:
                begins[identifier] = begin
                break
        else:
            frames.append((affine, {identifier: np.zeros(3, int)}))
    return [layer for frame, begins in frames for layer in _stacked(masks, frame, begins)]


def _begin_in(frame: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
    """The first voxel of a lattice counted in another one; None unless they differ by whole voxels."""
    begin = volumes.placed(np.linalg.inv(frame), affine[:3, 3])
    whole = np.rint(begin).astype(int)
    same = np.allclose(frame[:3, :3], affine[:3, :3], atol=1e-6) and np.allclose(begin, whole, atol=1e-3)
    return whole if same else None


def _stacked(
    masks: dict[str, sitk.Image], frame: np.ndarray, begins: dict[str, np.ndarray]
) -> list[tuple[sitk.Image, list[str]]]:
    """Label maps of masks on one lattice, each mask in the first one where it has room."""
    low = np.min(list(begins.values()), 0)
    high = np.max([begin + masks[identifier].GetSize() for identifier, begin in begins.items()], 0)
    made: list[tuple[np.ndarray, list[str]]] = []
    for identifier, begin in begins.items():
        inside = sitk.GetArrayViewFromImage(masks[identifier]) > 0
        box = tuple(slice(a, a + n) for a, n in zip((begin - low)[::-1], inside.shape, strict=True))
        layer = next((layer for layer in made if not layer[0][box][inside].any()), None)
        if layer is None:
            layer = np.zeros((high - low)[::-1], np.uint16), []
            made.append(layer)
        values, names = layer
        names.append(identifier)
        values[box][inside] = len(names)
    affine = frame.copy()
    affine[:3, 3] = volumes.placed(frame, low)
    return [(volumes.to_image(values, affine), names) for values, names in made]


def cut_out(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest box (k, j, i) of 0 and 1 around what is inside, and its first voxel (i, j, k)."""
    edges = [np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(edges[0]):
        return np.zeros((1, 1, 1), np.uint8), np.zeros(3, int)
    box = tuple(slice(edge[0], edge[-1] + 1) for edge in edges)
    return inside[box].astype(np.uint8), np.array([edge[0] for edge in edges[::-1]])
