"""What is too dense for lung is none: a network that learned from many contrasts takes the fat beside it for lung."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..estimate import Estimate, Volume
from ..geometry import Grid, resample
from ..models import Bundle
from ..preprocess import is_ct
from . import threshold

#: HU over which lung becomes none, around `threshold.BORDER`: voxels at the border hold some of both.
SOFT = 200.0


def without_dense(bundle: Bundle, found: Estimate, fixed: Volume, moving: Volume) -> Estimate:
    """With memberships of lungs moved to the background where a CT volume is denser than lung; others stay as they are.

    Vessels at least as wide as the network's voxels are left out of the lungs, too.
    """
    lungs = [1 + n for n, label in enumerate(bundle.manifest["labels"]) if label["name"] in threshold.NAMES.values()]
    changed = {}
    for name, volume in (("fixed", fixed), ("moving", moving)):
        probabilities = getattr(found, f"{name}_probabilities")
        if probabilities is not None and is_ct(volume.values.numpy()):
            light = _light(volume, getattr(found, f"{name}_grid"))
            kept = probabilities.clone()
            kept[:, lungs] *= light
            kept[:, :1] += probabilities[:, lungs].sum(1, keepdim=True) * (1 - light)
            changed[f"{name}_probabilities"] = kept
    return replace(found, **changed)


def _light(volume: Volume, grid: Grid) -> torch.Tensor:
    """(1, 1, d, h, w) on ``grid``: 1 where it can be lung, 0 where it is too dense."""
    hu = resample(volume.values, volume.grid, grid, fill=float(volume.values.min()))
    return ((threshold.BORDER - hu) / SOFT + 0.5).clamp(0, 1)
