"""Figures of a network alone, on the working lattice; the commands of the library measure the whole way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from JointRegSegLib import fields, metrics
from JointRegSegLib.networks import RegistrationNetwork

from .cohort import Subject


@torch.inference_mode()
def validate(
    network: RegistrationNetwork, subjects: Sequence[Subject], pairs: Sequence[tuple[str, str]], labels: Sequence[int]
) -> dict[str, float]:
    """Figures of the network alone on pairs (moving, fixed), on the working lattice: see `metrics`."""
    device = next(network.parameters()).device
    named = {s.name: s for s in subjects}
    rows = []
    for moving_name, fixed_name in pairs:
        moving, fixed = named[moving_name], named[fixed_name]
        out = network(moving.image.to(device), fixed.image.to(device))
        carried = fields.warp(moving.labels.to(device), out.there, "nearest")
        truth = fixed.labels[0, 0].numpy()
        row = {
            "before": _mean(metrics.dice(moving.labels[0, 0].numpy(), truth, labels)),
            "dice": _mean(metrics.dice(carried[0, 0].cpu().numpy(), truth, labels)),
            "hd95": _mean(metrics.hausdorff95(carried[0, 0].cpu().numpy(), truth, labels)),
            "folded": metrics.folded_share(out.forward[0].cpu().numpy()),
            "spread": metrics.log_jacobian_spread(out.forward[0].cpu().numpy()),
        }
        if out.back is not None:
            row["inverse"] = float(fields.round_trip(out.there, out.back).nanmean())
        if out.fixed_segmentation is not None:
            found = out.fixed_segmentation.argmax(1)[0].cpu().numpy()
            values = np.array([0, *labels])
            row["segmentation"] = _mean(metrics.dice(values[found], truth, labels))
        rows.append(row)
    result = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    result["dice30"] = metrics.hardest_mean([r["dice"] for r in rows], [r["before"] for r in rows])
    return result


def _mean(values: dict[int, float]) -> float:
    return float(np.nanmean(list(values.values())))
