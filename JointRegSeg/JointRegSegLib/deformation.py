"""The outcome of a registration: a map from fixed to moving space, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from . import fields
from .geometry import Grid, affine_coordinates, resample, sample, voxel_map

#: Largest number of voxels on which displacements are stored; above it every n-th voxel of the fixed grid carries one.
FIELD_VOXELS = 4_000_000


@dataclass(frozen=True)
class Deformation:
    """T(x) = A (x + u(x)) takes points of fixed space to moving space; x and T(x) in LPS mm.

    Attributes
    ----------
    grid : Grid
        Lattice of the displacements; it covers the fixed image.
    displacement, inverse : torch.Tensor
        (1, 3, D, H, W) float32 in voxels of ``grid``: u, and the inverse of x + u(x), both in fixed space.
    affine : (4, 4) ndarray
        A, a matrix of LPS points.
    """

    grid: Grid
    displacement: torch.Tensor
    inverse: torch.Tensor
    affine: np.ndarray

    @classmethod
    def identity(cls, grid: Grid, affine: np.ndarray | None = None) -> Deformation:
        """No displacement; only ``affine`` if there is one."""
        zero = torch.zeros(1, 3, *grid.shape)
        return cls(grid, zero, zero, np.eye(4) if affine is None else affine)

    @classmethod
    def of_itk(cls, transform: sitk.Transform, grid: Grid) -> Deformation:
        """Any ITK transform of fixed to moving points, read at the voxels of ``grid``; it may fold.

        The affine map nearest to it is split off, so that the rest has an inverse on the lattice.
        """
        vectors = sitk.GetArrayFromImage(displacement_on(transform, grid)).reshape(-1, 3)
        here = grid.to_world(np.indices(grid.shape)[::-1].reshape(3, -1).T)
        there = here + vectors
        some = np.linspace(0, len(here) - 1, min(len(here), 100_000)).astype(int)
        ones = np.ones((len(some), 1))
        solved = np.linalg.lstsq(np.hstack([here[some], ones]), there[some], rcond=None)[0]
        affine = np.eye(4)
        affine[:3] = solved.T
        back = np.linalg.inv(affine)
        rest = there @ back[:3, :3].T + back[:3, 3] - here
        displacement = fields.to_voxel(torch.from_numpy(rest.T.reshape(1, 3, *grid.shape)).float(), grid)
        return cls(grid, displacement, -displacement, affine).inverted()

    def on(self, grid: Grid) -> Deformation:
        """The same map with its displacements on another lattice; beyond the own one they go on as at its border."""
        if grid.matches(self.grid):
            return self

        def carried(u: torch.Tensor) -> torch.Tensor:
            return fields.to_voxel(resample(fields.to_world(u, self.grid), self.grid, grid), grid)

        return replace(self, grid=grid, displacement=carried(self.displacement), inverse=carried(self.inverse))

    def after(self, displacement: torch.Tensor, inverse: torch.Tensor) -> Deformation:
        """The map that moves by a further displacement first, then as this one; both (1, 3, D, H, W) as its own are."""
        return replace(
            self,
            displacement=fields.compose(self.displacement, displacement),
            inverse=fields.compose(inverse, self.inverse),
        )

    def inverted(self, iterations: int = 100) -> Deformation:
        """With ``inverse`` computed anew from ``displacement``, starting from the one it has."""
        inverse = fields.invert(self.displacement, self.inverse, iterations, tolerance=0.01)
        return replace(self, inverse=inverse)

    def to_moving(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) of fixed space to moving space, LPS mm."""
        moved = self._displaced(points, self.grid, self.displacement)
        return moved @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_fixed(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) of moving space to fixed space, LPS mm."""
        back = np.linalg.inv(self.affine)
        return self._displaced(np.asarray(points, float) @ back[:3, :3].T + back[:3, 3], *self.wide_inverse)

    @cached_property
    def wide_inverse(self) -> tuple[Grid, torch.Tensor]:
        """The inverse on a lattice with room for all places that x + u(x) leads to, which may lie beyond ``grid``."""
        there = fields.identity(self.displacement) + self.displacement
        last = torch.tensor(self.displacement.shape[2:]).view(1, 3, 1, 1, 1) - 1
        beyond = torch.maximum(-there, there - last).amax((0, 2, 3, 4)).clamp_min(0)
        margin = torch.minimum(beyond.ceil(), last.flatten()).int().tolist()
        if not any(margin):
            return self.grid, self.inverse
        around = [n for n in reversed(margin) for _ in range(2)]
        u, first = (F.pad(field, around, mode="replicate") for field in (self.displacement, self.inverse))
        start, size = [-n for n in reversed(margin)], [n + 2 * m for n, m in zip(self.grid.shape, margin, strict=True)]
        return self.grid.cropped(start, size[::-1]), fields.invert(u, first, iterations=100, tolerance=0.01)

    @staticmethod
    def _displaced(points: np.ndarray, grid: Grid, displacement: torch.Tensor) -> np.ndarray:
        points = np.asarray(points, float).reshape(-1, 3)
        index = grid.to_index(points)[:, ::-1].T.reshape(1, 3, -1, 1, 1)
        u = sample(displacement, torch.from_numpy(np.ascontiguousarray(index)))[0, :, :, 0, 0].double().numpy()
        # As in ITK, a point outside the lattice is not displaced.
        inside = grid.contains(points)
        return points + inside[:, None] * (u.T @ grid.array_affine[:3, :3].T)

    def vectors(self) -> torch.Tensor:
        """T(x) - x on ``grid``, (1, 3, D, H, W): x, y, z in LPS mm."""
        axes = self.grid.array_affine[:3, :3]
        turned = self.affine[:3, :3] @ axes
        start = self.affine[:3, :3] @ self.grid.origin + self.affine[:3, 3] - self.grid.origin
        affine = affine_coordinates(np.column_stack([turned - axes, start]), self.grid.shape, self.displacement)
        return affine + torch.einsum("ca,nadhw->ncdhw", torch.as_tensor(turned).float(), self.displacement)

    def jacobian(self) -> torch.Tensor:
        """Determinant of T's derivative on ``grid``, (1, 1, D, H, W): mm³ of moving tissue for each mm³ of fixed."""
        return fields.jacobian_determinant(self.displacement) * float(np.linalg.det(self.affine[:3, :3]))

    def round_trip(self, world: bool = False) -> torch.Tensor:
        """By how many voxels (or mm of the ``world``) there and back misses the start; see `fields.round_trip`."""
        return fields.round_trip(self.displacement, self.inverse, self.grid if world else None)

    def warp(
        self, image: torch.Tensor, source: Grid, mode: str = "bilinear", fill: float | None = None
    ) -> torch.Tensor:
        """A moving image (1, C, D, H, W) on ``source``, read at T of every voxel of ``grid``."""
        matrix = torch.as_tensor(voxel_map(self.grid, source, self.affine)).float()
        x = fields.identity(self.displacement) + self.displacement
        position = torch.einsum("ca,nadhw->ncdhw", matrix[:3, :3], x) + matrix[:3, 3].reshape(1, 3, 1, 1, 1)
        out = sample(image, position, mode, fill)
        still = (self.displacement == 0).all(1, keepdim=True)
        return (
            torch.where(still, resample(image, source, self.grid, self.affine, mode, fill), out) if still.any() else out
        )

    def to_itk(self, inverse: bool = False) -> sitk.CompositeTransform:
        """The map (or its inverse) for SimpleITK and Slicer, which apply the last part of a composite first."""
        grid, u = self.wide_inverse if inverse else (self.grid, self.displacement)
        field = vector_image(fields.to_world(u, grid), grid)
        deformable = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        matrix = np.linalg.inv(self.affine) if inverse else self.affine
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(matrix[:3, :3].ravel().tolist())
        affine.SetTranslation(matrix[:3, 3].tolist())
        return sitk.CompositeTransform([deformable, affine] if inverse else [affine, deformable])


