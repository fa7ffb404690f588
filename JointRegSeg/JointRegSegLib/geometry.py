"""Voxel lattices in space, and resampling between them.

The only module that knows that an image index (i, j, k) and an array index (k, j, i) run in opposite order.
World points are LPS millimeters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from . import precision
from .errors import InputError

AXES = "LPS"
_OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in space.

    Parameters
    ----------
    size : (int, int, int)
        Number of voxels along i, j, k (the order of ITK and NIfTI headers).
    affine : (4, 4) array_like
        Maps an index (i, j, k, 1) to a point in LPS millimeters. Columns may be of any length and oblique to each
        other, as after a gantry tilt.

    Raises
    ------
    InputError
        If a size is not positive or the affine is singular or not finite.
    """

    size: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        size = tuple(int(n) for n in self.size)
        affine = np.array(self.affine, dtype=np.float64)
        if len(size) != 3 or min(size) < 1:
            raise InputError(f"a grid needs three positive sizes, not {self.size}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError("a grid needs a finite 4 x 4 matrix")
        if not np.allclose(affine[3], (0, 0, 0, 1), atol=1e-9):
            raise InputError("the last row of a grid's matrix is 0 0 0 1; was it transposed?")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise InputError("the grid's axes span no volume; check spacing and direction")
        affine.setflags(write=False)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_geometry(
        cls,
        size: Sequence[int],
        spacing: Sequence[float] = (1, 1, 1),
        origin: Sequence[float] = (0, 0, 0),
        direction: np.ndarray | Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    ) -> Grid:
        """Build a grid from ITK's terms: ``direction`` is 3 x 3 (or 9 numbers, row by row), its columns the axes."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction, float).reshape(3, 3) @ np.diag(np.asarray(spacing, float))
        affine[:3, 3] = origin
        return cls(tuple(size), affine)

    @classmethod
    def centered(
        cls, center: Sequence[float], size: Sequence[int], spacing: Sequence[float], direction: np.ndarray
    ) -> Grid:
        """A grid whose middle lies at ``center`` (LPS mm)."""
        grid = cls.from_geometry(size, spacing, (0, 0, 0), direction)
        affine = grid.affine.copy()
        affine[:3, 3] = np.asarray(center, float) - grid.center
        return cls(grid.size, affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (D, H, W) of an array on this grid: the size in reverse."""
        return self.size[::-1]

    @cached_property
    def array_affine(self) -> np.ndarray:
        """(4, 4) matrix from an array index (k, j, i, 1) to LPS millimeters."""
        matrix = self.affine[:, [2, 1, 0, 3]]
        matrix.setflags(write=False)
        return matrix

    @property
    def spacing(self) -> np.ndarray:
        """Distance between neighbors along i, j, k in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def direction(self) -> np.ndarray:
        """(3, 3) matrix of unit columns: where i, j, k point in LPS."""
        return self.affine[:3, :3] / self.spacing

    @property
    def origin(self) -> np.ndarray:
        """Center of the first voxel in LPS mm."""
        return self.affine[:3, 3]

    @property
    def center(self) -> np.ndarray:
        """Middle of the grid in LPS mm."""
        return self.to_world((np.asarray(self.size) - 1) / 2)

    @property
    def extent(self) -> np.ndarray:
        """Width of the grid along i, j, k in mm, borders of the outer voxels included."""
        return self.spacing * self.size

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.size)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_world(self, index: np.ndarray | Sequence) -> np.ndarray:
        """Points (..., 3) in index order (i, j, k) to LPS mm."""
        return np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, points: np.ndarray | Sequence) -> np.ndarray:
        """Points (..., 3) in LPS mm to continuous indices (i, j, k)."""
        return (np.asarray(points, float) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def contains(self, points: np.ndarray | Sequence) -> np.ndarray:
        """Which points (..., 3) in LPS mm lie inside the grid, borders of the outer voxels included."""
        index = self.to_index(points)
        return ((index >= -0.5) & (index <= np.asarray(self.size) - 0.5)).all(-1)

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether every voxel lies where ``other`` has it, to within ``tolerance`` voxels."""
        if self.size != other.size:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.size], indexing="ij")).reshape(3, -1).T
        return bool(np.abs(self.to_index(other.to_world(corners)) - corners).max() <= tolerance)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> Grid:
        """The part that begins at index ``start``; a negative start or a larger size pads."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        return Grid(tuple(size), affine)

    def fitted(self, size: Sequence[int]) -> Grid:
        """The same lattice cropped or padded about its middle to ``size``; an odd difference leaves more at the end."""
        start = [int((n - m) / 2) for n, m in zip(self.size, size, strict=True)]
        return self.cropped(start, size)

    def strided(self, factors: Sequence[int]) -> Grid:
        """A coarser grid of blocks of ``factors`` voxels that covers this one, its voxels at the blocks' middles."""
        factors = np.asarray(factors, int)
        if (factors < 1).any():
            raise InputError(f"strides are 1 or more, not {factors.tolist()}")
        size = -(-np.asarray(self.size) // factors)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * factors
        affine[:3, 3] = self.to_world((factors - 1) / 2)
        return Grid(tuple(size), affine)

    def snapped(self, lattice: Grid) -> Grid:
        """Shifted by less than a voxel so that voxels coincide with those of ``lattice``, where the axes agree.

        Resampling then copies values instead of blurring them. Returned unchanged where spacing or direction differ.
        """
        if not np.allclose(self.affine[:3, :3], lattice.affine[:3, :3], atol=1e-4):
            return self
        affine = self.affine.copy()
        affine[:3, 3] = lattice.to_world(np.round(lattice.to_index(self.origin)))
        return Grid(self.size, affine)

    def oriented(self, code: str) -> Grid:
        """The same voxels with the axes permuted and flipped to run as near as possible to ``code``, such as 'RAS'.

        Raises
        ------
        InputError
            If the code does not name each of the three directions once.
        """
        if sorted(min(c, _OPPOSITE.get(c, "?")) for c in code.upper()) != ["A", "I", "L"]:
            raise InputError(f"an orientation code names three directions, like 'RAS', not '{code}'")
        target = np.zeros((3, 3))
        for column, letter in enumerate(code.upper()):
            if letter in AXES:
                target[AXES.index(letter), column] = 1
            else:
                target[AXES.index(_OPPOSITE[letter]), column] = -1
        overlap = target.T @ self.direction  # row: wanted axis, column: own axis
        order, free = [0, 0, 0], np.abs(overlap)
        for _ in range(3):
            row, column = np.unravel_index(np.argmax(free), free.shape)
            order[row] = int(column)
            free[row, :] = free[:, column] = -1
        affine = np.eye(4)
        start = np.zeros(3)
        for row, column in enumerate(order):
            sign = 1.0 if overlap[row, column] >= 0 else -1.0
            affine[:3, row] = sign * self.affine[:3, column]
            if sign < 0:
                start[column] = self.size[column] - 1
        affine[:3, 3] = self.to_world(start)
        return Grid(tuple(self.size[c] for c in order), affine)

    @property
    def orientation(self) -> str:
        """Code of the directions in which i, j, k run, such as 'LPS'."""
        code, direction = ["", "", ""], np.abs(self.direction)
        for _ in range(3):
            row, column = np.unravel_index(np.argmax(direction), direction.shape)
            letter = AXES[row]
            code[column] = letter if self.direction[row, column] > 0 else _OPPOSITE[letter]
            direction[row, :] = direction[:, column] = -1
        return "".join(code)

    def overlap(self, other: Grid) -> float:
        """Share of this grid's volume that lies inside ``other`` (0 to 1), from a sample of at most 20³ points."""
        axes = [np.linspace(0, n - 1, min(n, 20)) for n in self.size]
        points = self.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
        return float(other.contains(points).mean())


def voxel_map(target: Grid, source: Grid, transform: np.ndarray | None = None) -> np.ndarray:
    """(4, 4) matrix from array indices (k, j, i) of ``target`` to those of ``source``.

    ``transform`` is a (4, 4) matrix of LPS points that is applied between the two.
    """
    middle = np.eye(4) if transform is None else np.asarray(transform, float)
    return np.linalg.inv(source.array_affine) @ middle @ target.array_affine


def affine_coordinates(matrix: np.ndarray | torch.Tensor, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Where the array indices of a grid of ``shape`` go under a voxel matrix: (N, 3, D, H, W), float32.

    ``matrix`` is (3, 4) or (4, 4), or (N, 3, 4) and differentiable; ``like`` gives the device.
    """
    matrix = torch.as_tensor(matrix, device=like.device).to(torch.float32)
    if matrix.ndim == 2:
        matrix = matrix[None, :3]
    out = matrix[:, :, 3].reshape(-1, 3, 1, 1, 1)
    for axis, n in enumerate(shape):
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = n
        index = torch.arange(n, dtype=torch.float32, device=like.device).view(view)
        out = out + matrix[:, :, axis].reshape(-1, 3, 1, 1, 1) * index
    return out


@precision.full
def sample(
    image: torch.Tensor, coordinates: torch.Tensor, mode: str = "bilinear", fill: float | None = None
) -> torch.Tensor:
    """Read an image (N, C, D, H, W) at voxel coordinates (N, 3, d, h, w) given in its own array indices.

    Parameters
    ----------
    mode : 'bilinear' or 'nearest'
        'bilinear' is PyTorch's name for linear interpolation in any dimension.
    fill : float, optional
        Value more than half a voxel outside the image; without one the border is repeated.

    Returns
    -------
    torch.Tensor
        (N, C, d, h, w), in the image's type.
    """
    coordinates = coordinates.float()
    normalized = [
        coordinates[:, axis] * (2 / (n - 1)) - 1 if n > 1 else torch.zeros_like(coordinates[:, axis])
        for axis, n in enumerate(image.shape[2:])
    ]
    grid = torch.stack(normalized[::-1], -1)
    if grid.shape[0] == 1 and image.shape[0] > 1:
        grid = grid.expand(image.shape[0], *grid.shape[1:])
    out = F.grid_sample(image.float(), grid, mode=mode, padding_mode="border", align_corners=True)
    if fill is not None:
        inside = torch.ones_like(coordinates[:, :1], dtype=torch.bool)
        for axis, n in enumerate(image.shape[2:]):
            c = coordinates[:, axis : axis + 1]
            inside &= (c >= -0.5) & (c <= n - 0.5)
        out = torch.where(inside, out, torch.as_tensor(fill, dtype=out.dtype, device=out.device))
    return (out if image.is_floating_point() else out.round()).to(image.dtype)


def resample(
    image: torch.Tensor,
    source: Grid,
    target: Grid,
    transform: np.ndarray | None = None,
    mode: str = "bilinear",
    fill: float | None = None,
) -> torch.Tensor:
    """Carry an image (N, C, D, H, W) from one grid to another.

    Where the target's voxels coincide with voxels of the source, values are copied exactly (crop, pad, flip, permute).
    ``transform`` is a (4, 4) matrix that takes LPS points of the target to the source; for ``fill`` see `sample`.
    """
    matrix = voxel_map(target, source, transform)
    rounded = np.round(matrix)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in target.shape], indexing="ij")).reshape(3, -1)
    drift = np.abs((matrix - rounded)[:3, :3] @ corners + (matrix - rounded)[:3, 3:]).max()
    if drift < 1e-3 and np.abs(rounded[:3, :3]).sum() == 3 and round(abs(np.linalg.det(rounded))) == 1:
        return _copy(image, rounded.astype(int), target.shape, fill)
    return sample(image, affine_coordinates(matrix, target.shape, image), mode, fill)


def _copy(image: torch.Tensor, matrix: np.ndarray, shape: Sequence[int], fill: float | None) -> torch.Tensor:
    """Resampling by whole voxels: ``matrix`` is a signed permutation and a shift."""
    indices, permutation, inside = [], [0, 0, 0], None
    for axis in range(3):  # of the source
        own = int(np.argmax(np.abs(matrix[axis, :3])))  # of the target
        permutation[own] = axis
        index = matrix[axis, own] * torch.arange(shape[own], device=image.device) + matrix[axis, 3]
        n = image.shape[2 + axis]
        view = [1, 1, 1]
        view[own] = -1
        ok = ((index >= 0) & (index < n)).view(view)
        inside = ok if inside is None else inside & ok
        indices.append(index.clamp(0, n - 1))
    out = image
    for axis in range(3):
        out = out.index_select(2 + axis, indices[axis])
    out = out.permute(0, 1, *[2 + p for p in permutation]).contiguous()
    if fill is not None and not bool(inside.all()):
        out = torch.where(inside, out, torch.as_tensor(fill, dtype=out.dtype, device=out.device))
    return out
