"""A model of lungs, refined in CT: outlined by density, and free to slide along the wall that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .. import fields
from ..deformation import Deformation, field_lattice
from ..detail import inner
from ..errors import InputError
from ..estimate import Estimate, Settings, Volume, by_model
from ..geometry import Grid, resample
from ..models import Bundle
from ..preprocess import is_ct
from ..regularize import LIMIT, invertible, without_folds
from ..sliding import by_organs
from . import threshold

#: Distance in mm, from the end of what was looked at around the lungs, over which the one motion becomes the other.
FADE = 20.0
#: One of so many steps that are asked for is added around the lungs, where a step costs most and many are made anyway.
MORE = 4
#: Of all the time, the share of what the whole images need.
SHARE = 0.4


def refined(
    bundle: Bundle,
    fixed: Volume,
    moving: Volume,
    settings: Settings,
) -> Estimate | None:
    """What `estimate.by_model` finds, but for the lungs and what is near them, which `sliding.by_organs` registers.

    None where one of the images is no CT, or no lungs are found in it.

    Raises
    ------
    ModelError, InputError, Canceled
        As the two of them do.
    """
    found = [_lungs(volume) for volume in (fixed, moving)]
    if any(lungs is None for lungs in found):
        return None
    # A lung that is too small in one of them has no partner in the other one.
    sides = [n for n in threshold.NAMES if all((lungs == n).any() for lungs in found)]
    if not sides:
        return None
    organs = [torch.from_numpy(np.isin(lungs, sides))[None, None] for lungs in found]

    def first(stage: str, fraction: float) -> bool | None:
        return settings.progress(stage, SHARE * fraction if stage == "refining" else fraction)

    def second(stage: str, fraction: float) -> bool | None:
        begun, share = {"affine": (0.0, 0.1), "deformation": (0.1, 0.9)}[stage]
        return settings.progress("refining", SHARE + (1 - SHARE) * (begun + share * fraction))

    whole = by_model(bundle, fixed, moving, replace(settings, progress=first), closer=False)
    near = replace(settings, refine=settings.refine // MORE, progress=second)
    slid = by_organs(fixed, moving, organs, near)
    around = invertible(whole.deformation.on(field_lattice(fixed.grid)), LIMIT)
    joint = beside(slid.deformation, around)
    outlines = _outlines(bundle, found)
    sought = whole.agreement_sought or outlines is not None  # the outlines are those of the organs that slid
    return replace(whole, deformation=joint, outlines=outlines, sliding=True, agreement_sought=sought)


def _lungs(volume: Volume) -> np.ndarray | None:
    """What `threshold.lungs` finds; None in what is no CT, and where it finds nothing."""
    hu = volume.values[0, 0].numpy()
    if not is_ct(hu):
        return None
    try:
        return threshold.lungs(hu, volume.grid)
    except InputError:
        return None


def _outlines(bundle: Bundle, found: Sequence[np.ndarray]) -> list[torch.Tensor] | None:
    """(1, 1, D, H, W) labels of the bundle; None if it tells other structures than right and left lung."""
    names = {label["name"]: label["value"] for label in bundle.manifest["labels"]}
    if set(names) != set(threshold.NAMES.values()):
        return None
    own = [names[threshold.NAMES[n]] for n in (threshold.RIGHT, threshold.LEFT)]
    values = np.array([0, *own], np.uint8 if max(own) < 256 else np.uint16)
    return [torch.from_numpy(values[lungs])[None, None] for lungs in found]


def beside(part: Deformation, whole: Deformation) -> Deformation:
    """The map of ``part`` where its lattice is, which becomes that of ``whole`` within `FADE` of the lattice's ends.

    Both lattices have the same axes; the outcome is on that of ``whole``.
    """
    share = inner(part.grid, whole.grid, 1, FADE / part.grid.spacing)
    share = resample(share, part.grid, whole.grid, fill=0.0)
    points = whole.grid.to_world(np.indices(whole.grid.shape)[::-1].reshape(3, -1).T)
    weight = _at_voxels(share)
    near = weight[:, 0] > 0
    there = whole.to_moving(points)
    there[near] += weight[near] * (part.to_moving(points[near]) - there[near])
    back = np.linalg.inv(whole.affine)
    forward = _voxels(there @ back[:3, :3].T + back[:3, 3] - points, whole.grid)
    # The way back, from moving to fixed points, counts as the way there does in the place that it leads to.
    weight = _at_voxels(fields.warp(share, whole.inverse))
    near = weight[:, 0] > 0
    begin = points + _at_voxels(fields.to_world(whole.inverse, whole.grid))
    moved = points[near] @ whole.affine[:3, :3].T + whole.affine[:3, 3]
    begin[near] += weight[near] * (part.to_fixed(moved) - begin[near])
    forward, inverse = (without_folds(u) for u in (forward, _voxels(begin - points, whole.grid)))
    return replace(whole, displacement=forward, inverse=inverse)


def _at_voxels(values: torch.Tensor) -> np.ndarray:
    """(n, C) of (1, C, D, H, W)."""
    return values[0].flatten(1).T.double().numpy()


def _voxels(vectors: np.ndarray, grid: Grid) -> torch.Tensor:
    """(1, 3, D, H, W) in voxels of (n, 3) in LPS mm."""
    return fields.to_voxel(torch.from_numpy(vectors.T.reshape(1, 3, *grid.shape)).float(), grid)
