"""Displacement fields and affine maps as pure functions.

A displacement is (N, 3, D, H, W), float32: channel c moves along spatial axis c (0: D, 1: H, 2: W), in voxels, and a
voxel x of the fixed lattice is read at x + u(x) of the moving one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from . import precision
from .geometry import Grid, affine_coordinates, sample

#: Of an inversion: steps of the fixed point before Newton's, which cost more; and the longest of the latter, in voxels.
PLAIN_STEPS, LONGEST_STEP = 8, 3.0


def identity(displacement: torch.Tensor) -> torch.Tensor:
    """Voxel coordinates (1, 3, D, H, W) of the lattice under ``displacement``."""
    return affine_coordinates(np.eye(4), displacement.shape[2:], displacement)


def warp(
    image: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear", fill: float | None = None
) -> torch.Tensor:
    """Read an image (N, C, D, H, W) at x + u(x).

    Where u is exactly zero the voxel is returned bit for bit. For ``mode`` and ``fill`` see `geometry.sample`.
    """
    out = sample(image, identity(displacement) + displacement, mode, fill)
    if image.shape[2:] != displacement.shape[2:]:
        return out
    still = (displacement == 0).all(1, keepdim=True)
    if not bool(still.any()):
        return out
    # Interpolation at a voxel's center is off by rounding; the gradient still has to come from the interpolation,
    # or a network that starts at the identity could never leave it.
    exact = image.detach() + (out - out.detach()) if out.requires_grad else image
    return torch.where(still, exact.to(out.dtype), out)


def integrate_gradients(gradients: torch.Tensor) -> torch.Tensor:
    """Displacement (N, 3, D, H, W) from spatial gradients of the same shape in (0, 1).

    The sampling position is φ(i) = 2 Σ g - 1, summed along each component's own axis, so that g = 0.5 is exactly the
    identity and each component grows monotonically along its axis (Christodoulidis et al. 2018, section 2.1; Estienne
    et al. 2020, section 2). Monotone axes do not make the determinant positive.
    """
    step = 2 * gradients - 1
    return torch.stack([step[:, axis].cumsum(axis + 1) for axis in range(3)], 1)


def scale_and_square(velocity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """Displacement at time one of a stationary velocity field, both (N, 3, D, H, W) in voxels (Arsigny et al. 2006)."""
    u = velocity / 2**steps
    for _ in range(steps):
        u = compose(u, u)
    return u


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The displacement of x ↦ y + outer(y) with y = x + inner(x)."""
    return inner + sample(outer, identity(inner) + inner)


def further(found: torch.Tensor, more: torch.Tensor, n: int) -> torch.Tensor:
    """A registration of N pairs and, after it, ``more`` between what it carried over and the fixed images.

    Both are (N, 3, D, H, W), or (2 N, …) with the way back behind.
    """
    # From the fixed image by the later one, then by the earlier; the way back, if any, the other way around.
    return torch.cat([compose(found[:n], more[:n]), compose(more[n:], found[n:])])


def invert(
    displacement: torch.Tensor, start: torch.Tensor | None = None, iterations: int = 50, tolerance: float = 0.01
) -> torch.Tensor:
    """Inverse displacement v with v = -u(x + v), on the same lattice.

    By the fixed point v ← -u(x + v) (Chen et al. 2008), which settles where the map stretches little, and from there by
    Newton's method. No step makes it worse: a longer one than helps is halved.

    Parameters
    ----------
    start : torch.Tensor, optional
        A first guess, such as the exponential of the negated velocity.
    iterations : int
        Steps at most, of both kinds together.
    tolerance : float
        By how many voxels v may miss -u(x + v) along each axis; a voxel that is as near is left alone.
    """
    first = -displacement if start is None else start
    return torch.cat(
        [_invert(u[None], v[None], iterations, tolerance) for u, v in zip(displacement, first, strict=True)]
    )


