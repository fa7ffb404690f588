"""Demons: steps that bring memberships onto each other, with nothing to learn."""

from __future__ import annotations

import torch

from . import fields, losses

#: A force is at most half a voxel long, of which smoothing takes a part.
_STRENGTH = 2.0
#: Squarings: a step is so short that a quarter of it is as good as straight.
_SQUARINGS = 2


def steps(moving: torch.Tensor, fixed: torch.Tensor, found: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` diffeomorphic steps further than a registration (Vercauteren et al. 2009).

    Parameters
    ----------
    moving, fixed : torch.Tensor
        (N, C, D, H, W) memberships, or other channels between 0 and 1.
    found : torch.Tensor
        (N, 3, D, H, W) displacement in voxels, or (2 N, …) with the way back behind; gradients reach it, not the steps.
    """
    n = len(moving)
    for _ in range(count):
        way = velocity(fields.warp(moving, found[:n].detach()), fixed)
        more = fields.scale_and_square(torch.cat([way, -way])[: len(found)], _SQUARINGS)
        found = fields.further(found, more, n)
    return found


@torch.no_grad()
def velocity(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """`force`, smoothed, as a stationary velocity (N, 3, D, H, W) in voxels, from the fixed lattice into moving."""
    return _STRENGTH * losses.box_mean(losses.box_mean(force(moving, fixed), 3), 3)


def force(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Displacement (N, 3, D, H, W) in voxels by which (N, C, D, H, W) memberships would match, if each voxel were free.

    The symmetric force of demons (Vercauteren et al. 2009, doi:10.1016/j.neuroimage.2008.10.040) of all channels
    together: the least-squares solution along their gradients, at most half a voxel long, for a difference that the
    gradients do not explain says little. It leads from the fixed lattice into the moving image; exchanging the two
    changes its sign.
    """
    wanted, size = torch.zeros_like(moving[:, :1].expand(-1, 3, -1, -1, -1)), torch.full_like(moving[:, :1], 1e-3)
    # Channel by channel, which stays in a CPU's cache: all at once takes 15 times as long.
    for a, b in zip(moving.split(1, 1), fixed.split(1, 1), strict=True):
        slopes = torch.cat(torch.gradient((a + b) / 2, dim=(2, 3, 4)), 1)
        wanted += (b - a) * slopes
        size += slopes.square().sum(1, keepdim=True) + (b - a).square()
    return wanted / size
