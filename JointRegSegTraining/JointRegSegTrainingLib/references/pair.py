"""The velocity field between two people, from where the template's points lie in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .currents import spread
from .logarithm import logarithm
from .spline import ElasticBodySpline

#: Points along each edge of the box that the elastic body is held by.
HELD = 5


@dataclass(frozen=True)
class Interpolation:
    """From corresponding points to a velocity field.

    Attributes
    ----------
    landmarks : int
        At most so many points are used, evenly spread.
    smoothing, poisson : float
        See `ElasticBodySpline.fit`.
    clamp : float
        The elastic body is held fast on the sides of a box so many times as large as the lattice. Where nothing holds
        it, it turns ever farther away from the landmarks, and has no logarithm at the lattice's border.
    stride : (int, int, int)
        The field is computed on a lattice coarser by these factors along D, H, W.
    """

    landmarks: int = 800
    smoothing: float = 1e-4
    poisson: float = 0.3
    clamp: float = 1.6
    stride: tuple[int, int, int] = (1, 2, 2)


def displacement_between(
    fixed: np.ndarray, moving: np.ndarray, shape: Sequence[int], spacing: Sequence[float], how: Interpolation
) -> torch.Tensor:
    """Displacement that takes ``fixed`` points to ``moving`` ones.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        (n, 3) corresponding points along D, H, W in mm.
    shape, spacing : sequence
        Of the working lattice, along D, H, W; spacing in mm.

    Returns
    -------
    torch.Tensor
        (1, 3, d, h, w) in voxels of the lattice that is coarser by ``how.stride``.
    """
    if len(fixed) > how.landmarks:
        chosen = spread(fixed, how.landmarks)
        fixed, moving = fixed[chosen], moving[chosen]
    stride, spacing = np.array(how.stride), np.asarray(spacing, float)
    held = _sides(np.array(shape) * spacing, how.clamp) - spacing / 2
    landmarks, vectors = np.concatenate([fixed, held]), np.concatenate([moving - fixed, 0 * held])
    spline = ElasticBodySpline.fit(landmarks, vectors, how.smoothing, how.poisson)
    # The lattices' outer borders agree: the middle of a coarse voxel is that of the voxels that it covers.
    axes = [n * np.arange(m // n) + (n - 1) / 2 for m, n in zip(shape, stride, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    vectors = spline(index.reshape(-1, 3) * spacing) / (spacing * stride)
    return torch.from_numpy(vectors.reshape(index.shape)).float().movedim(-1, 0)[None].contiguous()


def _sides(extent: np.ndarray, factor: float) -> np.ndarray:
    """Points (n, 3) on the sides of a box, ``factor`` times as large as the one from 0 to ``extent`` and about it."""
    along = np.linspace(-0.5, 0.5, HELD)
    points = np.stack(np.meshgrid(along, along, along, indexing="ij"), -1).reshape(-1, 3)
    return (points[np.abs(points).max(1) == 0.5] * factor + 0.5) * extent


def velocity_between(
    fixed: np.ndarray, moving: np.ndarray, shape: Sequence[int], spacing: Sequence[float], how: Interpolation
) -> torch.Tensor:
    """Velocity field, like `displacement_between`, whose exponential takes ``fixed`` points to ``moving`` ones."""
    return logarithm(displacement_between(fixed, moving, shape, spacing, how))
