"""Currents: their inner product, their flow, and shapes whose deformation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegTrainingLib.references.currents import Matching, current, flow, match, mismatch, product, spread
from JointRegSegTrainingLib.references.surfaces import Surface, surface
from scipy.spatial.transform import Rotation

SHAPE, SPACING = (16, 40, 44), (8.0, 2.5, 2.0)
MIDDLE = np.array([60.0, 48.0, 43.0])


def ellipsoid(radii) -> Surface:
    x = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING - MIDDLE
    return surface(np.square(x / np.array(radii)).sum(-1) <= 1, SPACING, 10.0)


def as_current(shape: Surface):
    return current(torch.from_numpy(shape.points), torch.from_numpy(shape.triangles))


def test_product_of_two_triangles():
    points = torch.tensor([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 3], [2, 0, 3], [0, 2, 3.0]])
    one, other = current(points, torch.tensor([[0, 1, 2]])), current(points, torch.tensor([[3, 4, 5]]))
    turned = current(points, torch.tensor([[4, 3, 5]]))
    torch.testing.assert_close(one[1], torch.tensor([[0, 0, 2.0]]))  # area times normal
    # 3 apart, a kernel of standard deviation 3: exp(-1/2) times 2 · 2.
    assert float(product(one, other, 3)) == pytest.approx(4 * np.exp(-0.5))
    assert float(product(one, turned, 3)) == pytest.approx(-4 * np.exp(-0.5))


def test_mismatch_is_none_for_the_same_and_one_for_far_shapes():
    shape = ellipsoid((40, 25, 30))
    same, far = as_current(shape), as_current(Surface(shape.points + 1000, shape.triangles))
    assert float(mismatch(same, same, 10)) == pytest.approx(0, abs=1e-6)
    assert float(mismatch(same, far, 10)) == pytest.approx(1)
    assert float(mismatch(same, far, 10, product(far, far, 10))) == pytest.approx(1)


def test_points_of_one_momentum_move_as_its_kernel():
    points = torch.tensor([[0.0, 0, 0], [0, 6, 0], [0, 0, 1000]])
    momenta = torch.tensor([[[0.5, 0, 0]]])
    moved, energy = flow(points, torch.tensor([0]), momenta, (6.0,))
    expected = [[0.5, 0, 0], [0.5 * np.exp(-0.5), 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(moved - points, expected, atol=1e-6)
    assert float(energy) == pytest.approx(0.25)


def test_spread_points_are_far_apart():
    line = np.column_stack([np.arange(9), np.zeros(9), np.zeros(9)])
    assert sorted(spread(line, 3)) == [0, 4, 8]
    assert len(spread(line, 100)) == 9


def test_a_shift_and_a_scale_are_found():
    template = ellipsoid((40, 25, 30))
    moved = Surface(1.2 * (template.points - MIDDLE) + MIDDLE + [10, -6, 4], template.triangles)
    found = match([template], [moved], Matching())
    np.testing.assert_allclose(found, moved.points, atol=0.5)


def test_an_affine_image_of_a_surface_is_found_from_its_shape_alone():
    # Two structures fix the turn; the target is triangulated in its own way.
    template = [ellipsoid((40, 25, 30)), ellipsoid((20, 25, 15))]
    linear = Rotation.from_rotvec([0.15, 0, 0]).as_matrix() @ np.diag([0.9, 1.15, 1.0])
    x = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING - MIDDLE - np.array([4, 3, -5])
    x = x @ np.linalg.inv(linear).T
    target = [surface(np.square(x / r).sum(-1) <= 1, SPACING, 8.0) for r in ((40, 25, 30), (20, 25, 15))]
    points = np.concatenate([s.points for s in template]) - MIDDLE
    found = match(template, target, Matching()) - MIDDLE - np.array([4, 3, -5])
    back = found @ np.linalg.inv(linear).T
    first = len(template[0].points)
    for part, radii in ((back[:first], (40, 25, 30)), (back[first:], (20, 25, 15))):
        assert abs(np.linalg.norm(part / radii, axis=1) - 1).mean() < 0.06  # on the surface
    assert np.linalg.norm(found - points @ linear.T, axis=1).mean() < 4  # and near the same place of it
