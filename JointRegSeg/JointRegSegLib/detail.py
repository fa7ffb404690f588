"""The last of a refinement: some steps at a finer resolution, over the whole image or around its organs alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from . import fields
from .affine import shrink_as, shrink_within
from .deformation import Deformation
from .geometry import Grid, resample
from .preprocess import INTENSITIES
from .progress import Progress, silent
from .refine import Level, Objective, from_nothing

#: What is looked at around the organs, in mm: to the ends of it the motion is not changed any more.
MARGIN = 20.0
#: Longest side of the finer lattice, as a multiple of the coarser one's.
FINER = 1.5
#: Of two lattices' voxels, the share in volume from which on one is not worth calling finer.
WORTH = 0.75
#: Of the steps that a refinement is asked for, those made here: they cost most, and their way is short.
SHARE = 0.5
#: First step in control voxels, see `refine.Level`.
RATE = 0.05
#: Voxels at the ends of the finer lattice that stay where they are, and those next to them over which motion fades.
STILL, FADE = 3, 6


def around(organs: torch.Tensor, grid: Grid, image: Grid, margin: float = MARGIN) -> tuple[list[int], list[int]] | None:
    """First voxel (i, j, k) of ``image`` and size of the box around organs (1, 1, D, H, W) on ``grid``.

    ``margin`` is in mm. None where there are no organs.
    """
    found = organs[0, 0].nonzero().cpu().numpy()
    if not len(found):
        return None
    ends = np.array(np.meshgrid(*zip(found.min(0), found.max(0), strict=True), indexing="ij")).reshape(3, -1).T
    index = image.to_index(grid.to_world(ends[:, ::-1]))
    # Rounded first, or a voxel more would be taken where the lattices are one and the same.
    away, end = np.ceil(margin / image.spacing), np.array(image.size) - 1
    first = (np.floor(index.min(0).round(6)) - away).clip(0, end).astype(int)
    last = (np.ceil(index.max(0).round(6)) + away).clip(0, end).astype(int)
    return first.tolist(), (last - first + 1).tolist()


def finer(image: torch.Tensor, grid: Grid, side: int, lattice: Grid) -> tuple[torch.Tensor, Grid] | None:
    """A fixed image (1, 1, D, H, W), or a part of it, for `detailed`; None where it is no finer than on ``lattice``.

    ``side`` is the longest side, in voxels, that ``lattice`` was to have.
    """
    target, fine = shrink_within(image, grid, round(FINER * side))
    return (target, fine) if np.prod(fine.spacing) < WORTH * np.prod(lattice.spacing) else None


def detailed(
    found: Deformation,
    fixed: tuple[torch.Tensor, Grid],
    moving: tuple[torch.Tensor, Grid],
    objective: Objective,
    steps: int,
    device: torch.device,
    progress: Progress = silent,
) -> Deformation:
    """A deformation with what more a finer lattice tells.

    Parameters
    ----------
    found : Deformation
        Its lattice, that of the answer too, covers the fixed image.
    fixed, moving : (1, 1, D, H, W) tensor and Grid
        What `finer` gave, and the moving image.
    steps : int
        Those of the whole refinement.

    Raises
    ------
    Canceled
        If ``progress`` asks to stop.
    """
    target, fine = fixed
    zscore = INTENSITIES["zscore"]
    image, grid = shrink_as(*moving, fine)
    begin = found.on(fine)
    seen = (zscore(image, image), None), (torch.ones(image.shape), 0.0)
    carried, known = (begin.warp(view, grid, fill=fill).to(device) for view, fill in seen)
    target, free = zscore(target, target).to(device), inner(fine, found.grid, STILL, 3 * [FADE]).to(device)
    levels, spacing = [Level(1, max(round(SHARE * steps), 1), RATE)], fine.spacing[::-1]
    ways = from_nothing(carried, target, objective, levels, progress, spacing=spacing, known=known, free=free)
    return found.after(*(_on(way.cpu(), fine, found.grid) for way in ways))


def inner(fine: Grid, whole: Grid, still: int, fade: Sequence[float]) -> torch.Tensor:
    """(1, 1, D, H, W) share that ``fine`` has of what is on it: 1 but towards its ends, where ``whole`` goes on.

    It is 0 in the ``still`` voxels at an end, and from there grows over ``fade`` voxels along i, j, k. Both lattices
    have the same axes; where ``whole`` ends with ``fine`` the share stays 1.
    """
    half = np.full(3, 0.5)
    begin = whole.to_index(fine.to_world(-half)) + half
    end = whole.to_index(fine.to_world(fine.size - half)) + half
    out = torch.ones(1, 1, 1, 1, 1)
    for axis, n in enumerate(fine.size):
        index = torch.arange(n)
        far = torch.full((n,), np.inf)
        first = index if begin[axis] > 0.5 else far
        last = n - 1 - index if end[axis] < whole.size[axis] - 0.5 else far
        ramp = ((torch.minimum(first, last) - still + 1) / (fade[axis] + 1)).clamp(0, 1)
        out = out * ramp.reshape([-1 if a == 4 - axis else 1 for a in range(5)])
    return out


def _on(u: torch.Tensor, grid: Grid, lattice: Grid) -> torch.Tensor:
    """Displacements on another lattice, none beyond the own one."""
    return fields.to_voxel(resample(fields.to_world(u, grid), grid, lattice, fill=0.0), lattice)
