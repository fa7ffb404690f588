"""`generic` for organs that slide along their surroundings, as lungs do along the chest wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from . import fields
from .affine import register_affine, shrink_as, shrink_within
from .deformation import Deformation
from .detail import around
from .errors import InputError
from .estimate import Estimate, Settings, Volume
from .geometry import resample
from .preprocess import INTENSITIES, air_share, is_ct
from .refine import Level, Objective, from_nothing
from .regularize import without_folds

#: What is looked at of an organ's surroundings, in mm; further away they go on as at the border of it.
MARGIN = 30.0
#: HU between which CT is looked at: the inside of lungs, soft tissue, and bone, of which the wall has most to follow.
#: In one window, lung would be all but flat.
WINDOWS = ((-1000, 0), (-200, 300), (150, 900))
#: Weight of each window: most places are flat in one or two of them, which then say nothing there.
WINDOW_WEIGHT = 0.5
#: Steps at each resolution. The last one takes most of the time, and it alone sees the small vessels. All are smoother
#: than without organs, since what has to change abruptly does so at their borders; the last one is hardly less smooth
#: than the one before: its parameters are so many that noise would move each a little, and expansion is told from that.
LEVELS = (Level(4, 40, 0.3, 4), Level(2, 60, 0.3, 4), Level(1, 25, 0.15, 12))
#: The texture of lung is faint.
FLAT = 2e-4
#: Weight of the mass that lungs keep in CT: it tells of their expansion where there are no vessels to follow. Real
#: lungs do not keep it quite, as simulated ones do: more of it would draw vessels off each other.
MASS = 0.4


def by_organs(
    fixed: Volume,
    moving: Volume,
    organs: Sequence[torch.Tensor],
    settings: Settings,
) -> Estimate:
    """Optimize the organs' motion and that of their surroundings, each by itself; they meet at the organs' borders.

    The organs begin on each other, whatever the images' position. Steps that are asked for are at full resolution.

    Parameters
    ----------
    organs : sequence of torch.Tensor
        (1, 1, D, H, W) label maps on the lattices of the fixed and of the moving image; all that is not 0 counts alike.

    Raises
    ------
    InputError
        If one of the label maps holds nothing.
    """
    names = ("fixed", "moving")
    for name, labels in zip(names, organs, strict=True):
        if not bool((labels > 0).any()):
            raise InputError(f"the label map of the {name} image's organs is empty")
    ct = all(is_ct(volume.values.numpy()) for volume in (fixed, moving))
    still, moved = (_near(v, labels > 0, ct) for v, labels in zip((fixed, moving), organs, strict=True))
    target, lattice = shrink_within(still.values, still.grid, settings.side)
    source, partner = shrink_as(moved.values, moved.grid, lattice)
    device, progress = settings.device, settings.progress
    start = np.eye(4)
    start[:3, 3] = moved.grid.center - still.grid.center
    target, source = target.to(device), source.to(device)
    # The organs' shapes alone: what they slide along may have moved the other way.
    matrix = register_affine(source[:, -1:] - 0.5, partner, target[:, -1:] - 0.5, lattice, start, "mse", progress)
    source = resample(source, partner, lattice, matrix)
    inside, tissue = ((source[:, part], target[:, part]) for part in (slice(-1, None), slice(-2, -1)))
    coarse, middle, fine = LEVELS
    levels = (coarse, middle, replace(fine, iterations=fine.iterations + settings.refine))
    image = WINDOW_WEIGHT * len(WINDOWS) if ct else 1.0
    objective = Objective(similarity=settings.similarity, image=image, overlap=1.0, flat=FLAT, mass=MASS)
    images, spacing = (source[:, :-2], target[:, :-2]), lattice.spacing[::-1]
    forward, inverse = from_nothing(
        *images, objective, levels, progress, inside, spacing, tissue=tissue if ct else None
    )
    found = _shifted(Deformation(lattice, forward.cpu(), inverse.cpu(), matrix))
    found = replace(found, displacement=without_folds(found.displacement), inverse=without_folds(found.inverse))
    return Estimate(found, "organs", sliding=True)


def _shifted(deformation: Deformation) -> Deformation:
    """The same map with a shift alone as its affine part: further away the organs' growth would be carried on."""
    grid, center = deformation.grid, deformation.grid.center
    shift = np.eye(4)
    shift[:3, 3] = deformation.affine[:3, :3] @ center + deformation.affine[:3, 3] - center
    axes = grid.array_affine
    there = np.linalg.inv(axes) @ np.linalg.inv(shift) @ deformation.affine @ axes
    forth, back = (torch.as_tensor(m[None, :3], dtype=torch.float32) for m in (there, np.linalg.inv(there)))
    begin = fields.then_affine(torch.zeros_like(deformation.inverse), back)
    return Deformation(
        grid, fields.then_affine(deformation.displacement, forth), fields.compose(deformation.inverse, begin), shift
    )


def _near(volume: Volume, organ: torch.Tensor, ct: bool) -> Volume:
    """What is near the organ: (1, C + 2, d, h, w), the last two channels tissue for volume, and the organ itself."""
    box = around(organ, volume.grid, volume.grid, MARGIN)
    near, inside = volume.cropped(*box), Volume(organ, volume.grid).cropped(*box).values
    values = near.values
    tissue = 1 - air_share(values) if ct else torch.zeros_like(values)
    return Volume(torch.cat([_channels(values, ct), tissue, inside.float()], 1), near.grid)


def _channels(values: torch.Tensor, ct: bool) -> torch.Tensor:
    """(1, C, d, h, w) of unit deviation: a channel for each of `WINDOWS` of values in HU, or one."""
    if not ct:
        return INTENSITIES["zscore"](values, values)
    windowed = []
    for low, high in WINDOWS:
        seen = values.clamp(low, high)
        some = seen[(seen > low) & (seen < high)]
        windowed.append((seen - some.mean()) / some.std().clamp_min(1.0) if len(some) > 1 else torch.zeros_like(seen))
    return torch.cat(windowed, 1)
