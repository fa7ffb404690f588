"""Figures by which a registration is judged, as the Learn2Reg evaluation computes them (Hering et al. 2022).

All take NumPy arrays in array order (D, H, W); displacements are (3, D, H, W) in voxels of the fixed lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from . import fields

Box = tuple[slice, ...]
NOWHERE = (slice(0),) * 3


def label_values(labels: np.ndarray) -> list[int]:
    """Values of a label map but the background's 0, rising."""
    return list(_boxes(labels))


def dice(a: np.ndarray, b: np.ndarray, labels: Sequence[int]) -> dict[int, float]:
    """Dice coefficient of each label; NaN for a label that neither map has."""
    out = {}
    boxes_a, boxes_b = _boxes(a), _boxes(b)
    for label in labels:
        here = boxes_a.get(label, NOWHERE)
        x, y = a[here] == label, b[boxes_b.get(label, NOWHERE)] == label
        total = np.count_nonzero(x) + np.count_nonzero(y)
        out[label] = 2 * np.count_nonzero(x & (b[here] == label)) / total if total else float("nan")
    return out


def hausdorff95(a: np.ndarray, b: np.ndarray, labels: Sequence[int]) -> dict[int, float]:
    """95 % Hausdorff distance of each label in voxels; NaN where one of the maps lacks the label.

    The distance from each piece of one surface to the other, its 95th percentile weighted by the piece's area, the
    larger of the two directions: what the code of the challenge itself (DeepMind's surface-distance) comes to, without
    its sorting of Python objects.
    """
    boxes_a, boxes_b = _boxes(a), _boxes(b)
    out = dict.fromkeys(labels, float("nan"))
    for label in boxes_a.keys() & boxes_b.keys() & out.keys():
        x, y = _surface(a, label, boxes_a[label]), _surface(b, label, boxes_b[label])
        out[label] = max(_percentile95(x, y), _percentile95(y, x))
    return out


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """Where each label of a map lies; most are small beside the image, so that the rest of it need not be looked at."""
    found = ndimage.find_objects(labels.astype(np.uint16, copy=False))
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _surface(labels: np.ndarray, label: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Corners of voxels (n, 3) where a label begins or ends, and the area (n,) of its surface around each."""
    weights, areas = _neighbors()
    inside = np.pad(labels[box] == label, 1).view(np.uint8)
    code = np.zeros([n - 1 for n in inside.shape], np.uint8)
    for place, weight in np.ndenumerate(weights):
        code += weight * inside[tuple(slice(k, k + n) for k, n in zip(place, code.shape, strict=True))]
    border = np.nonzero((code != 0) & (code != 255))
    return np.stack(border, 1) + [part.start for part in box], areas[code[border]]


@cache
def _neighbors() -> tuple[np.ndarray, np.ndarray]:
    """What each voxel around a corner adds to its code, (2, 2, 2), and the area of each code, (256,) voxels squared."""
    from surface_distance import lookup_tables

    weights = np.asarray(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL, np.uint8)
    return weights, np.asarray(lookup_tables.create_table_neighbour_code_to_surface_area((1, 1, 1)))


def _percentile95(surface: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Distance in voxels that 95 % of a surface's area keep to the other one; both as `_surface` has them."""
    tree = cKDTree(other[0], balanced_tree=False, compact_nodes=False)
    distances = tree.query(surface[0], workers=torch.get_num_threads())[0]
    order = np.argsort(distances)
    covered = np.cumsum(surface[1][order])
    return float(distances[order][min(np.searchsorted(covered, 0.95 * covered[-1]), len(order) - 1)])


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
