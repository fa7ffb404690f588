"""Anything in the scene, carried from the moving volume's space to the fixed one's, or back."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from . import segments, sitk, volumes
from .results import FIXED_REFERENCE, SceneResult
from .seen import image_of

#: Points, models and segmentations: whatever Slicer can push through a transform.
_POINTWISE = ("vtkMRMLMarkupsNode", "vtkMRMLModelNode")


def carry(
    scene: slicer.vtkMRMLScene,
    node: slicer.vtkMRMLNode,
    result: SceneResult,
    backward: bool = False,
) -> slicer.vtkMRMLNode:
    """A copy of ``node`` where it lies on the other side; the node itself stays.

    Parameters
    ----------
    node : volume, segmentation, markups or model node
        In the space of the moving volume, or with ``backward`` of the fixed one; seen under its own parent transform.
    result : SceneResult
        Whose transforms are used: images go by the one that leads where they come from, points by the other.
    backward : bool
        Carry from fixed to moving space.

    Raises
    ------
    InputError
        If such a node cannot be carried, or the transform that it takes was not made or was removed.
    """
    images, points = ("inverse", "transform") if backward else ("transform", "inverse")
    name = scene.GenerateUniqueName(f"{node.GetName()} carried")
    if any(node.IsA(kind) for kind in _POINTWISE):
        return _points(scene, node, result.need(points), name)
    if node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode"):
        transform = result.need(images)
        reference = transform.GetNodeReference(FIXED_REFERENCE)
        if reference is None:
            side = "moving" if backward else "fixed"
            raise InputError(f"the {side} volume, whose lattice is needed, is not in the scene any more; load it again")
        carry_image = _volume if node.IsA("vtkMRMLVolumeNode") else _segmentation
        return carry_image(scene, node, transform, reference, name)
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
    image = image_of(node, "volume")
    target = image_of(reference, "reference volume")
    outside = 0.0 if labels else volumes.extremes(sitk.GetArrayViewFromImage(image))[0]
    carried = volumes.resampled(image, target, _to_fixed(transform), labels, outside)
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
    target = image_of(reference, "reference volume")
    matrix = volumes.to_vtk(volumes.FLIP @ volumes.image_affine(target))
    to_moving = _to_fixed(transform)
    out = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    out.CreateDefaultDisplayNodes()
    out.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    source = node.GetSegmentation()
    for i in range(source.GetNumberOfSegments()):
        identifier, segment = source.GetNthSegmentID(i), source.GetNthSegment(i)
        mask = segments.mask_of(node, identifier)
        if mask is None:
            continue
        carried = sitk.GetArrayFromImage(sitk.Resample(mask, target, to_moving, sitk.sitkNearestNeighbor, 0.0))
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
