"""Anything in the scene, carried from the moving volume's space to the fixed one's, or back."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from . import volumes
from .results import FIXED_REFERENCE

#: Points, models and segmentations: whatever Slicer can push through a transform.
_POINTWISE = ("vtkMRMLMarkupsNode", "vtkMRMLModelNode")


def carry(
    scene: slicer.vtkMRMLScene,
    node: slicer.vtkMRMLNode,
    transform: slicer.vtkMRMLTransformNode,
    inverse: slicer.vtkMRMLTransformNode,
) -> slicer.vtkMRMLNode:
    """A copy of ``node`` where it lies on the other side; the node itself stays.

    Parameters
    ----------
    node : volume, segmentation, markups or model node
        In the space that ``transform`` brings to the other one; seen under its own parent transform.
    transform, inverse : vtkMRMLTransformNode
        From a result: ('transform', 'inverse') carry from moving to fixed, ('inverse', 'transform') back.

    Raises
    ------
    InputError
        If such a node cannot be carried.
    """
    reference = transform.GetNodeReference(FIXED_REFERENCE)
    name = scene.GenerateUniqueName(f"{node.GetName()} carried")
    if node.IsA("vtkMRMLVolumeNode"):
        return _volume(scene, node, transform, reference, name)
    if node.IsA("vtkMRMLSegmentationNode"):
        return _segmentation(scene, node, transform, reference, name)
    if any(node.IsA(kind) for kind in _POINTWISE):
        return _points(scene, node, inverse, name)
    raise InputError(f"'{node.GetName()}' cannot be carried over; choose a volume, segmentation, markups or a model")


def _to_fixed(transform: slicer.vtkMRMLTransformNode) -> sitk.Transform:
    """A node's map from its fixed to its moving points for SimpleITK, by way of the field on its lattice."""
    grid = transform.GetTransformFromParent()
    field = grid.GetDisplacementGrid()
    size = field.GetDimensions()
    vectors = vtk_to_numpy(field.GetPointData().GetScalars()).reshape(*reversed(size), 3) * (-1, -1, 1)
    affine = np.diag([*field.GetSpacing(), 1.0])
    affine = volumes.to_numpy(grid.GetGridDirectionMatrix()) @ affine
    affine[:3, 3] = field.GetOrigin()
    image = volumes.to_image(np.ascontiguousarray(vectors, np.float64), volumes.FLIP @ affine)
    return sitk.DisplacementFieldTransform(image)


def _volume(
    scene: slicer.vtkMRMLScene,
    node: slicer.vtkMRMLVolumeNode,
    transform: slicer.vtkMRMLTransformNode,
    reference: slicer.vtkMRMLVolumeNode,
    name: str,
) -> slicer.vtkMRMLVolumeNode:
    labels = volumes.is_label_map(node)
    image = volumes.image_of(node, "volume")
    target = volumes.image_of(reference, "reference volume")
    outside = 0.0 if labels else float(sitk.GetArrayViewFromImage(image).min())
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    carried = sitk.Resample(image, target, _to_fixed(transform), how, outside)
    out = scene.AddNewNodeByClass(node.GetClassName() if labels else "vtkMRMLScalarVolumeNode", name)
    volumes.fill(out, carried)
    out.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        out.GetDisplayNode().CopyContent(node.GetDisplayNode())
    return out


def _segmentation(
    scene: slicer.vtkMRMLScene,
    node: slicer.vtkMRMLSegmentationNode,
    transform: slicer.vtkMRMLTransformNode,
    reference: slicer.vtkMRMLVolumeNode,
    name: str,
) -> slicer.vtkMRMLSegmentationNode:
    """Segment by segment on the reference's lattice, so that overlapping segments stay whole."""
    target = volumes.image_of(reference, "reference volume")
    matrix = volumes.to_vtk(volumes.FLIP @ volumes.image_affine(target))
    to_moving = _to_fixed(transform)
    out = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    out.CreateDefaultDisplayNodes()
    out.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    source = node.GetSegmentation()
    for i in range(source.GetNumberOfSegments()):
        identifier, segment = source.GetNthSegmentID(i), source.GetNthSegment(i)
        mask = slicer.vtkOrientedImageData()
        if not node.GetBinaryLabelmapRepresentation(identifier, mask) or mask.IsEmpty():
            continue
        here = vtk.vtkMatrix4x4()
        mask.GetImageToWorldMatrix(here)
        extent = mask.GetExtent()
        affine = volumes.FLIP @ volumes.to_numpy(here)
        affine[:3, 3] += affine[:3, :3] @ [extent[0], extent[2], extent[4]]
        shape = [extent[2 * a + 1] - extent[2 * a] + 1 for a in (2, 1, 0)]
        values = (vtk_to_numpy(mask.GetPointData().GetScalars()).reshape(shape) > 0).astype(np.uint8)
        image = volumes.to_image(values, affine)
        carried = sitk.GetArrayFromImage(sitk.Resample(image, target, to_moving, sitk.sitkNearestNeighbor, 0.0))
        data = slicer.vtkOrientedImageData()
        data.SetDimensions(*target.GetSize())
        data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk_to_numpy(data.GetPointData().GetScalars())[:] = carried.ravel()
        data.SetImageToWorldMatrix(matrix)
        copy = slicer.vtkSegment()
        copy.DeepCopyMetadata(segment)
        copy.SetLabelValue(1)
        copy.AddRepresentation(out.GetSegmentation().GetSourceRepresentationName(), data)
        out.GetSegmentation().AddSegment(copy, identifier)
    return out


def _points(
    scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode, inverse: slicer.vtkMRMLTransformNode, name: str
) -> slicer.vtkMRMLNode:
    """Points go the opposite way of images, by the map that was computed for them."""
    out = scene.AddNewNodeByClass(node.GetClassName(), name)
    out.CopyContent(node)
    out.SetName(name)
    out.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        out.GetDisplayNode().CopyContent(node.GetDisplayNode())
    way = vtk.vtkGeneralTransform()
    way.PostMultiply()
    if node.GetParentTransformNode() is not None:
        to_world = vtk.vtkGeneralTransform()
        node.GetParentTransformNode().GetTransformToWorld(to_world)
        way.Concatenate(to_world)
    way.Concatenate(inverse.GetTransformFromParent())
    out.ApplyTransform(way)
    return out
