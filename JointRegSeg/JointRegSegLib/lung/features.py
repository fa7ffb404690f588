"""What a classifier sees of a breathing pair, comparable from person to person and from lattice to lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from ..geometry import Grid
from . import table
from .pair import BreathingPair
from .regions import WHOLE, ZONES

Motion = Literal["residual", "whole"]
#: Of each figure of `regional` the zone and the measure, by name.
REGIONAL = {
    f"{zone}: {key}": (zone, key)
    for zones, keys in (
        ((WHOLE,), ("ventilation", "anisotropy", "heterogeneity")),
        (ZONES, ("relative_ventilation", "anisotropy")),
    )
    for zone in zones
    for key in keys
}


@dataclass(frozen=True)
class Recipe:
    """How a pair becomes the network's input.

    Attributes
    ----------
    size : int
        Nodes along each side of the frame, which is the box of the lungs along the body's axes.
    motion : 'residual' or 'whole'
        The motion without the affine map that fits it best in the lungs, or all of it (the published G - G_I).
    ventilation : bool
        Add the ventilation, relative to the lungs' own, as a fourth channel.
    by_depth : bool
        Divide the motion by the lungs' mean linear strain. To first order all of the motion grows with the depth of a
        breath, which patients choose and which says little of where the lung is stiff; undivided, the motion is told
        in percent of the lungs' size.
    """

    size: int = 16
    motion: Motion = "residual"
    ventilation: bool = False
    by_depth: bool = True

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 4 if self.ventilation else 3


def frame(pair: BreathingPair, size: int) -> Grid:
    """The box of the lungs along L, P and S, with ``size`` nodes a side: an axis each of the array's W, H and D."""
    points = pair.points
    # Outermost percents, widened: a stray voxel, or the width of one, does not shift the frame.
    low, high = np.percentile(points, (1, 99), axis=0)
    return Grid.centered((low + high) / 2, (size,) * 3, 1.08 * (high - low) / size, np.eye(3))


def prepare(pair: BreathingPair, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """The network's input.

    Returns
    -------
    tuple of ndarray
        (C, n, n, n) float32 on `frame`: motion from exhale to inhale along x, y, z (LPS) as `Recipe` tells it, and
        ventilation; 0 outside the lungs. And (n, n, n) bool: where the lungs are.

    Raises
    ------
    InputError
        If the lungs hardly change their volume.
    """
    lattice = frame(pair, recipe.size)
    k, j, i = np.indices(lattice.shape)
    index = pair.grid.to_index(lattice.to_world(np.stack([i, j, k], -1)))
    index = np.moveaxis(index[..., ::-1], -1, 0)

    def read(volume: np.ndarray, mode: str = "nearest") -> np.ndarray:
        return ndimage.map_coordinates(volume.astype(np.float32), index, order=1, mode=mode)

    inside = read(pair.lungs, "constant") > 0.5
    motion = pair.breath.expansion.motion
    if recipe.motion == "residual":
        middle = pair.points.mean(0)
        design = np.column_stack([pair.points - middle, np.ones(len(motion))])
        motion = motion - design @ np.linalg.lstsq(design, motion, rcond=None)[0]
    ventilation = table.maps(pair.breath)["relative_ventilation"]  # which refuses lungs that do not breathe
    scale = pair.volume_ratio ** (1 / 3) - 1 if recipe.by_depth else 0.01
    out = np.stack([read(pair.spread(component)) for component in (motion / (lattice.extent * scale)).T])
    if recipe.ventilation:
        out = np.concatenate([out, read(pair.spread(ventilation - 1))[None]])
    return (out * inside).astype(np.float32), inside


def regional(pair: BreathingPair) -> dict[str, float]:
    """Figures of the lungs and of `ZONES` by name (`REGIONAL`), none of which depends on how the patient lies.

    Raises
    ------
    InputError
        If the lungs hardly change their volume.
    """
    found = {row["region"]: row for row in table.table(pair.breath, pair.parts)}
    # A zone without a voxel is as the lungs are.
    return {name: float(found.get(zone, found[WHOLE])[key]) for name, (zone, key) in REGIONAL.items()}