def field_lattice(grid: Grid) -> Grid:
    """Where displacements of a fixed grid are stored: on it, or on every n-th voxel (see `FIELD_VOXELS`)."""
    if grid.voxels <= FIELD_VOXELS:
        return grid
    # Thin axes are spared: the finest axis is thinned first until few enough remain.
    factors = np.ones(3, int)
    while math.prod(grid.strided(factors).size) > FIELD_VOXELS:
        factors[np.argmin(grid.spacing * factors)] += 1
    return grid.strided(factors)


def vector_image(vectors: torch.Tensor, grid: Grid) -> sitk.Image:
    """A vector image of (1, C, D, H, W) on ``grid``."""
    return _placed(sitk.GetImageFromArray(vectors[0].movedim(0, -1).contiguous().numpy(), isVector=True), grid)


def displacement_on(transform: sitk.Transform, grid: Grid) -> sitk.Image:
    """T(x) - x of any ITK transform at the voxels of ``grid``, LPS mm."""
    size, spacing = [int(n) for n in grid.size], grid.spacing.tolist()
    place = (size, grid.origin.tolist(), spacing, grid.direction.ravel().tolist())
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *place)


def scalar_image(values: torch.Tensor | np.ndarray, grid: Grid) -> sitk.Image:
    """A scalar image of (…, D, H, W) with leading axes of one, on ``grid``."""
    array = np.asarray(values)
    return _placed(sitk.GetImageFromArray(array.reshape(array.shape[-3:])), grid)


def _placed(image: sitk.Image, grid: Grid) -> sitk.Image:
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.ravel().tolist())
    return image
