"""Elastic body spline: what it has to reproduce, and the equations that it solves."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib.references.spline import ElasticBodySpline


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_landmarks_are_interpolated(rng):
    landmarks, displacements = rng.uniform(-40, 90, (60, 3)), rng.normal(0, 5, (60, 3))
    spline = ElasticBodySpline.fit(landmarks, displacements)
    np.testing.assert_allclose(spline(landmarks), displacements, atol=1e-6)
    np.testing.assert_allclose(spline(landmarks, chunk=7), spline(landmarks), atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_affine_maps_are_reproduced_everywhere(rng, smoothing):
    landmarks, points = rng.uniform(0, 100, (30, 3)), rng.uniform(-100, 300, (50, 3))
    matrix, shift = rng.normal(0, 0.3, (3, 3)), np.array([5, -30, 8])
    spline = ElasticBodySpline.fit(landmarks, landmarks @ matrix.T + shift, smoothing)
    np.testing.assert_allclose(spline(points), points @ matrix.T + shift, atol=1e-6)


def test_smoothing_leads_from_interpolation_to_the_best_affine_map(rng):
    landmarks, displacements = rng.uniform(0, 100, (40, 3)), rng.normal(0, 5, (40, 3))
    missed = [np.abs(ElasticBodySpline.fit(landmarks, displacements, s)(landmarks) - displacements).mean()
              for s in (0, 1e-3, 1e-1, 1e6)]  # fmt: skip
    assert missed == sorted(missed)
    ones = np.column_stack([landmarks, np.ones(40)])
    affine = ones @ np.linalg.lstsq(ones, displacements, rcond=None)[0]
    assert missed[-1] == pytest.approx(np.abs(affine - displacements).mean(), rel=1e-3)


@pytest.mark.parametrize("poisson", [0.0, 0.3, 0.45])
def test_the_kernel_solves_the_navier_equations(poisson):
    # ∇²d + ∇(∇·d) / (1 - 2 ν) is a force along c that grows with the distance from the landmark.
    c = np.array([0.3, -1.0, 0.7])
    spline = ElasticBodySpline(np.zeros((1, 3)), c[None], np.zeros((3, 4)), np.zeros(3), 1.0, 12 * (1 - poisson) - 1)
    h, eye = 1e-2, 1e-2 * np.eye(3)

    def force(x):
        def d(offset):
            return spline((x + offset)[None])[0]

        laplacian = sum(d(e) + d(-e) - 2 * d(np.zeros(3)) for e in eye) / h**2

        def divergence(offset):
            return sum((d(offset + e)[a] - d(offset - e)[a]) for a, e in enumerate(eye)) / (2 * h)

        gradient = np.array([divergence(e) - divergence(-e) for e in eye]) / (2 * h)
        return laplacian + gradient / (1 - 2 * poisson)

    near, far = np.array([0.8, 0.5, -0.6]), np.array([-1.0, 2.0, 1.5])
    strength = force(near) / np.linalg.norm(near)
    np.testing.assert_allclose(np.cross(strength, c), 0, atol=2e-2)
    np.testing.assert_allclose(force(far) / np.linalg.norm(far), strength, atol=2e-2)
    assert np.linalg.norm(strength) > 10


@pytest.mark.parametrize("points", [np.zeros((8, 3)), np.ones((8, 3)) * np.arange(8)[:, None], np.eye(3)])
def test_landmarks_that_span_no_volume_are_refused(points):
    with pytest.raises(InputError, match="four"):
        ElasticBodySpline.fit(points, np.ones_like(points))
