"""Two people of known anatomy, about as large as what `symmetric-hippocampus` knows."""

from __future__ import annotations

import numpy as np
from JointRegSegLib.geometry import Grid
from samples import CENTER, Scene, motion

#: From fixed to moving points.
KNOWN = motion((4, 0, -5), (1, 1, 1), (2, -2, 1))
_TILTED = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.diag([1, -1, 1])
FIXED_GRID = Grid.centered(CENTER, (34, 50, 36), (1, 1, 1), np.eye(3))
MOVING_GRID = Grid.centered(CENTER, (36, 48, 30), (1, 1.1, 1.2), _TILTED)


def person(seed: int) -> Scene:
    """One of them."""
    places, radii = [[0, 0, 0], [-2, 8, 2], [2, -8, -2]], [[14, 22, 14], [6, 9, 6], [5, 10, 5]]
    scene = Scene(CENTER + places, np.array(radii, float), np.array([100.0, 90.0, -40.0]), 1.5, 60.0)
    return scene.varied(seed, 1.0)
