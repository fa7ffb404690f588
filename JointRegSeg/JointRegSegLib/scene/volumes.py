"""Volume nodes as images, and images as volume nodes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from ..errors import InputError

#: LPS from RAS and back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
#: A smaller spacing (mm) is a mistake.
SMALLEST_SPACING = 1e-4
#: Share of its volume that a linear transform leaves to a flattened image.
FLATTENED = 1e-6
#: How far the product of direction cosines may be from the identity.
ORTHONORMAL = 1e-3


def to_numpy(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) array of a VTK matrix."""
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """A VTK matrix of a (4, 4) array."""
    out = vtk.vtkMatrix4x4()
    for i in range(4):
        for j in range(4):
            out.SetElement(i, j, float(matrix[i, j]))
    return out


def affine_of(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Voxel index (i, j, k) → LPS mm of a volume node by itself, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return FLIP @ to_numpy(matrix)


def values_of(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Voxels (k, j, i) of a volume node; a view into its memory."""
    data = node.GetImageData()
    scalars = vtk_to_numpy(data.GetPointData().GetScalars())
    return scalars.reshape(*reversed(data.GetDimensions()), *scalars.shape[1:])


def image_of(node: slicer.vtkMRMLVolumeNode | None, role: str) -> sitk.Image:
    """A volume node as an image where it is *seen*: see `voxels_of`."""
    return to_image(*voxels_of(node, role))


def voxels_of(node: slicer.vtkMRMLVolumeNode | None, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (k, j, i) and voxel → LPS matrix of a volume node where it is *seen*: transforms act on a copy.

    Linear transforms that keep axes at right angles only move the lattice, and the voxels are a view into the node's
    memory; others resample.

    Parameters
    ----------
    role : str
        What an error calls the node, such as 'fixed volume'.

    Raises
    ------
    InputError
        If there is no image, it is no scalar volume, or its axes are not at right angles.
    """
    if node is None:
        raise InputError(f"no {role} is chosen")
    if not (hasattr(node, "IsA") and node.IsA("vtkMRMLVolumeNode")):
        raise InputError(f"the {role} is no volume node but {type(node).__name__}; choose a scalar volume")
    name = f"{role} '{node.GetName()}'"
    if node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0:
        raise InputError(f"{name}: holds no image; load one into it, or choose another volume")
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        count = node.GetImageData().GetNumberOfScalarComponents()
        raise InputError(f"{name}: has {count} values a voxel (color or vector volume); choose a scalar volume")
    affine, values = affine_of(node), values_of(node)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if flattens(parent):
            raise InputError(f"{name}: its transform '{parent.GetName()}' flattens it; correct or remove that")
        moved = _moved(affine, parent)
        if moved is not None:
            affine = moved
        else:
            hardened = _hardened(node, parent)
            affine, values = affine_of(hardened), values_of(hardened)
    if not right_angled(affine):
        raise InputError(
            f"{name}: its axes are not at right angles (gantry tilt, or a sheared acquisition), or its spacing is next "
            "to nothing; bring it to a regular lattice first, with the module Resample Scalar/Vector/DWI Volume or, "
            "after DICOM import, Acquisition Transform"
        )
    return values, affine


def right_angled(affine: np.ndarray) -> bool:
    """Whether the axes of a voxel → world matrix stand at right angles."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() < SMALLEST_SPACING:
        return False
    direction = affine[:3, :3] / spacing
    return bool(np.allclose(direction.T @ direction, np.eye(3), atol=ORTHONORMAL))


def flattens(transform: slicer.vtkMRMLTransformNode) -> bool:
    """Whether a transform node is linear and leaves nothing of a volume."""
    if not transform.IsTransformToWorldLinear():
        return False
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return abs(matrix.Determinant()) < FLATTENED


def _moved(affine: np.ndarray, parent: slicer.vtkMRMLTransformNode) -> np.ndarray | None:
    """The lattice under a linear transform that keeps its axes at right angles; else None."""
    if not parent.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    moved = FLIP @ to_numpy(matrix) @ FLIP @ affine
    return moved if right_angled(moved) else None


def _hardened(node: slicer.vtkMRMLVolumeNode, parent: slicer.vtkMRMLTransformNode) -> slicer.vtkMRMLScalarVolumeNode:
    """A copy outside the scene, resampled to where the node is seen."""
    copy = slicer.vtkMRMLLabelMapVolumeNode() if is_label_map(node) else slicer.vtkMRMLScalarVolumeNode()
    copy.SetAndObserveImageData(node.GetImageData())
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    copy.SetIJKToRASMatrix(matrix)
    to_world = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(to_world)
    copy.ApplyNonLinearTransform(to_world)
    return copy


def is_label_map(node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether voxels are labels, which must not be mixed."""
    return node.IsA("vtkMRMLLabelMapVolumeNode")


def to_image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An image of voxels (k, j, i) with a voxel → LPS matrix; voxels are copied."""
    image = sitk.GetImageFromArray(values)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def image_affine(image: sitk.Image) -> np.ndarray:
    """Voxel index (i, j, k) → LPS mm of an image."""
    out = np.eye(4)
    out[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    out[:3, 3] = image.GetOrigin()
    return out


def fill(node: slicer.vtkMRMLVolumeNode, image: sitk.Image) -> None:
    """Put an image's voxels and lattice into a volume node of this module's own."""
    array = sitk.GetArrayViewFromImage(image)
    data = vtk.vtkImageData()
    data.SetDimensions(*image.GetSize())
    data.AllocateScalars(get_vtk_array_type(array.dtype), 1)
    vtk_to_numpy(data.GetPointData().GetScalars())[:] = array.ravel()
    node.SetAndObserveImageData(data)
    node.SetIJKToRASMatrix(to_vtk(FLIP @ image_affine(image)))


def grid_transform(displacement: sitk.Image) -> slicer.vtkOrientedGridTransform:
    """A displacement image (LPS mm, from fixed points to moving ones) as Slicer's grid transform."""
    vectors = sitk.GetArrayFromImage(displacement).reshape(-1, 3) * (-1, -1, 1)
    affine = FLIP @ image_affine(displacement)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    data = vtk.vtkImageData()
    data.SetDimensions(*displacement.GetSize())
    data.SetSpacing(*spacing)
    data.SetOrigin(*affine[:3, 3])
    scalars = numpy_to_vtk(np.ascontiguousarray(vectors, np.float64), deep=True)
    data.GetPointData().SetScalars(scalars)
    direction = np.eye(4)
    direction[:3, :3] = affine[:3, :3] / spacing
    grid = slicer.vtkOrientedGridTransform()
    grid.SetDisplacementGridData(data)
    grid.SetGridDirectionMatrix(to_vtk(direction))
    grid.SetInterpolationModeToLinear()
    return grid
