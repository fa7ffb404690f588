"""Flows within a region against solutions known in closed form."""

from __future__ import annotations

import numpy as np
from JointRegSegLib.lung.slip import projected
from scipy import ndimage

SPACING = np.array([2.0, 3.0, 4.0])


def box(*shape: int) -> np.ndarray:
    region = np.zeros(shape, bool)
    region[2:-2, 2:-2, 2:-2] = True
    return region


def test_nothing_flows_out_of_a_box():
    region = box(12, 12, 12)
    drive = np.zeros((3, *region.shape))
    drive[1] = 5.0  # a gradient, which walls hold up altogether
    flow = projected(region, SPACING, drive, np.zeros(region.shape))
    np.testing.assert_allclose(flow, 0, atol=1e-4)


def test_divergence_as_wanted():
    region = box(14, 9, 9)
    z = np.arange(14)[:, None, None] * SPACING[0] + np.zeros(region.shape)
    middle = z[region].mean()
    wanted = 0.01 * (z - middle)
    flow = projected(region, SPACING, np.zeros((3, *region.shape)), wanted + 0.2)  # a part as a whole cannot grow
    # dv/dz = 0.01 (z - middle), zero at both walls, which lie half a voxel beyond the outer centers.
    wall = z[region].max() + SPACING[0] / 2 - middle
    expected = 0.005 * ((z - middle) ** 2 - wall**2)
    inner = region & ndimage.binary_erosion(region, np.ones((3, 1, 1)))
    np.testing.assert_allclose(flow[0][inner], expected[inner], atol=0.03)
    np.testing.assert_allclose(flow[1:][:, region], 0, atol=1e-4)


def test_a_ball_may_turn_in_its_socket():
    k, j, i = np.indices((31, 31, 31)) - 15.0
    region = k**2 + j**2 + i**2 < 13**2
    turning = np.stack([0 * k, -i, j])
    flow = projected(region, np.ones(3), turning, np.zeros(region.shape))
    inner = ndimage.binary_erosion(region, iterations=3)
    missed = np.linalg.norm((flow - turning)[:, inner], axis=0)
    assert missed.mean() < 0.04 * np.linalg.norm(turning[:, inner], axis=0).mean()


def test_parts_do_not_exchange_anything():
    region = box(12, 12, 25)
    region[:, :, 12] = False
    wanted = np.where(np.arange(25) < 12, 1.0, -1.0) + np.zeros(region.shape)
    flow = projected(region, SPACING, np.zeros((3, *region.shape)), wanted)
    np.testing.assert_allclose(flow, 0, atol=1e-6)


def test_goes_on_outside_as_at_the_border():
    region = box(14, 9, 9)
    wanted = np.sin(np.arange(9) / 2)[None, :, None] + np.zeros(region.shape)
    flow = projected(region, SPACING, np.zeros((3, *region.shape)), wanted)
    np.testing.assert_array_equal(flow[:, 0, 4, 4], flow[:, 2, 4, 4])
    assert np.abs(flow).max() > 0.1
