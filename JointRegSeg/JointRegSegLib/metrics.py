"""Figures by which a registration is judged, as the Learn2Reg evaluation computes them (Hering et al. 2022).

All take NumPy arrays in array order (D, H, W); displacements are (3, D, H, W) in voxels of the fixed lattice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from . import fields


def label_values(labels: np.ndarray) -> list[int]:
    """Values of a label map but the background's 0, rising."""
    return [int(value) for value in np.unique(labels[labels != 0])]  # the background, most of it, is not sorted


def dice(a: np.ndarray, b: np.ndarray, labels: Sequence[int]) -> dict[int, float]:
    """Dice coefficient of each label; NaN for a label that neither map has."""
    out = {}
    for label in labels:
        x, y = a == label, b == label
        total = int(x.sum()) + int(y.sum())
        out[label] = 2 * int((x & y).sum()) / total if total else float("nan")
    return out


def hausdorff95(a: np.ndarray, b: np.ndarray, labels: Sequence[int]) -> dict[int, float]:
    """95 % Hausdorff distance of each label in voxels; NaN where one of the maps lacks the label.

    The distance from each piece of one surface to the other, its 95th percentile weighted by the piece's area, the
    larger of the two directions: the code of the challenge itself (DeepMind's surface-distance) does it.
    """
    import surface_distance

    out = {}
    for label in labels:
        x, y = a == label, b == label
        if x.any() and y.any():
            distances = surface_distance.compute_surface_distances(x, y, (1, 1, 1))
            out[label] = float(surface_distance.compute_robust_hausdorff(distances, 95))
        else:
            out[label] = float("nan")
    return out


def sdlogj(displacement: np.ndarray) -> float:
    """Learn2Reg's SDlogJ: standard deviation of log(clip(det + 3, 1e-9, 1e9)), a border of two voxels dropped.

    The + 3 flattens it; `log_jacobian_spread` is the honest figure.
    """
    det = _determinant(displacement)[2:-2, 2:-2, 2:-2]
    return float(np.log(np.clip(det + 3, 1e-9, 1e9)).std())


def log_jacobian_spread(displacement: np.ndarray) -> float:
    """Standard deviation of the log Jacobian determinant over voxels that do not fold."""
    det = _determinant(displacement)
    return float(np.log(det[det > 0]).std()) if (det > 0).any() else float("nan")


def folded_share(displacement: np.ndarray) -> float:
    """Share (0 to 1) of voxels with a Jacobian determinant of zero or less."""
    return float((_determinant(displacement) <= 0).mean())


def _determinant(displacement: np.ndarray) -> np.ndarray:
    return fields.jacobian_determinant(torch.from_numpy(np.ascontiguousarray(displacement))[None].float())[0, 0].numpy()


def hardest_mean(values: Sequence[float], before: Sequence[float], share: float = 0.3) -> float:
    """Mean over the ``share`` of cases that were worst ``before`` registration (Dice30 for Dice values)."""
    order = np.argsort(np.asarray(before))
    count = max(1, round(share * len(order)))
    return float(np.mean(np.asarray(values)[order[:count]]))


def landmark_errors(fixed_points: np.ndarray, moving_points: np.ndarray) -> np.ndarray:
    """Distances (n,) in mm between corresponding points (n, 3)."""
    return np.linalg.norm(np.asarray(fixed_points, float) - np.asarray(moving_points, float), axis=1)