def _invert(u: torch.Tensor, start: torch.Tensor, iterations: int, tolerance: float) -> torch.Tensor:
    """One displacement. Every voxel has an equation of its own, so only those not yet solved are computed."""
    x, v = identity(u).reshape(3, -1), start.reshape(3, -1).clone()

    def missed_by(voxels: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        return _at_points(u, x[:, voxels] + guess) + guess

    left = torch.arange(v.shape[1], device=v.device)
    share, missed = torch.ones(len(left), device=v.device), missed_by(left, v)
    for iteration in range(iterations):
        open_ = missed.abs().amax(0) >= tolerance
        left, share, missed = left[open_], share[open_], missed[:, open_]
        if not len(left):
            break
        here = v[:, left]
        step = missed if iteration < PLAIN_STEPS else _newton(u, x[:, left] + here, missed)
        there = here - share * step
        found = missed_by(left, there)
        better = found.square().sum(0) < missed.square().sum(0)
        v[:, left] = torch.where(better, there, here)
        missed = torch.where(better, found, missed)
        share = torch.where(better, (2 * share).clamp_max(1), share / 2)
    return v.view_as(start)


def _newton(u: torch.Tensor, points: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
    """By how much to go back from ``points`` (3, n), so that x + u(x) changes by ``missed`` (3, n)."""
    ahead = 0.25 * torch.eye(3, device=u.device)[:, :, None]  # voxels; u is linear between centers
    a, b, c = (2 * (_at_points(u, points + e) - _at_points(u, points - e) + 2 * e) for e in ahead)
    across = torch.stack([torch.linalg.cross(*pair, dim=0) for pair in ((b, c), (c, a), (a, b))])
    volume = (a * across[0]).sum(0)
    step = (across * missed).sum(1) / torch.where(volume.abs() < 1e-6, 1e-6, volume)
    return step * (LONGEST_STEP / step.norm(dim=0).clamp_min(LONGEST_STEP))


def _at_points(field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(1, C, D, H, W) at voxel coordinates (3, n): (C, n)."""
    return sample(field, points.view(1, 3, -1, 1, 1)).view(field.shape[1], -1)


def round_trip(forward: torch.Tensor, backward: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
    """Distance, (N, 1, D, H, W), by which forward and then backward miss the start: voxels, or with ``grid`` mm.

    NaN where the way there leaves the lattice, since no voxel answers for it.
    """
    there = identity(forward) + forward
    limits = torch.tensor(forward.shape[2:], device=forward.device).view(1, 3, 1, 1, 1) - 1
    inside = ((there >= 0) & (there <= limits)).all(1, keepdim=True)
    error = forward + sample(backward, there)
    length = (error if grid is None else to_world(error, grid)).square().sum(1, keepdim=True).sqrt()
    return torch.where(inside, length, torch.nan)


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """Local volume ratio (N, 1, D, H, W): 1 keeps volume, above 1 the moving tissue is larger, 0 or less is a fold.

    Derivatives are central differences, one-sided at borders.
    """
    (a, b, c), (d, e, f), (g, h, i) = _jacobian(displacement)
    return (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))[:, None]


def _jacobian(displacement: torch.Tensor) -> list[list[torch.Tensor]]:
    """∂(x + u)/∂x, for each component its derivative (N, D, H, W) along each axis."""
    entries: list[list[torch.Tensor]] = [[], [], []]
    for axis in range(3):
        if displacement.shape[2 + axis] > 1:
            along = torch.gradient(displacement, dim=2 + axis)[0]
        else:
            along = torch.zeros_like(displacement)
        for component, entry in enumerate(along.unbind(1)):
            entries[component].append(entry + 1 if component == axis else entry)
    return entries


def log_jacobian(displacement: torch.Tensor, floor: float = 1e-9) -> torch.Tensor:
    """Natural logarithm of the Jacobian determinant, which is cut at ``floor``."""
    return jacobian_determinant(displacement).clamp_min(floor).log()


def resize(displacement: torch.Tensor, shape: tuple[int, int, int], rescale: bool = True) -> torch.Tensor:
    """A displacement on a lattice of another ``shape`` whose outer voxel *borders* agree, vectors in its own voxels.

    ``rescale=False`` resizes a quantity that is not in voxels, such as a spatial gradient.
    """
    if tuple(shape) == tuple(displacement.shape[2:]):
        return displacement
    out = F.interpolate(displacement, size=tuple(shape), mode="trilinear", align_corners=False)
    if not rescale:
        return out
    factor = [n / m for n, m in zip(shape, displacement.shape[2:], strict=True)]
    return out * torch.tensor(factor, device=out.device, dtype=out.dtype).view(1, 3, 1, 1, 1)


def to_world(displacement: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Voxel displacement on ``grid`` to LPS mm: channels become x, y, z."""
    return mapped(displacement, grid.array_affine[:3, :3])


def to_voxel(vectors: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Displacement vectors in LPS mm (channels x, y, z) on ``grid`` to voxels along D, H, W."""
    return mapped(vectors, np.linalg.inv(grid.array_affine[:3, :3]))


@precision.full
def mapped(vectors: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Vectors (N, 3, D, H, W) under a (3, 3) matrix, at their places."""
    matrix = torch.tensor(matrix, dtype=vectors.dtype, device=vectors.device)
    return torch.einsum("ca,nadhw->ncdhw", matrix, vectors)


def affine_matrix(linear: np.ndarray, translation: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(4, 4) matrix for x ↦ linear (x - center) + center + translation, of LPS points in mm or of voxel indices."""
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = np.asarray(center) + np.asarray(translation) - np.asarray(linear) @ np.asarray(center)
    return out


@precision.full
def then_affine(displacement: torch.Tensor, matrix: torch.Tensor | None) -> torch.Tensor:
    """The displacement of x ↦ A (x + u(x)) for voxel matrices A, (N, 3, 4); u itself without one."""
    if matrix is None:
        return displacement
    x = identity(displacement)
    moved = torch.einsum("nca,nadhw->ncdhw", matrix[:, :, :3], x + displacement)
    return moved + matrix[:, :, 3].reshape(-1, 3, 1, 1, 1) - x
