"""The velocity field between two people, from where the template's points lie in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .currents import spread
from .logarithm import logarithm
from .spline import ElasticBodySpline


@dataclass(frozen=True)
class Interpolation:
    """From corresponding points to a velocity field.

    Attributes
    ----------
    landmarks : int
        At most so many points are used, evenly spread.
    smoothing, poisson : float
        See `ElasticBodySpline.fit`.
    stride : (int, int, int)
        The field is computed on a lattice coarser by these factors along D, H, W.
    """

    landmarks: int = 800
    smoothing: float = 3e-4
    poisson: float = 0.3
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
    spline = ElasticBodySpline.fit(fixed, moving - fixed, how.smoothing, how.poisson)
    stride, spacing = np.array(how.stride), np.asarray(spacing, float)
    # The lattices' outer borders agree: the middle of a coarse voxel is that of the voxels that it covers.
    axes = [n * np.arange(m // n) + (n - 1) / 2 for m, n in zip(shape, stride, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    vectors = spline(index.reshape(-1, 3) * spacing) / (spacing * stride)
    return torch.from_numpy(vectors.reshape(index.shape)).float().movedim(-1, 0)[None].contiguous()


def velocity_between(
    fixed: np.ndarray, moving: np.ndarray, shape: Sequence[int], spacing: Sequence[float], how: Interpolation
) -> torch.Tensor:
    """Velocity field, like `displacement_between`, whose exponential takes ``fixed`` points to ``moving`` ones."""
    return logarithm(displacement_between(fixed, moving, shape, spacing, how))
