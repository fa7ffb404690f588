"""From corresponding points to fields: units, the coarser lattice, and how exact it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import fields
from JointRegSegLib.geometry import sample
from JointRegSegTrainingLib.references.logarithm import distance, logarithm
from JointRegSegTrainingLib.references.pair import Interpolation, displacement_between, velocity_between

SHAPE, SPACING = (12, 32, 36), np.array([8.0, 2.5, 2.0])
MIDDLE = (np.array(SHAPE) - 1) / 2 * SPACING


def shell(radius: float, count: int = 150) -> np.ndarray:
    """Points spread over a sphere about the lattice's middle, in mm."""
    k = np.arange(count) + 0.5
    height, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - height**2)
    return radius * np.column_stack([height, flat * np.cos(turn), flat * np.sin(turn)]) + MIDDLE


def bent(points: np.ndarray) -> np.ndarray:
    """A smooth map of some mm."""
    x = (points - MIDDLE) / 25
    return points + np.column_stack([4 * np.sin(x[:, 1]), 3 * x[:, 0] * x[:, 2], 4 * np.cos(x[:, 0] + x[:, 1]) - 4])


def test_a_landmark_moves_in_voxels_of_the_coarser_lattice():
    # Voxel (3, 4, 5) of the coarser lattice has its middle at (3, 8.5, 10.5) of the finer one.
    place = np.array([3, 8.5, 10.5]) * SPACING
    points = np.concatenate([shell(25.0), place[None]])
    matrix = np.diag([0.9, 1.1, 0.95])
    matrix[1, 2] = 0.1
    moved = (points - MIDDLE) @ matrix.T + MIDDLE + [2, -3, 5]
    u = displacement_between(points, moved, SHAPE, SPACING, Interpolation(stride=(1, 2, 2), smoothing=0.0))
    assert u.shape == (1, 3, 12, 16, 18)
    expected = (moved[-1] - place) / SPACING / [1, 2, 2]
    np.testing.assert_allclose(u[0, :, 3, 4, 5], expected, atol=1e-5)


def test_what_turns_far_has_a_logarithm_up_to_the_border():
    points, turn = shell(25.0), np.radians(35)
    matrix = np.eye(3)
    matrix[1:, 1:] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    turned = (points - MIDDLE) @ matrix.T + MIDDLE
    u = displacement_between(points, turned, SHAPE, SPACING, Interpolation())
    assert u.norm(dim=1).max() > 2
    assert distance(logarithm(u), u).max() < 0.1


def test_what_no_landmark_holds_is_held_at_the_sides():
    points = np.concatenate([shell(16.0), np.array([[6, 16, 18]]) * SPACING])
    moved = points + np.array([0.0, 5.0, 0.0])
    corner = {}
    for clamp in (3.0, 1.0):
        how = Interpolation(smoothing=0.0, clamp=clamp, stride=(1, 1, 1))
        u = displacement_between(points, moved, SHAPE, SPACING, how)
        torch.testing.assert_close(u[0, :, 6, 16, 18], torch.tensor([0.0, 2.0, 0.0]), atol=1e-4, rtol=0)
        corner[clamp] = float(u[0, 1, 0, 0, 0])
    assert corner[3.0] > 1
    assert abs(corner[1.0]) < 0.2


def test_the_coarser_lattice_is_exact_enough():
    fixed = np.concatenate([shell(16.0), shell(26.0)])
    fine = displacement_between(fixed, bent(fixed), SHAPE, SPACING, Interpolation(stride=(1, 1, 1)))
    coarse = displacement_between(fixed, bent(fixed), SHAPE, SPACING, Interpolation(stride=(1, 2, 2)))
    assert fine.abs().max() > 2
    error = (fields.resize(coarse, SHAPE) - fine).norm(dim=1)[0]
    assert error[2:-2, 4:-4, 4:-4].max() < 0.1  # voxels


def test_fewer_landmarks_do_for_a_smooth_map():
    fixed = np.concatenate([shell(16.0), shell(26.0)])
    all_of_them = displacement_between(fixed, bent(fixed), SHAPE, SPACING, Interpolation())
    some = displacement_between(fixed, bent(fixed), SHAPE, SPACING, Interpolation(landmarks=100))
    assert 0 < (some - all_of_them)[..., 2:-2, 2:-2, 2:-2].abs().max() < 0.2


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_the_exponential_takes_points_to_their_partners(stride):
    fixed = np.concatenate([shell(16.0), shell(26.0)])
    v = fields.resize(velocity_between(fixed, bent(fixed), SHAPE, SPACING, Interpolation(stride=stride)), SHAPE)
    places = torch.from_numpy((fixed / SPACING).T.reshape(1, 3, -1, 1, 1))
    moved = fixed / SPACING + sample(fields.scale_and_square(v), places)[0, :, :, 0, 0].double().numpy().T
    assert np.linalg.norm(moved - bent(fixed) / SPACING, axis=1).max() < 0.2
    assert np.linalg.norm((bent(fixed) - fixed) / SPACING, axis=1).max() > 1
