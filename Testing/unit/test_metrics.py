"""The challenge's figures on label maps and fields whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import surface_distance
from JointRegSegLib import metrics

SHAPE = (12, 10, 11)


def box(start, size, label=1, shape=(24, 24, 24)) -> np.ndarray:
    out = np.zeros(shape, np.uint8)
    out[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = label
    return out


def bent(slope: float) -> np.ndarray:
    """Nothing moves up to slice 6 along D, then u grows: determinant 1 (6 slices), 1 + slope / 2 (1), 1 + slope (5)."""
    u = np.zeros((3, *SHAPE), np.float32)
    u[0] = slope * np.maximum(np.arange(12) - 6, 0)[:, None, None]
    return u


def test_dice_by_hand():
    a, b = box((0, 0, 0), (4, 4, 4)), box((0, 0, 2), (4, 4, 4))
    a[20:, 20:, 20:] = 3  # only in a
    scores = metrics.dice(a, b, [1, 2, 3])
    assert scores[1] == pytest.approx(2 * 32 / 128)
    assert math.isnan(scores[2])
    assert scores[3] == 0
    assert metrics.dice(a, a, (1, 3)) == {1: 1, 3: 1}


@pytest.mark.parametrize("shift", [(3, 0, 0), (0, -2, 0), (0, 0, 4)])
def test_hausdorff_of_shifted_boxes_is_the_shift(shift):
    # The leading and trailing faces are a sixth of the surface each: more than the 5 % that are left out.
    a = box((8, 8, 8), (10, 10, 10), 5)
    b = box(8 + np.array(shift), (10, 10, 10), 5)
    assert metrics.hausdorff95(a, b, [5])[5] == pytest.approx(np.abs(shift).max())


def test_hausdorff_leaves_the_last_twentieth_out():
    a = box((4, 4, 4), (12, 12, 12))
    b = a.copy()
    b[22, 22, 22] = 1  # one speck: far below a twentieth of the surface
    assert metrics.hausdorff95(a, b, [1])[1] == 0
    assert metrics.hausdorff95(a, a, [1])[1] == 0


def test_hausdorff_is_the_worse_direction_and_symmetric():
    small, large = box((4, 4, 4), (6, 6, 6)), box((4, 4, 4), (16, 6, 6))
    # Every point of the small box lies on the large one or inside it, but not the other way around.
    forth, back = metrics.hausdorff95(small, large, [1])[1], metrics.hausdorff95(large, small, [1])[1]
    assert forth == back
    assert 8 < forth <= 10


def test_hausdorff_of_an_absent_label_is_nan():
    found = metrics.hausdorff95(box((2, 2, 2), (4, 4, 4), 1), box((2, 2, 2), (4, 4, 4), 2), [1, 2, 3])
    assert all(math.isnan(found[label]) for label in (1, 2, 3))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_hausdorff_is_that_of_the_challenge(share):
    for pair in np.random.default_rng(3).random((10, 2, 9, 8, 7)) < share:  # they reach the borders, and are in pieces
        theirs = surface_distance.compute_surface_distances(*pair, (1, 1, 1))
        expected = surface_distance.compute_robust_hausdorff(theirs, 95)
        assert metrics.hausdorff95(*pair.astype(np.uint8), [1])[1] == pytest.approx(expected, abs=1e-9)


def test_figures_of_a_uniform_scaling_show_no_spread():
    index = np.indices(SHAPE).astype(np.float32)
    u = index * np.float32([0.2, -0.3, 0.5]).reshape(3, 1, 1, 1)
    assert metrics.sdlogj(u) == pytest.approx(0, abs=1e-5)
    assert metrics.log_jacobian_spread(u) == pytest.approx(0, abs=1e-5)
    assert metrics.folded_share(u) == 0


@pytest.mark.parametrize("slope", [0.6, -0.5])
def test_figures_of_two_known_scalings(slope):
    u = bent(slope)
    # Slices 2 to 9 remain without the border of two.
    assert metrics.sdlogj(u) == pytest.approx(np.std(np.log([4] * 4 + [4 + slope / 2] + [4 + slope] * 3)), abs=1e-5)
    honest = np.std(np.log([1] * 6 + [1 + slope / 2] + [1 + slope] * 5))
    assert metrics.log_jacobian_spread(u) == pytest.approx(honest, abs=1e-5)
    assert metrics.folded_share(u) == 0


def test_figures_of_a_fold():
    u = bent(-6)  # determinants 1, -2, -5
    assert metrics.sdlogj(u) == pytest.approx(np.std(np.log([4] * 4 + [1] + [1e-9] * 3)), rel=1e-5)
    assert metrics.log_jacobian_spread(u) == 0  # of the half that does not fold
    assert metrics.folded_share(u) == pytest.approx(0.5)
    assert metrics.folded_share(bent(-2)) == pytest.approx(0.5)  # a determinant of zero counts as a fold


def test_a_field_that_only_folds_has_no_spread():
    u = np.zeros((3, *SHAPE), np.float32)
    u[1] = -2 * np.arange(10)[:, None]
    assert math.isnan(metrics.log_jacobian_spread(u))
    assert metrics.folded_share(u) == 1


@pytest.mark.parametrize(("count", "hardest"), [(10, 3), (5, 2), (1, 1)])
def test_hardest_mean_takes_the_cases_that_were_worst_before(count, hardest):
    before = np.linspace(0.9, 0.1, count)  # the last cases are the hardest
    after = np.arange(count) ** 2
    assert metrics.hardest_mean(after, before) == pytest.approx(np.mean(after[-hardest:]))
    assert metrics.hardest_mean(after, before, share=1) == pytest.approx(np.mean(after))


def test_landmark_errors_are_distances():
    errors = metrics.landmark_errors([[0, 0, 0], [1, 2, 3]], [[3, 0, 4], [1, 2, 3]])
    np.testing.assert_allclose(errors, [5, 0])
