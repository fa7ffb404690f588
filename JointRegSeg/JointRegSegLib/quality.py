"""Is this registration to be trusted? Figures, and a verdict with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from . import losses, metrics
from .deformation import Deformation
from .geometry import Grid, affine_coordinates, voxel_map
from .preprocess import INTENSITIES
from .similarity import unit_range
from .text import percent

# Bounds of the verdict. Shares are of voxels, distances in voxels, agreement and similarity as fractions.
FOLDED_RED, FOLDED_AMBER = 5e-3, 1e-5
#: Change of volume, either way, that no breath and no two people's organs show, and the share of voxels with it.
EXTREME, EXTREME_AMBER = 10.0, 1e-3
INVERSE_AMBER = 0.5
AGREEMENT_RED, AGREEMENT_AMBER = 0.5, 0.75
WORSE = 0.02
#: mm between landmarks after registration that want an explanation, and the share of the way before that says that
#: they have hardly come nearer.
FAR, HARDLY = 5.0, 0.8
#: Least similarity after registration. Real pairs of hippocampi, brains and lungs reach more; noise, or a heart on a
#: hippocampus, mostly do not.
FLOOR = {"local_correlation": 0.18, "correlation": 0.5, "mutual_information": 0.25}
#: Correlation of two images that are the same but for noise, which registration cannot bring closer. Breaths in CT
#: reach 0.994, for air and tissue make up most of it.
SAME_BEFORE, SAME_AFTER = 0.999, 0.95
#: Share of the smaller image that has to lie on the other one.
REACHED = 0.5
#: By how many mm landmarks may come apart where they lay on each other.
APART = 0.5
#: Along an axis, and to the third power in all, the fewest voxels that a registration can be judged by.
FEWEST = 8


def similarity(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    moving_grid: Grid,
    deformation: Deformation,
    within: Grid | None = None,
) -> dict[str, dict[str, float | None]]:
    """Image similarity before (as the images lie in space) and after, where the two overlap; None without overlap.

    ``overlap_share`` is the part of the smaller image that lies on the other one.

    ``fixed`` (1, 1, D, H, W) is on the deformation's grid, ``moving`` on its own; only what lies on the lattice
    ``within``, if there is one, counts.
    """
    grid = deformation.grid
    measures = ("correlation", "local_correlation", "mutual_information")
    out: dict[str, dict[str, float | None]] = {name: {} for name in (*measures, "overlap_share")}
    zscore = INTENSITIES["zscore"]
    fixed, moving = zscore(fixed, fixed), zscore(moving, moving)
    seen = torch.ones_like(fixed, dtype=torch.bool)
    if within is not None:
        seen = _between(affine_coordinates(voxel_map(grid, within), grid.shape, fixed), within.shape)
    for moment, motion in (("before", Deformation.identity(grid)), ("after", deformation)):
        matrix = voxel_map(grid, moving_grid, motion.affine)
        at = affine_coordinates(matrix, grid.shape, fixed)
        if moment == "after":
            linear = torch.as_tensor(matrix[:3, :3]).float()
            at = at + torch.einsum("ca,nadhw->ncdhw", linear, motion.displacement)
        inside = seen & _between(at, moving.shape[2:])
        out["overlap_share"][moment] = _share(inside, seen, motion, moving_grid)
        if not bool(inside.any()):
            for name in measures:
                out[name][moment] = None
            continue
        warped, mask = motion.warp(moving, moving_grid), inside.float()
        out["correlation"][moment] = 1 - float(losses.correlation(warped, fixed, mask))
        out["local_correlation"][moment] = 1 - float(losses.local_correlation(warped, fixed, 9, mask))
        out["mutual_information"][moment] = -float(
            losses.mutual_information(unit_range(warped), unit_range(fixed), mask=mask)
        )
    return out


def _share(inside: torch.Tensor, seen: torch.Tensor, motion: Deformation, moving_grid: Grid) -> float:
    """Of the smaller image the part that lies on the other one, where (1, 1, D, H, W) bools tell it."""
    fixed = int(seen.sum()) * motion.grid.voxel_volume
    moving = moving_grid.voxels * moving_grid.voxel_volume
    if fixed <= moving:
        share = int(inside.sum()) * motion.grid.voxel_volume / fixed
    else:  # the space that it takes up where it lies
        share = float((inside * motion.jacobian().clamp_min(0)).sum()) * motion.grid.voxel_volume / moving
    return min(share, 1.0)


def _between(index: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Which of the (1, 3, D, H, W) places lie in the voxels of a lattice of ``shape``: (1, 1, D, H, W) bool."""
    last = torch.tensor(shape, device=index.device).view(1, 3, 1, 1, 1) - 1
    return ((index >= -0.5) & (index <= last + 0.5)).all(1, keepdim=True)


