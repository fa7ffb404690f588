"""Which part of the lungs drove an answer: what becomes of it when that part moves as in the healthy on average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from ..geometry import Grid
from .features import frame
from .pair import BreathingPair
from .regions import ZONES

#: Side of the occluded cube, and the step between two of them, for the side of the input.
PATCH, STEP = 1 / 4, 1 / 12
#: Least drop of the logit for which a zone is named: it changes no probability by more than half a percent.
LEAST = 0.02


@torch.inference_mode()
def occlusion(
    logit: Callable[[torch.Tensor], torch.Tensor], motion: torch.Tensor, usual: torch.Tensor, batch: int = 32
) -> np.ndarray:
    """Drop of the logit when a cube of the input is replaced (Zeiler & Fergus 2014).

    Parameters
    ----------
    logit : callable
        (N, C, n, n, n) → (N,).
    motion, usual : torch.Tensor
        (C, n, n, n): the input, and what takes its place.

    Returns
    -------
    ndarray
        (n, n, n) mean drop over the cubes that hold a node: above 0 where the motion spoke for disease.
    """
    size = motion.shape[-1]
    total, count = np.zeros((size,) * 3), np.zeros((size,) * 3)
    whole = float(logit(motion[None])[0])
    cubes = list(_cubes(size))
    for start in range(0, len(cubes), batch):
        chosen = cubes[start : start + batch]
        inputs = motion.repeat(len(chosen), 1, 1, 1, 1)
        for row, cube in zip(inputs, chosen, strict=True):
            row[(slice(None), *cube)] = usual[(slice(None), *cube)]
        for cube, answer in zip(chosen, logit(inputs).tolist(), strict=True):
            total[cube] += whole - answer
            count[cube] += 1
    return total / count


def _cubes(size: int) -> Iterator[tuple[slice, slice, slice]]:
    side, step = max(round(PATCH * size), 1), max(round(STEP * size), 1)
    starts = sorted({*range(0, size - side, step), size - side})
    for corner in product(starts, repeat=3):
        yield tuple(slice(n, n + side) for n in corner)


def on_lungs(values: np.ndarray, pair: BreathingPair) -> np.ndarray:
    """(n, n, n) on the pair's `frame` at its (m,) voxels of lung."""
    index = frame(pair, values.shape[0]).to_index(pair.points).T[::-1]
    return ndimage.map_coordinates(values, index, order=1, mode="nearest")


def as_image(values: np.ndarray, pair: BreathingPair, grid: Grid) -> np.ndarray:
    """(m,) values of the lungs' voxels on the fixed image's lattice, (D, H, W) float32; 0 outside the lungs."""
    out = np.zeros(pair.lungs.shape)
    out[pair.lungs] = values
    if grid.matches(pair.grid):
        return out.astype(np.float32)
    k, j, i = np.indices(grid.shape, np.float32)
    index = pair.grid.to_index(np.stack([i, j, k], -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3])
    return ndimage.map_coordinates(out, np.moveaxis(index[..., ::-1], -1, 0), order=1, mode="constant").astype(
        np.float32
    )


def driving_zones(values: np.ndarray, pair: BreathingPair, answer: float, count: int = 3) -> list[dict[str, float]]:
    """The zones whose motion spoke for an answer (its logit), with their mean (m,) occlusion, strongest first.

    No more than ``count``, and none whose drop is less than `LEAST` or speaks for the other answer.
    """
    means = {zone: float(values[pair.parts[zone]].mean()) for zone in ZONES if zone in pair.parts}
    spoke = {zone: mean if answer >= 0 else -mean for zone, mean in means.items()}
    order = sorted((zone for zone in spoke if spoke[zone] >= LEAST), key=lambda zone: -spoke[zone])
    return [{"zone": zone, "drop_of_logit": means[zone]} for zone in order[:count]]
