"""Figures of a network alone, on the working lattice; the commands of the library measure the whole way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from JointRegSegLib import fields, metrics
from JointRegSegLib.networks import RegistrationNetwork

from .plan import Plan
from .subjects import Subject


@torch.inference_mode()
def validate(
    network: RegistrationNetwork, subjects: Sequence[Subject], pairs: Sequence[tuple[str, str]], plan: Plan
) -> dict[str, float]:
    """Means over pairs (moving, fixed) of the network alone, on the working lattice: see `metrics`.

    Of each pair the labels count that were annotated in both images; ``segmentation`` is measured in the fixed image,
    or in the moving one where the network segments that alone.
    """
    rows = each(network, subjects, pairs, plan)
    result = {}
    for key in rows[0]:
        found = [row[key] for row in rows if np.isfinite(row[key])]
        if found:
            result[key] = float(np.mean(found))
    measured = [row for row in rows if np.isfinite(row["dice"]) and np.isfinite(row["before"])]
    if measured:
        result["dice30"] = metrics.hardest_mean([r["dice"] for r in measured], [r["before"] for r in measured])
    return result


@torch.inference_mode()
def each(
    network: RegistrationNetwork, subjects: Sequence[Subject], pairs: Sequence[tuple[str, str]], plan: Plan
) -> list[dict[str, float]]:
    """Figures of each pair; NaN where nothing was annotated."""
    device = next(network.parameters()).device
    named = {s.name: s for s in subjects}
    values, channels, rows = np.array(plan.values), list(plan.segmented), []
    for moving_name, fixed_name in pairs:
        moving, fixed = named[moving_name], named[fixed_name]
        out = network.infer(moving.image.to(device), fixed.image.to(device))
        carried = fields.warp(moving.labels.to(device), out.there, "nearest")[0, 0].cpu().numpy()
        truth = fixed.labels[0, 0].numpy()
        both = values[(moving.known & fixed.known).numpy()].tolist()
        displacement = out.forward[0].cpu().numpy()
        row = {
            "before": _mean(metrics.dice(moving.labels[0, 0].numpy(), truth, both)),
            "dice": _mean(metrics.dice(carried, truth, both)),
            "hd95": _mean(metrics.hausdorff95(carried, truth, both)),
            "folded": metrics.folded_share(displacement),
            "spread": metrics.log_jacobian_spread(displacement),
        }
        if out.back is not None:
            row["inverse"] = float(fields.round_trip(out.there, out.back).nanmean())
        for scores, subject in ((out.fixed_segmentation, fixed), (out.moving_segmentation, moving)):
            if scores is not None:
                found = np.array([0, *values[channels]])[scores.argmax(1)[0].cpu().numpy()]
                drawn, counted = subject.labels[0, 0].numpy(), [int(values[i]) for i in channels if subject.known[i]]
                row["segmentation"] = _mean(metrics.dice(found, drawn, counted))
                break
        rows.append(row)
    return rows


def class_scores(network: RegistrationNetwork, image: torch.Tensor) -> torch.Tensor | None:
    """Scores (1, 1 + K, D, H, W) of one image (1, C, D, H, W), paired with itself; None if the network has none."""
    answer = network.infer(image, image)
    return answer.moving_segmentation if answer.fixed_segmentation is None else answer.fixed_segmentation


def _mean(values: dict[int, float]) -> float:
    found = [v for v in values.values() if np.isfinite(v)]
    return float(np.mean(found)) if found else float("nan")
