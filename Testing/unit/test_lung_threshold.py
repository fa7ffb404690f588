"""Lungs found by density: on the phantom's two lattices, and on bodies made of balls."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung import threshold
from JointRegSegLib.phantom import breathing_thorax

#: A lattice along the axes of the body, 3 mm, with the patient's left to the end of i.
GRID = Grid.centered((0, 0, 0), (80, 70, 60), (3, 3, 3), np.eye(3))


def body(*balls: tuple[float, float, float, float], grid: Grid = GRID) -> np.ndarray:
    """HU of a body of water in air, with balls of lung: middle (LPS mm) and radius of each."""
    k, j, i = np.indices(grid.shape)
    points = grid.to_world(np.stack([i, j, k], -1))
    hu = np.where(np.hypot(points[..., 0] / 110, points[..., 1] / 95) < 1, 20.0, -1000.0)
    for *middle, radius in balls:
        hu[np.linalg.norm(points - middle, axis=-1) < radius] = -850
    return hu


def volumes(labels: np.ndarray, grid: Grid = GRID) -> list[float]:
    return [float((labels == value).sum() * grid.voxel_volume / 1000) for value in (threshold.RIGHT, threshold.LEFT)]


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_phantom(side):
    pair = breathing_thorax()
    image, labels = (getattr(pair, f"{side}{what}") for what in ("", "_labels"))
    found = threshold.lungs(sitk.GetArrayFromImage(image), files.grid_of(image))
    truth = sitk.GetArrayFromImage(labels)
    for value in threshold.NAMES:
        both = ((found == value) & (truth == value)).sum()
        assert 2 * both / ((found == value).sum() + (truth == value).sum()) > 0.98


def test_two_lungs_are_told_apart_by_the_patients_sides():
    found = threshold.lungs(body((-50, 0, 0, 42), (50, 0, 0, 36)), GRID)
    expected = [4 / 3 * np.pi * r**3 / 1000 for r in (42, 36)]
    np.testing.assert_allclose(volumes(found), expected, rtol=0.03)


def test_sides_are_those_of_the_world_on_any_lattice():
    turned = GRID.oriented("ASR")
    found = threshold.lungs(body((-50, 0, 0, 42), (50, 0, 0, 36), grid=turned), turned)
    right, left = volumes(found, turned)
    assert right > 1.3 * left > 0


def test_lungs_that_touch_are_cut_between():
    found = threshold.lungs(body((-42, 0, 0, 44), (42, 0, 0, 44)), GRID)
    right, left = volumes(found)
    assert abs(right - left) < 0.05 * right
    place = GRID.to_world(np.argwhere(found == threshold.RIGHT)[:, ::-1])
    assert place[:, 0].max() < 8


def test_one_lung_alone():
    right, left = volumes(threshold.lungs(body((50, 0, 0, 44)), GRID))
    assert right == 0 and left > 300


def test_the_lobes_of_one_lung_are_not_two_lungs():
    one = threshold.lungs(body((-60, 0, 42, 45), (-55, 0, -42, 45)), GRID)
    assert set(np.unique(one)) == {0, threshold.RIGHT}


def test_vessels_belong_to_the_lung():
    hu = body((-50, 0, 0, 42), (50, 0, 0, 42))
    whole = threshold.lungs(hu, GRID) > 0
    hu[:, 34:36, :][whole[:, 34:36, :]] = 40  # a sheet of two voxels across both lungs
    assert (threshold.lungs(hu, GRID) > 0).sum() > 0.97 * whole.sum()


def test_gas_of_a_full_stomach_is_no_lung():
    """It may be a third as large as a lung; emphysema is as clear, but holds some tissue."""
    hu = body((-50, 0, 36, 42), (50, 0, 36, 42))
    alone = volumes(threshold.lungs(hu, GRID))
    where = np.linalg.norm(GRID.to_world(np.indices(GRID.shape)[::-1].reshape(3, -1).T) - (50, 0, -50), axis=1) < 33
    for value, counts in ((-1000, False), (-955, True)):
        hu.reshape(-1)[where] = value
        found = sum(volumes(threshold.lungs(hu, GRID)))
        assert (found > sum(alone) + 100) == counts


def test_air_in_the_belly_is_no_lung():
    found = threshold.lungs(body((-50, 0, 30, 42), (50, 0, 30, 42), (30, -40, -60, 14)), GRID)
    place = GRID.to_world(np.argwhere(found > 0)[:, ::-1])
    assert place[:, 2].min() > -20


@pytest.mark.parametrize(
    "hu, message",
    [
        (body((-50, 0, 0, 42)) + 1000, "no CT numbers"),
        (body(), "no lungs of 300 ml"),
        (body((-50, 0, 0, 20), (50, 0, 0, 20)), "no lungs of 300 ml"),
    ],
    ids=["shifted values", "no air", "too small"],
)
def test_refused(hu, message):
    with pytest.raises(InputError, match=message):
        threshold.lungs(hu, GRID)
