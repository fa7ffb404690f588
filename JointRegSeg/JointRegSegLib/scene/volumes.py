"""Volume nodes as images, and images as volume nodes."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from ..errors import InputError
from . import sitk

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
    """Voxel index (i, j, k), from zero, → LPS mm of a volume node by itself, without its parent transform.

    VTK counts voxels from the begin of the image's extent, which a cropped image has anywhere.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    out = FLIP @ to_numpy(matrix)
    if node.GetImageData() is not None:
        out[:3, 3] += out[:3, :3] @ node.GetImageData().GetExtent()[::2]
    return out


def values_of(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Voxels (k, j, i) of a volume node; a view into its memory."""
    data = node.GetImageData()
    scalars = vtk_to_numpy(data.GetPointData().GetScalars())
    return scalars.reshape(*reversed(data.GetDimensions()), *scalars.shape[1:])


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


def matrix_of(transform: slicer.vtkMRMLTransformNode) -> np.ndarray | None:
    """(4, 4) LPS mm from a transform node's inside to the world; None if it is not linear."""
    if not transform.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return FLIP @ to_numpy(matrix) @ FLIP


def placed(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) through a (4, 4) matrix."""
    return points @ affine[:3, :3].T + affine[:3, 3]


def through(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in LPS mm through a transform of Slicer's, which is in RAS."""
    here, there = vtk.vtkPoints(), vtk.vtkPoints()
    there.SetDataTypeToDouble()
    ras = np.ascontiguousarray(points @ FLIP[:3, :3])
    here.SetData(numpy_to_vtk(ras))
    transform.TransformPoints(here, there)
    return vtk_to_numpy(there.GetData()) @ FLIP[:3, :3]


def index_in(node: slicer.vtkMRMLVolumeNode, points: np.ndarray) -> np.ndarray:
    """Voxel index (i, j, k), with fractions, at which a volume node shows points (n, 3) in LPS mm of the world."""
    parent = node.GetParentTransformNode()
    if parent is not None:
        from_world = vtk.vtkGeneralTransform()
        parent.GetTransformFromWorld(from_world)
        points = through(from_world, points)
    return placed(np.linalg.inv(affine_of(node)), points)


def within(index: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(n,) Whether indices (n, 3) lie between the voxels of an image of ``size`` (i, j, k)."""
    return ((index >= 0) & (index <= np.array(size) - 1)).all(1)


def extremes(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 if there is none."""
    if np.issubdtype(values.dtype, np.integer):
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 0.0
    return float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))


