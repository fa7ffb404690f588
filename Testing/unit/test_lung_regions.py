"""Zones of lungs of known shape, on lattices that do not run along the body's axes."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung.regions import WHOLE, regions
from scipy.spatial.transform import Rotation

NAMES = {1: "right lung", 2: "left lung"}
#: LPS mm: two blocks, 60 wide, 80 deep, 120 high; right is where x is negative.
WIDE, DEEP, HIGH = 60, 80, 120


def lungs(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Labels (D, H, W) and world points (D, H, W, 3)."""
    k, j, i = np.indices(grid.shape)
    x = grid.to_world(np.stack([i, j, k], -1))
    inside = (
        (np.abs(x[..., 1]) < DEEP / 2) & (np.abs(x[..., 2]) < HIGH / 2) & (np.abs(np.abs(x[..., 0]) - 50) < WIDE / 2)
    )
    return np.where(inside, np.where(x[..., 0] < 0, 1, 2), 0), x


def grids() -> list[Grid]:
    turn = Rotation.from_euler("xyz", (10, -5, 20), degrees=True).as_matrix()
    flipped = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
    return [
        Grid.centered((0, 0, 0), (100, 60, 64), (2.0, 2.5, 3.0), turn),
        Grid.centered((0, 0, 0), (48, 50, 80), (2.5, 3.0, 2.5), flipped),
    ]


@pytest.mark.parametrize("grid", grids(), ids=["oblique", "flipped"])
def test_zones_follow_the_body(grid):
    labels, x = lungs(grid)
    found = regions(labels, grid, NAMES)
    whole = found[WHOLE]
    assert (whole == (labels > 0)).all()
    for side in NAMES.values():
        assert (found[side] <= whole).all()
    voxel = grid.spacing.max()
    for name, axis, low, high in (
        ("lower zone", 2, -60, -20),
        ("middle zone", 2, -20, 20),
        ("upper zone", 2, 20, 60),
        ("ventral half", 1, -40, 0),
        ("dorsal half", 1, 0, 40),
    ):
        along = x[found[name]][:, axis]
        assert along.min() > low - voxel and along.max() < high + voxel, name
    for zones in (("lower zone", "middle zone", "upper zone"), ("ventral half", "dorsal half"), ("peel", "core")):
        assert (sum(found[zone].astype(int) for zone in zones) == whole).all()
    # The core of each block is the block without 15 mm on every side.
    core = 2 * (WIDE - 30) * (DEEP - 30) * (HIGH - 30)
    assert found["core"].sum() * grid.voxel_volume == pytest.approx(core, rel=0.1)


def test_lungs_at_the_images_border_have_a_surface_there():
    labels = np.ones((20, 20, 20), int)
    found = regions(labels, Grid.from_geometry((20, 20, 20), (5, 5, 5)), NAMES)
    assert found["core"].sum() == 14**3


def test_no_lung_is_an_error():
    with pytest.raises(InputError, match="none of right lung, left lung"):
        regions(np.zeros((4, 4, 4), int), Grid.from_geometry((4, 4, 4)), NAMES)


@pytest.mark.parametrize("names", [{1: "lung", 2: "lung"}, {1: "lungs", 2: "other"}, {1: "core"}, {1: " "}])
def test_names_that_would_hide_a_region(names):
    labels, _ = lungs(grids()[1])
    with pytest.raises(InputError, match="cannot be the name"):
        regions(labels, grids()[1], names)
