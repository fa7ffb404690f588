"""A segment as an image, where it is seen, however its segmentation is stored."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from . import sitk, volumes


def mask_of(node: slicer.vtkMRMLSegmentationNode, identifier: str) -> sitk.Image | None:
    """A segment as a mask of 0 and 1 on the lattice that it is stored on, parent transforms applied to a copy.

    Returns
    -------
    SimpleITK.Image or None
        None for a segment that is empty.

    Raises
    ------
    InputError
        If a segment that is stored as a surface cannot be made a mask.
    """
    mask = slicer.vtkOrientedImageData()
    source = node
    if not node.GetSegmentation().ContainsRepresentation(_BINARY):
        source = _copy(node)
        if not source.CreateBinaryLabelmapRepresentation():
            raise InputError(f"'{node.GetName()}': cannot be made a label map; convert it in the module Segmentations")
    if not source.GetBinaryLabelmapRepresentation(identifier, mask) or mask.IsEmpty():
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
