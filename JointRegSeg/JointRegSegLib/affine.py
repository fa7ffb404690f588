"""Affine registration of one pair by optimization, in millimeters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from . import losses
from .geometry import Grid, affine_coordinates, sample, voxel_map
from .progress import Progress, silent, tell
from .similarity import Similarity, unit_range

#: Voxels along the longest side of the images at each resolution, iterations, and whether only rotation and shift move.
SCHEDULE: Sequence[tuple[int, int, bool]] = ((20, 60, True), (32, 60, False), (56, 40, False))


def register_affine(
    moving: torch.Tensor,
    moving_grid: Grid,
    fixed: torch.Tensor,
    fixed_grid: Grid,
    start: np.ndarray | None = None,
    similarity: Similarity = "lncc",
    progress: Progress = silent,
    schedule: Sequence[tuple[int, int, bool]] = SCHEDULE,
) -> np.ndarray:
    """Find the affine map from fixed to moving points that makes two images most alike.

    Parameters
    ----------
    moving, fixed : torch.Tensor
        (1, 1, D, H, W) images on their own grids, any intensities.
    start : (4, 4) ndarray, optional
        LPS matrix to begin with.
    similarity : 'lncc', 'mse' or 'mi'
        'lncc' and 'mse' use the correlation over the whole overlap: local windows are too short-sighted for large
        motion.

    Returns
    -------
    (4, 4) ndarray
        Matrix of LPS points.
    """
    start = np.eye(4) if start is None else np.asarray(start, float)
    radius = float(np.linalg.norm(fixed_grid.extent)) / 4
    center = torch.as_tensor(fixed_grid.center)
    parameters = torch.zeros(12, dtype=torch.float64)
    total, done = sum(n for _, n, _ in schedule), 0
    for side, iterations, rigid in schedule:
        small_fixed, grid_f = shrink_to(fixed, fixed_grid, side)
        small_moving, grid_m = shrink_to(moving, moving_grid, side)
        to_world = torch.tensor(grid_f.array_affine)
        to_moving = torch.as_tensor(voxel_map(fixed_grid, grid_m, start) @ np.linalg.inv(fixed_grid.array_affine))
        parameters = parameters.detach().requires_grad_()
        adam = torch.optim.Adam([parameters], lr=0.0)
        # A parameter of one moves a point at the radius by one millimeter; first steps are half a coarse voxel.
        rate = 0.25 * float(grid_f.spacing.max())
        with torch.enable_grad():
            for iteration in range(iterations):
                tell(progress, "affine", done / total)
                matrix = to_moving @ _matrix(parameters, radius, center, rigid) @ to_world
                position = affine_coordinates(matrix[None, :3], small_fixed.shape[2:], small_fixed)
                loss = _masked_loss(similarity, small_moving, small_fixed, position)
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * iteration / iterations))
                adam.step()
                done += 1
    tell(progress, "affine", 1.0)
    with torch.no_grad():
        return start @ _matrix(parameters, radius, center, False).numpy()


def _matrix(parameters: torch.Tensor, radius: float, center: torch.Tensor, rigid: bool) -> torch.Tensor:
    """(12,) numbers in mm (rotation, shift, stretch, shear) → (4, 4) matrix about ``center``."""
    r, shift, s, h = (parameters / torch.tensor([radius] * 3 + [1.0] * 3 + [radius] * 6)).view(4, 3)
    zero = parameters.new_zeros(())
    if rigid:
        s, h = torch.zeros_like(s), torch.zeros_like(h)
    skew = torch.stack([zero, -r[2], r[1], r[2], zero, -r[0], -r[1], r[0], zero]).view(3, 3)
    strain = torch.stack([s[0], h[2], h[1], h[2], s[1], h[0], h[1], h[0], s[2]]).view(3, 3)
    linear = torch.matrix_exp(skew) @ torch.matrix_exp(strain)
    top = torch.cat([linear, (center + shift - linear @ center)[:, None]], 1)
    return torch.cat([top, top.new_tensor([[0, 0, 0, 1]])])


def _masked_loss(
    similarity: Similarity, moving: torch.Tensor, fixed: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Dissimilarity over the overlap; where that is small the images' rim counts as background too."""
    limits = torch.tensor(moving.shape[2:], device=moving.device).view(1, 3, 1, 1, 1) - 1
    inside = ((position >= -0.5) & (position <= limits + 0.5)).all(1, keepdim=True).float()
    warped = sample(moving, position)
    if float(inside.mean()) < 0.3:
        inside = None
    if similarity == "mi":
        return losses.mutual_information(unit_range(warped), unit_range(fixed), mask=inside)
    return losses.correlation(warped, fixed, inside)


def shrink_to(image: torch.Tensor, grid: Grid, side: int) -> tuple[torch.Tensor, Grid]:
    """Average over blocks so that the longest extent has about ``side`` voxels, near to isotropic; with its grid."""
    return _shrunk(image, grid, _blocks(grid, float(grid.extent.max()) / side))


def shrink_within(image: torch.Tensor, grid: Grid, side: int) -> tuple[torch.Tensor, Grid]:
    """As `shrink_to`, but finer where no more than ``side``³ voxels remain: thick slices are few."""
    coarsest, length = float(grid.extent.max()) / side, float(grid.spacing.min())
    while length < coarsest and np.prod(-(-np.array(grid.size) // _blocks(grid, length))) > side**3:
        length *= 1.1
    return _shrunk(image, grid, _blocks(grid, min(length, coarsest)))


def shrink_as(image: torch.Tensor, grid: Grid, lattice: Grid) -> tuple[torch.Tensor, Grid]:
    """Average over blocks so that the image is about as sharp as another one on ``lattice``; with its grid.

    Their finest axes count: measured by their slices, images of thick slices would be blurred within them.
    """
    side = round(float(grid.extent.max() / lattice.spacing.min()))
    return shrink_to(image, grid, max(side, 2))


def _blocks(grid: Grid, length: float) -> np.ndarray:
    """Voxels along i, j, k whose block is nearest to a cube of so many mm."""
    return np.clip(np.round(length / grid.spacing).astype(int), 1, grid.size)


def _shrunk(image: torch.Tensor, grid: Grid, blocks: np.ndarray) -> tuple[torch.Tensor, Grid]:
    kernel = blocks[::-1].tolist()
    return F.avg_pool3d(image, kernel, kernel, ceil_mode=True, count_include_pad=False), grid.strided(blocks)
