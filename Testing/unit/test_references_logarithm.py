"""Logarithms that are known, and the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import fields
from JointRegSegTrainingLib.references.logarithm import distance, logarithm, root
from scipy.linalg import expm

SHAPE = (16, 32, 32)


def linear(matrix) -> torch.Tensor:
    """The displacement of x ↦ matrix (x - middle) + middle in voxels."""
    x = torch.from_numpy(np.indices(SHAPE)).float()[None] - (torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 1) / 2
    return torch.einsum("ca,nadhw->ncdhw", torch.as_tensor(np.asarray(matrix)).float() - torch.eye(3), x)


def bump(*vector: float) -> torch.Tensor:
    """A displacement by a vector in the middle that fades away to the border."""
    x = linear(2 * np.eye(3)) / (torch.tensor(SHAPE).view(1, 3, 1, 1, 1) / 4)
    return torch.exp(-x.square().sum(1, keepdim=True)) * torch.tensor(vector).view(1, 3, 1, 1, 1)


@pytest.mark.parametrize("vector", [(1.0, 2, -3), (2.0, -5, 4)])
def test_exponential_of_the_logarithm_returns(vector):
    u = bump(*vector)
    assert fields.jacobian_determinant(u).min() > 0
    v = logarithm(u)
    assert distance(v, u).max() < 0.1
    assert (v - u).abs().max() > 0.1  # the displacement itself would not do
    torch.testing.assert_close(distance(v, u), (fields.scale_and_square(v) - u).square().sum(1, True).sqrt())


def test_logarithm_of_a_linear_map():
    rate = np.array([[-0.2, 0.02, 0], [0, -0.3, 0.1], [0.01, -0.1, -0.3]])  # inward: no border gets in the way
    v = logarithm(linear(expm(rate)))
    np.testing.assert_allclose(v, linear(np.eye(3) + rate), atol=0.1)


def test_logarithm_of_the_inverse_is_the_negative():
    u = bump(1, 2, -2)
    v, w = logarithm(u), logarithm(fields.invert(u, tolerance=1e-3))
    assert v.abs().max() > 1.5
    assert (v + w).abs().max() < 0.1


def test_root_twice_is_the_displacement():
    u = bump(1, -4, 3)
    w = root(u, iterations=60, tolerance=1e-4)
    assert (fields.compose(w, w) - u).abs().max() < 2e-4


def test_what_has_no_logarithm_is_not_made_worse():
    mirror = linear(np.diag([1, 1, -1]))
    w = root(mirror)
    assert torch.isfinite(logarithm(mirror)).all()
    assert (fields.compose(w, w) - mirror).abs().max() <= (fields.compose(mirror / 2, mirror / 2) - mirror).abs().max()
    assert not logarithm(torch.zeros(1, 3, *SHAPE)).any()
