"""What supports a lung review, and what speaks against its registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, map_coordinates

from .. import quality
from ..metrics import dice
from ..pipeline import PointSource, landmarks_of
from ..result import Registration
from ..text import percent
from . import checks
from .checks import Scan
from .measures import Uncertainty

#: Correlation length in mm of the displacement's error, which no single pair can tell.
LENGTH = 10.0
#: mm from the lungs within which landmarks tell of the lungs.
NEAR = 5.0
_LESS = "the lungs overlap less after registration than before"


def evidence_of(
    registration: Registration,
    moving: Scan,
    inside: np.ndarray,
    carried: np.ndarray,
    still: np.ndarray,
    expanded: float,
) -> dict[str, float]:
    """How well the deformation brings the lungs together: those of the moving scan, ``carried`` and as they lie.

    ``expanded`` is their volume there in ml by what expansion is measured from, which leaves out where they slide.
    """
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
        "expanded_ml": expanded,
        "carried_ml": float(ratio.sum() * grid.voxel_volume / 1000),
        "segmented_ml": moving.volume,
    }


def landmarks_in(
    registration: Registration, inside: np.ndarray, fixed: PointSource | None, moving: PointSource | None
) -> dict[str, Any] | None:
    """Error at those landmarks that lie in the lungs or near them, as of `quality.landmarks`; None without any."""
    pair = landmarks_of(fixed, moving, registration.fixed, registration.moving)
    if pair is None:
        return None
    grid = registration.deformation.grid
    away = distance_transform_edt(~inside, sampling=grid.spacing[::-1])
    near = map_coordinates(away, grid.to_index(pair[0])[:, ::-1].T, order=1, mode="constant", cval=np.inf) <= NEAR
    return quality.landmarks(*(points[near] for points in pair), registration.deformation) if near.any() else None


def error_of(landmarks: Mapping[str, Any] | None, evidence: Mapping[str, float]) -> tuple[Uncertainty, dict[str, Any]]:
    """How uncertain the displacement is, by `landmarks_in` the lungs or else by their surfaces, and how that is told.

    What the outlines' volume and the expansion's differ by counts for all of the lungs alike.
    """
    if landmarks:
        after = landmarks["after_mm"]
        deviation = float(np.hypot(after["mean"], after["std"]) / np.sqrt(3))
        source = f"the target registration error at {landmarks['count']} landmarks in the lungs, divided by √3"
    else:
        deviation = float(np.hypot(evidence["surfaces_mm"], evidence["inverse_consistency_mm"]))
        source = (
            "the distance between the lungs' surfaces after registration and the inverse consistency in the lungs, "
            "for want of landmarks in them: inside the lungs it may be larger or smaller"
        )
    volume = float(abs(np.log(evidence["expanded_ml"] / evidence["segmented_ml"])))
    told = {"deviation_mm": deviation, "length_mm": LENGTH, "volume": volume, "source": source}
    return Uncertainty(deviation, LENGTH, volume), told


def failed(evidence: Mapping[str, float]) -> list[str]:
    """What no figure can be believed with."""
    out = []
    if evidence["dice_after"] < evidence["dice_before"] - checks.WORSE:
        out.append(_LESS)
    elif evidence["dice_after"] < checks.OVERLAP:
        out.append(f"after registration the lungs overlap by a Dice of {evidence['dice_after']:.2f} only")
    if evidence["surfaces_mm"] > checks.LOST_SURFACES:
        out.append(_apart(evidence))
    return out


def doubts(evidence: Mapping[str, float], other: str, own: float) -> list[str]:
    """What else the lungs say against the registration; ``own`` is their volume in the reference, in ml."""
    # Where they lay on each other to begin with a little is no failure.
    out = [_LESS] if -checks.WORSE <= evidence["dice_after"] - evidence["dice_before"] < 0 else []
    out += unseen(evidence["unseen_share"], other)
    out += volumes(evidence["carried_ml"], evidence["segmented_ml"], f"at {other}")
    out += ventilated(evidence["expanded_ml"], evidence["segmented_ml"], own, other)
    if checks.SURFACES < evidence["surfaces_mm"] <= checks.LOST_SURFACES:
        out.append(_apart(evidence))
    return out


def _apart(evidence: Mapping[str, float]) -> str:
    return f"after registration the lungs' surfaces are {evidence['surfaces_mm']:.1f} mm apart"


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


def ventilated(expanded: float, other: float, own: float, where: str) -> list[str]:
    """Whether expansion and outlines agree on the breath: ml of the lungs in the other scan by either, and ``own``."""
    breath = abs(own - other)
    if abs(expanded - other) <= checks.BREATH * breath or not breath:
        return []
    return [
        f"the expansion within the lungs gives them {expanded:.0f} ml at {where}, their outlines hold {other:.0f} ml: "
        f"ventilation is uncertain by {100 * abs(expanded - other) / breath:.0f} % of the breath"
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