def meager(name: str, image: torch.Tensor) -> list[str]:
    """A sentence about a (1, 1, D, H, W) image, called ``name``, that has too few voxels to judge by."""
    if (least := min(image.shape[2:])) < FEWEST:
        return [f"{name}: {least} voxels along an axis are too few to judge a registration by"]
    count = int((image > image.min()).sum())
    if count < FEWEST**3:
        return [f"{name}: only {count} voxels are above its minimum, too few to judge a registration by"]
    return []


def regularity(deformation: Deformation) -> dict[str, Any]:
    """Folding, spread of the log Jacobian, displacement and inverse consistency, on the deformation's grid."""
    jacobian = deformation.jacobian()
    positive = jacobian[jacobian > 0]
    length = deformation.vectors().square().sum(1).sqrt()
    return {
        "folded_share": float((jacobian <= 0).float().mean()),
        "extreme_share": float(((jacobian > EXTREME) | ((jacobian > 0) & (jacobian < 1 / EXTREME))).float().mean()),
        "jacobian": {"min": float(jacobian.min()), "max": float(jacobian.max())},
        "log_jacobian_spread": float(positive.log().std()) if len(positive) > 1 else None,
        "displacement_mm": {"mean": float(length.mean()), "max": float(length.max())},
        "inverse_consistency_voxels": _mean_and_max(deformation.round_trip()),
        "inverse_consistency_mm": _mean_and_max(deformation.round_trip(world=True)),
    }


def _mean_and_max(distances: torch.Tensor) -> dict[str, float | None]:
    known = distances[~distances.isnan()]
    return {"mean": float(known.mean()), "max": float(known.max())} if len(known) else {"mean": None, "max": None}


def overlap(carried: sitk.Image, target: sitk.Image, names: dict[int, str] | None = None) -> dict[str, Any]:
    """Dice and HD95 (voxels of the fixed grid) of each label, and their means over labels.

    A label that one map lacks has a Dice of 0 and no HD95, and there is no mean HD95 then: that of the others would
    flatter.
    """
    a, b = (sitk.GetArrayViewFromImage(x) for x in (carried, target))
    labels = sorted({*metrics.label_values(a), *metrics.label_values(b)})
    dice, hd95 = metrics.dice(a, b, labels), metrics.hausdorff95(a, b, labels)
    rows = {
        (names or {}).get(label, str(label)): {"dice": dice[label], "hd95_voxels": _number(hd95[label])}
        for label in labels
    }
    return {
        "labels": rows,
        "mean_dice": _number(np.mean(list(dice.values()))) if labels else None,
        "mean_hd95_voxels": _number(np.mean(list(hd95.values()))) if labels else None,
    }


