"""What supports a lung review, and what speaks against its registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..metrics import dice
from ..result import Registration
from ..text import percent
from . import checks
from .checks import Scan

#: Correlation length in mm of the displacement's error, which no single pair can tell.
LENGTH = 10.0


def evidence_of(
    registration: Registration, moving: Scan, inside: np.ndarray, carried: np.ndarray, still: np.ndarray
) -> dict[str, float]:
    """How well the deformation brings the lungs together: those of the moving scan, ``carried`` and as they lie."""
    deformation = registration.deformation
    grid = deformation.grid
    vectors = deformation.vectors()[0][:, torch.from_numpy(inside)].T.double().numpy()
    there = grid.to_world(np.argwhere(inside)[:, ::-1]) + vectors
    ratio = deformation.jacobian()[0, 0].numpy()[inside]
    returning = deformation.round_trip(world=True)[0, 0].numpy()[inside]
    return {
        "dice_before": dice(still, inside, [True])[True],
        "dice_after": dice(carried, inside, [True])[True],
        "surfaces_mm": checks.surface_distance(carried, inside, grid.spacing[::-1]),
        "inverse_consistency_mm": float(np.sqrt(np.nanmean(returning**2))) if np.isfinite(returning).any() else 0.0,
        "unseen_share": float(1 - moving.grid.contains(there).mean()),
        "carried_ml": float(ratio.sum() * grid.voxel_volume / 1000),
        "segmented_ml": moving.volume,
    }


def error_of(quality: Mapping[str, Any], evidence: Mapping[str, float]) -> dict[str, Any]:
    """Deviation of one component of the displacement in mm, its correlation length, and what it was taken from."""
    points = quality.get("landmarks")
    if points:
        after = points["after_mm"]
        deviation = float(np.hypot(after["mean"], after["std"]) / np.sqrt(3))
        source = f"the target registration error at {points['count']} landmarks, divided by √3"
    else:
        deviation = float(np.hypot(evidence["surfaces_mm"], evidence["inverse_consistency_mm"]))
        source = (
            "the distance between the lungs' surfaces after registration and the inverse consistency in the lungs, "
            "for want of landmarks: inside the lungs it may be larger or smaller"
        )
    return {"deviation_mm": deviation, "length_mm": LENGTH, "source": source}


def doubts(evidence: Mapping[str, float], other: str) -> list[str]:
    """What the lungs say against the registration."""
    out = []
    if evidence["dice_after"] < evidence["dice_before"]:
        out.append("the lungs overlap less after registration than before")
    out += unseen(evidence["unseen_share"], other)
    out += volumes(evidence["carried_ml"], evidence["segmented_ml"], f"at {other}")
    if evidence["surfaces_mm"] > checks.SURFACES:
        out.append(f"after registration the lungs' surfaces are {evidence['surfaces_mm']:.1f} mm apart")
    return out


def unseen(share: float, other: str) -> list[str]:
    """Whether lungs lie outside the other image, which has to hold all but a little of them."""
    if share <= checks.UNSEEN:
        return []
    return [f"{percent(share)} of the lungs lie outside the {other} image, where the deformation is a guess"]


def volumes(carried: float, own: float, where: str) -> list[str]:
    """Whether deformation and outlines agree on the lungs' volume (ml) in the other scan."""
    if abs(carried - own) <= checks.DISAGREE * own:
        return []
    return [
        f"the deformation gives the lungs {carried:.0f} ml {where}, their outlines hold {own:.0f} ml: "
        f"volumes are uncertain by {100 * abs(carried / own - 1):.0f} %"
    ]


def shifted(motion: Mapping[str, float]) -> list[str]:
    """Whether the scans lie apart: lungs hang from their apex, so that it hardly moves when they breathe."""
    upper, lower = motion.get("upper zone", 0.0), motion.get("lower zone", 0.0)
    if upper <= max(checks.HANGING, lower):
        return []
    return [
        f"the upper zone moves by {upper:.0f} mm, farther than the lower one: the scans do not lie in one frame; "
        "motion holds that shift, volumes and strains do not"
    ]
