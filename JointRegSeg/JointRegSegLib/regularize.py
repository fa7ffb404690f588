"""A displacement that can be undone on its own lattice."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from . import fields, losses
from .deformation import Deformation

#: Voxels by which there and back may miss the start. Between voxel centers it can be a little more. A bundle may
#: have another one for answers that are not refined.
LIMIT = 0.4
#: Share of its volume below which tissue counts as folded: between voxel centers it can be a little less.
LEAST = 0.05


def invertible(deformation: Deformation, limit: float) -> Deformation:
    """The same map where it can be undone, smoothed elsewhere, with its inverse; see `make_invertible`."""
    displacement, inverse = make_invertible(deformation.displacement, deformation.inverse, limit)
    return replace(deformation, displacement=displacement, inverse=inverse)


def without_folds(displacement: torch.Tensor, least: float = LEAST, rounds: int = 100) -> torch.Tensor:
    """Smooth a displacement where it folds, and nowhere else: of tissue that slides past tissue the jump stays.

    A jump along a curved surface takes tissue through its neighbors here and there. (N, 3, D, H, W) in voxels, averaged
    over 3³ of them where volume shrinks below ``least``; after ``rounds`` without success it is as good as was reached.
    """
    for _ in range(rounds):
        bad = fields.jacobian_determinant(displacement) < least
        if not bool(bad.any()):
            break
        displacement = _smoothed(displacement, bad)
    return displacement


def make_invertible(
    displacement: torch.Tensor, inverse: torch.Tensor, limit: float = LIMIT, rounds: int = 30
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth a displacement where its inverse is not resolved, and nowhere else.

    Where a map squeezes or folds, its inverse is so steep that a lattice cannot hold it. There the displacement is
    averaged over 3³ voxels, until there and back returns within ``limit`` everywhere.

    Parameters
    ----------
    displacement, inverse : torch.Tensor
        (N, 3, D, H, W) in voxels; of the inverse a first guess is enough.

    Returns
    -------
    displacement, inverse : torch.Tensor
        Of the same shape; after ``rounds`` without success they are as good as was reached.
    """
    for _ in range(rounds):
        inverse = fields.invert(displacement, inverse, iterations=100)
        missed = fields.round_trip(displacement, inverse).nan_to_num()
        bad = (missed > limit) | (fields.jacobian_determinant(displacement) <= 0)
        if not bool(bad.any()):
            break
        displacement = _smoothed(displacement, bad)
    else:
        inverse = fields.invert(displacement, inverse, iterations=100)
    return displacement, inverse


def _smoothed(displacement: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
    share = losses.box_mean(F.max_pool3d(bad.float(), 3, 1, 1), 3)
    return displacement + share * (losses.box_mean(displacement, 3) - displacement)
