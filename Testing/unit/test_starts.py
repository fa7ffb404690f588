"""What an optimization begins with: a map that another one follows, and the choice between several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from JointRegSegLib import fields
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.refine import Level, Objective, likest
from scipy.spatial.transform import Rotation


def texture(generator: torch.Generator, shape=(20, 24, 22)) -> torch.Tensor:
    coarse = torch.randn(1, 1, *(n // 3 for n in shape), generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)


def test_a_further_displacement_comes_first(oblique, generator):
    """As a point goes: moved by the new one, then by the old one, affine part last; and the whole way back."""
    linear = Rotation.from_rotvec([0.05, -0.1, 0.08]).as_matrix() @ np.diag([1.1, 0.95, 1.02])
    affine = fields.affine_matrix(linear, (1.5, -2, 2.5), oblique.center)
    coarse = 0.4 * torch.randn(2, 3, 2, 2, 2, generator=generator)
    u, v = F.interpolate(coarse, size=oblique.shape, mode="trilinear", align_corners=True).split(1)
    back = [fields.invert(x, tolerance=1e-4) for x in (u, v)]
    old, new = Deformation(oblique, u, back[0], affine), Deformation(oblique, v, back[1], np.eye(4))
    both = old.after(v, back[1])
    points = oblique.to_world(np.random.default_rng(0).uniform(2, np.array(oblique.size) - 3, (30, 3)))
    expected = old.to_moving(new.to_moving(points))
    assert np.linalg.norm(expected - new.to_moving(old.to_moving(points)), axis=1).max() > 0.5  # the order counts
    np.testing.assert_allclose(both.to_moving(points), expected, atol=0.05)
    np.testing.assert_allclose(both.to_fixed(expected), points, atol=0.2)


def test_nothing_follows_from_nothing(oblique):
    still = Deformation.identity(oblique)
    move = torch.full((1, 3, *oblique.shape), 0.5)
    both = still.after(move, -move)
    assert torch.equal(both.displacement, move) and torch.allclose(both.inverse, -move, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_start_that_leads_somewhere_is_taken(generator, order):
    """A shift of two voxels is found; from another image no way leads to the fixed one, though it is as unlike."""
    fixed, other = texture(generator), texture(generator)
    moving = torch.roll(fixed, 2, -1)
    known = torch.ones_like(fixed)
    starts = [[(moving, known), (other, known)][n] for n in order]
    assert likest(starts, fixed, Objective(), Level(2, 20, 0.3), (1.0, 1.0, 1.0)) == order.index(0)


def test_a_start_that_looks_past_the_image_is_not_taken(generator):
    """A corner that agrees is too little to count, and so is nothing at all."""
    fixed = texture(generator)
    near, known = fixed + 0.5 * texture(generator), torch.ones_like(fixed)
    corner = torch.zeros_like(fixed)
    corner[..., :6, :6, :6] = 1
    past = F.pad(fixed[..., :6, :6, :6], (0, 16, 0, 18, 0, 14), mode="replicate")
    for first, starts in ((0, [(near, known), (past, corner)]), (1, [(past, 0 * corner), (near, known)])):
        assert likest(starts, fixed, Objective(), Level(2, 5, 0.3), (1.0, 1.0, 1.0)) == first