def landmarks(fixed_points: np.ndarray, moving_points: np.ndarray, deformation: Deformation) -> dict[str, Any]:
    """Target registration error in mm at fixed landmarks (n, 3), before and after."""
    out: dict[str, Any] = {"count": len(fixed_points)}
    for moment, points in (("before_mm", fixed_points), ("after_mm", deformation.to_moving(fixed_points))):
        errors = metrics.landmark_errors(points, moving_points)
        out[moment] = {"mean": float(errors.mean()), "std": float(errors.std()), "max": float(errors.max())}
    return out


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def verdict(quality: dict[str, Any], warnings: list[str], judged_by: str) -> dict[str, Any]:
    """Green, amber or red, with reasons; ``judged_by`` names the similarity that was optimized."""
    red: list[str] = []
    amber: list[str] = list(warnings)
    good: list[str] = []

    folded = quality["regularity"]["folded_share"]
    if folded > FOLDED_AMBER:
        text = f"{percent(folded)} of voxels are folded: there the map is physically impossible"
        (red if folded > FOLDED_RED else amber).append(text)
    else:
        good.append("the deformation does not fold" if folded == 0 else f"only {percent(folded)} of voxels fold")

    extreme = quality["regularity"]["extreme_share"]
    if extreme > EXTREME_AMBER:
        amber.append(
            f"{percent(extreme)} of voxels grow or shrink more than {EXTREME:.0f}-fold: look at the Jacobian there"
        )

    color, text = _likeness(quality["similarity"], judged_by)
    {"red": red, "amber": amber, "green": good}[color].append(text)

    reached = quality["similarity"].get("overlap_share", {}).get("after")
    if reached is not None and reached < REACHED:
        amber.append(
            f"only {percent(reached)} of the smaller image lies on the other after registration: what the images have "
            "in common there says little"
        )

    error = quality["regularity"]["inverse_consistency_voxels"]["mean"]
    if error is not None and error > INVERSE_AMBER:
        amber.append(f"there and back misses the start by {error:.2f} voxels on average")
    elif error is not None:
        good.append(f"there and back returns within {error:.2f} voxels on average")

    agreement = quality.get("segmentation_agreement")
    if agreement is not None:
        value = agreement["mean_dice"] or 0.0
        text = f"carried-over and predicted segmentation agree with Dice {value:.2f}"
        text += ", which the registration sought" if agreement["sought"] else ""
        (red if value < AGREEMENT_RED else amber if value < AGREEMENT_AMBER else good).append(text)

    given = quality.get("labels")
    if given and given["before"]["mean_dice"] is not None and given["after"]["mean_dice"] is not None:
        before, after = given["before"]["mean_dice"], given["after"]["mean_dice"]
        text = f"the given labels overlap with Dice {before:.2f} → {after:.2f}"
        text += "; do they use the same values?" if after == 0 else ""
        # Labels that hardly overlap, and no more than before, speak for no registration.
        vain = after < AGREEMENT_RED and after < before + WORSE
        (red if after == 0 or after < before - WORSE else amber if vain else good).append(text)
    points = quality.get("landmarks")
    if points:
        before, after = points["before_mm"]["mean"], points["after_mm"]["mean"]
        text = f"{points['count']} landmarks are {before:.1f} → {after:.1f} mm apart"
        text += "; are both lists in one order, and in LPS mm?" if after > min(FAR, before) else ""
        # Landmarks that stay away as they were are no landmarks of one another, or the registration has failed.
        lost = after > before + APART or after > max(FAR, HARDLY * before)
        (red if lost else amber if after > FAR or after > before + APART / 5 else good).append(text)

    color = "red" if red else "amber" if amber else "green"
    return {"color": color, "reasons": [*red, *amber] if color != "green" else good, "checks_passed": good}


def _likeness(similarity: dict[str, Any], judged_by: str) -> tuple[str, str]:
    """Color and sentence about how alike the images are."""
    before, after = (similarity[judged_by][moment] for moment in ("before", "after"))
    if after is None:
        return "red", "after registration the images do not overlap"
    whole = similarity["correlation"]
    if (whole["before"] or 0) >= SAME_BEFORE and whole["after"] >= SAME_AFTER:
        text = f"the images were nearly the same (correlation {whole['before']:.2f} → {whole['after']:.2f})"
        return ("amber", f"{text} and are less so now") if whole["after"] < whole["before"] - WORSE else ("green", text)
    was = "no overlap" if before is None else f"{before:.2f}"
    change = f"({judged_by.replace('_', ' ')} {was} → {after:.2f})"
    if before is not None and after < before - WORSE:
        return "red", f"the images are less alike than before {change}"
    if not after >= FLOOR[judged_by]:  # nor if it is NaN
        return "amber", f"the images have little in common even after registration {change}"
    if before is not None and round(after, 2) <= round(before, 2):
        return "amber", f"the images are no more alike than before {change}"
    return "green", f"the images are more alike {change}"
