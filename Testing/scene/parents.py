"""Parent transforms of all kinds that bend, or shear."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.scene import volumes
from vtk.util.numpy_support import vtk_to_numpy


def waves(image: sitk.Image, height: float, length: float) -> sitk.Image:
    """A displacement field around an image: waves of a height and a length in mm along each axis, at every 3 mm."""
    last = np.array(image.GetSize()) - 1
    corners = np.array([image.TransformIndexToPhysicalPoint((i * last).tolist()) for i in np.ndindex(2, 2, 2)])
    low, high = corners.min(0) - 20, corners.max(0) + 20
    count = np.ceil((high - low) / 3).astype(int) + 1
    points = np.stack(np.meshgrid(*(low[a] + 3 * np.arange(count[a]) for a in (0, 1, 2)), indexing="ij"), -1)
    vectors = height * np.sin(2 * np.pi * points[..., [1, 2, 0]] / length + [0, 1, 2])
    field = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)), isVector=True)
    field.SetOrigin(low.tolist())
    field.SetSpacing([3.0] * 3)
    return field


def bending(scene: slicer.vtkMRMLScene, kind: str, image: sitk.Image) -> slicer.vtkMRMLTransformNode:
    """A smooth transform node around an image; ``kind`` is one of `KINDS`."""
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", kind)
    if kind == "shear":
        matrix = np.eye(4)
        matrix[0, 1] = 0.2
        node.SetMatrixTransformToParent(volumes.to_vtk(matrix))
    elif kind == "spline":
        field = waves(image, 2.0, 80.0)
        data = vtk.vtkImageData()
        spacing = 20.0
        size = np.ceil(np.array(field.GetSize()) * 3 / spacing).astype(int) + 5
        data.SetDimensions(*size.tolist())
        data.SetSpacing(*[spacing] * 3)
        low, high = np.array(field.GetOrigin()), np.array(field.GetOrigin()) + 3 * np.array(field.GetSize())
        data.SetOrigin(-high[0] - spacing, -high[1] - spacing, low[2] - spacing)
        data.AllocateScalars(vtk.VTK_DOUBLE, 3)
        vectors = np.random.default_rng(0).normal(0, 1.5, (size.prod(), 3))
        vtk_to_numpy(data.GetPointData().GetScalars())[:] = vectors
        spline = slicer.vtkOrientedBSplineTransform()
        spline.SetCoefficientData(data)
        node.SetAndObserveTransformFromParent(spline)
    elif kind == "points":
        rng = np.random.default_rng(0)
        splines = vtk.vtkThinPlateSplineTransform()
        splines.SetBasisToR()
        first, last = vtk.vtkPoints(), vtk.vtkPoints()
        size = np.array(image.GetSize())
        for index in rng.integers(0, size, (12, 3)).tolist():
            point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
            first.InsertNextPoint(*point)
            last.InsertNextPoint(*(point + rng.normal(0, 1.5, 3)))
        splines.SetSourceLandmarks(first)
        splines.SetTargetLandmarks(last)
        node.SetAndObserveTransformToParent(splines)
    else:
        grid = volumes.grid_transform(waves(image, 2.0, 80.0))
        if kind == "inverse":
            node.SetAndObserveTransformToParent(grid)
        else:
            node.SetAndObserveTransformFromParent(grid)
        if kind == "chain":
            outer = bending(scene, "shear", image)
            node.SetAndObserveTransformNodeID(outer.GetID())
    return node


KINDS = ("shear", "grid", "inverse", "spline", "points", "chain")
