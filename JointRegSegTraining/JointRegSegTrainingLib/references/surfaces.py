"""Closed triangle surfaces of the structures of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from JointRegSegLib.errors import InputError
from scipy import ndimage


@dataclass(frozen=True)
class Surface:
    """Points (n, 3) float64, along D, H, W in mm from the middle of the first voxel, and triangles (m, 3) of them.

    Seen from outside, the points of a triangle follow each other all in the same sense.
    """

    points: np.ndarray
    triangles: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """(m,) area of each triangle in mm²."""
        a, b, c = self.points[self.triangles].swapaxes(0, 1)
        return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2

    @property
    def volume(self) -> float:
        """Enclosed volume in mm³, negative if the triangles are seen the other way around."""
        a, b, c = self.points[self.triangles].swapaxes(0, 1)
        return float((a * np.cross(b, c)).sum() / 6)


def surfaces_of(
    labels: np.ndarray, structures: Sequence[Sequence[int]], spacing: Sequence[float], edge: float, name: str = "labels"
) -> list[Surface]:
    """Surface of each structure, a union of labels.

    Raises
    ------
    InputError
        If ``name`` lacks a structure, or has too little of it.
    """
    masks = (np.isin(labels, list(values)) for values in structures)
    return [
        surface(mask, spacing, edge, f"{name}, labels {list(values)}")
        for mask, values in zip(masks, structures, strict=True)
    ]


def surface(mask: np.ndarray, spacing: Sequence[float], edge: float, name: str = "mask") -> Surface:
    """Surface of a structure (D, H, W), of triangles with edges of about ``edge`` mm.

    It is the zero level of the signed distance, so that between thick slices a contour changes gradually. The distance
    is contoured on a lattice of ``edge`` mm, which makes the triangles of even size, and the points are then moved onto
    its exact zero.

    Parameters
    ----------
    spacing : sequence of float
        Of D, H, W in mm.

    Raises
    ------
    InputError
        If ``name`` has too few voxels for triangles of this size.
    """
    spacing = np.asarray(spacing, float)
    distance, start = _signed_distance(mask, spacing, 2 * edge)
    coarse = (np.array(distance.shape) - 1) * spacing // edge
    lattice = np.stack(np.meshgrid(*[edge * np.arange(n + 1) for n in coarse], indexing="ij"))
    points, triangles = _contour(_read(distance, lattice, spacing), edge)
    if not len(triangles):
        raise InputError(
            f"{name}: is not there, or too small for triangles of {edge:g} mm; leave it out of references.structures, "
            "or lower references.edge"
        )
    found = Surface(_onto(points, distance, spacing) + start, triangles)
    return found if found.volume > 0 else Surface(found.points, triangles[:, ::-1])


def onto(points: np.ndarray, mask: np.ndarray, spacing: Sequence[float], reach: float) -> np.ndarray:
    """Points (n, 3) near a structure's surface, in mm, moved toward it by at most ``reach`` mm."""
    spacing = np.asarray(spacing, float)
    distance, start = _signed_distance(mask, spacing, 20.0)
    step = _onto(points - start, distance, spacing) + start - points
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return points + step * np.minimum(1, reach / np.maximum(length, 1e-9))


def _signed_distance(mask: np.ndarray, spacing: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm, negative inside, on a lattice with a margin (mm), and the place (3,) of its first voxel in mm."""
    around = np.ceil(margin / spacing).astype(int) + 1
    mask = np.pad(_largest(np.asarray(mask, bool)), [(n, n) for n in around])
    # Distances are to the nearest voxel's middle on the other side, so zero falls on the border between two voxels.
    distance = ndimage.distance_transform_edt(~mask, spacing) - ndimage.distance_transform_edt(mask, spacing)
    return distance, -around * spacing


def _onto(points: np.ndarray, distance: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    for _ in range(5):
        points = points - _newton(distance, points.T, spacing).T
    return points


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part: a stray voxel has no counterpart in other people."""
    parts, count = ndimage.label(mask)
    return mask if count < 2 else parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _read(distance: np.ndarray, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Linear interpolation at points (3, …) in mm."""
    index = points / spacing.reshape(3, *[1] * (points.ndim - 1))
    return ndimage.map_coordinates(distance, index, order=1, mode="nearest")


def _newton(distance: np.ndarray, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """How far points (3, n) are from the zero level, along the gradient: (3, n) in mm."""
    value = _read(distance, points, spacing)
    step = 0.5 * np.diag(spacing)
    gradient = (
        np.stack(
            [
                (_read(distance, points + h[:, None], spacing) - _read(distance, points - h[:, None], spacing))
                for h in step
            ]
        )
        / spacing[:, None]
    )
    length = np.square(gradient).sum(0).clip(0.25)  # 1 but at ridges, where there is no direction to go
    return np.clip(value * gradient / length, -spacing.min(), spacing.min())


def _contour(distance: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Zero level on a lattice of ``edge`` mm, smoothed: points (n, 3) along D, H, W in mm and triangles (m, 3)."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkWindowedSincPolyDataFilter

    image = vtkImageData()
    image.SetDimensions(*distance.shape[::-1])
    image.SetSpacing(edge, edge, edge)
    image.GetPointData().SetScalars(numpy_to_vtk(distance.ravel(), deep=True))
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, 0.0)
    contour.ComputeNormalsOff()
    contour.Update()
    if not contour.GetOutput().GetNumberOfPolys():
        return np.zeros((0, 3)), np.zeros((0, 3), int)
    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(contour.GetOutputPort())
    smooth.SetNumberOfIterations(20)
    smooth.SetPassBand(0.1)
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    found = smooth.GetOutput()
    points = vtk_to_numpy(found.GetPoints().GetData()).astype(float)[:, ::-1]
    triangles = vtk_to_numpy(found.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return np.ascontiguousarray(points), np.ascontiguousarray(triangles)