def is_label_map(node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether voxels are labels, which must not be mixed."""
    return node.IsA("vtkMRMLLabelMapVolumeNode")


def to_image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An image of voxels (k, j, i) with a voxel → LPS matrix; voxels are copied."""
    image = sitk.GetImageFromArray(values, isVector=values.ndim == 4)
    set_lattice(image, affine)
    return image


def set_lattice(image: sitk.Image, affine: np.ndarray) -> None:
    """Give an image a voxel → LPS matrix."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())


def image_affine(image: sitk.Image) -> np.ndarray:
    """Voxel index (i, j, k) → LPS mm of an image."""
    out = np.eye(4)
    out[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    out[:3, 3] = image.GetOrigin()
    return out


def fill(node: slicer.vtkMRMLVolumeNode, image: sitk.Image) -> None:
    """Put an image's voxels and lattice into a volume node of this module's own."""
    fill_values(node, sitk.GetArrayViewFromImage(image), image_affine(image))


def fill_values(node: slicer.vtkMRMLVolumeNode, values: np.ndarray, affine: np.ndarray) -> None:
    """Put voxels (k, j, i) with a voxel → LPS matrix into a volume node of this module's own."""
    data = vtk.vtkImageData()
    data.SetDimensions(*values.shape[::-1])
    data.AllocateScalars(get_vtk_array_type(values.dtype), 1)
    vtk_to_numpy(data.GetPointData().GetScalars())[:] = values.ravel()
    node.SetAndObserveImageData(data)
    node.SetIJKToRASMatrix(to_vtk(FLIP @ affine))


def fingerprint(node: slicer.vtkMRMLVolumeNode) -> str:
    """Another one, as good as always, for a volume of other voxels or that is seen elsewhere; looks at a thousand."""
    if node.GetImageData() is None:
        return ""
    voxels = values_of(node).reshape(-1)
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    looked = np.ascontiguousarray(voxels[:: max(len(voxels) // 1000, 1)]).tobytes()
    return f"{zlib.crc32(np.round(bounds, 2).tobytes(), zlib.crc32(looked)):08x}"


def itk_transform(node: slicer.vtkMRMLTransformNode) -> Callable[[], sitk.Transform]:
    """Makes, in any thread, what a transform node does from parent: from fixed to moving points, LPS mm.

    Raises
    ------
    InputError
        If it is made of anything but matrices and displacement grids, or under another transform.
    """
    name = f"transform '{node.GetName()}'"
    if node.GetParentTransformNode() is not None:
        raise InputError(f"{name}: is under another transform; harden or remove that")
    steps = _steps(node.GetTransformFromParent(), name)
    # VTK names first what acts first, ITK last.
    return lambda: sitk.CompositeTransform(
        [make() for make in reversed(steps)] or [sitk.Transform(3, sitk.sitkIdentity)]
    )


def _steps(transform: vtk.vtkAbstractTransform, name: str) -> list[Callable[[], sitk.Transform]]:
    """Of a transform in RAS mm, makers of what acts one after the other in LPS mm."""
    transform.Update()  # before which an inverse does not know that it is one
    if isinstance(transform, vtk.vtkGeneralTransform):
        parts = [transform.GetConcatenatedTransform(i) for i in range(transform.GetNumberOfConcatenatedTransforms())]
        return [step for part in parts for step in _steps(part, name)]
    return [_step(transform, name)]


def grid_of(node: slicer.vtkMRMLTransformNode) -> slicer.vtkOrientedGridTransform:
    """The displacements of a result's transform node, from parent.

    Raises
    ------
    InputError
        If it was inverted, hardened into another kind, or put under another transform.
    """
    name = f"transform '{node.GetName()}'"
    if node.GetParentTransformNode() is not None:
        raise InputError(f"{name}: is under another transform; harden or remove that")
    transform = node.GetTransformFromParent()
    transform.Update()  # before which an inverse does not know that it is one
    return _forward(transform, name)


def _forward(transform: vtk.vtkAbstractTransform, name: str) -> slicer.vtkOrientedGridTransform:
    forward = isinstance(transform, slicer.vtkOrientedGridTransform) and not transform.GetInverseFlag()
    if not forward or transform.GetDisplacementGrid() is None:
        raise InputError(f"{name}: is no displacement grid from parent; convert it in the module Transforms")
    return transform


def _step(transform: vtk.vtkAbstractTransform, name: str) -> Callable[[], sitk.Transform]:
    if isinstance(transform, vtk.vtkLinearTransform):
        lps = FLIP @ to_numpy(transform.GetMatrix()) @ FLIP
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(lps[:3, :3].ravel().tolist())
        affine.SetTranslation(lps[:3, 3].tolist())
        return lambda: affine
    grid = _forward(transform, name)
    data = grid.GetDisplacementGrid()
    vectors = vtk_to_numpy(data.GetPointData().GetScalars()).reshape(*reversed(data.GetDimensions()), 3)
    scale = np.array([-1.0, -1.0, 1.0]) * grid.GetDisplacementScale()
    affine = np.eye(4)
    affine[:3, :3] = to_numpy(grid.GetGridDirectionMatrix())[:3, :3] * data.GetSpacing()
    affine[:3, 3] = data.GetOrigin()

    def make() -> sitk.Transform:
        return sitk.DisplacementFieldTransform(to_image(vectors * scale, FLIP @ affine))

    return make


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
