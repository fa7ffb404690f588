"""Smoothing of what cannot be undone."""

from __future__ import annotations

import torch
from JointRegSegLib import fields
from JointRegSegLib.regularize import LIMIT, make_invertible, without_folds
from scipy.spatial.transform import Rotation
from torch.testing import assert_close


def waves(shape: tuple[int, int, int], height: float, length: float) -> torch.Tensor:
    """Displacement along D that swings along D."""
    u = torch.zeros(1, 3, *shape)
    u[:, 0] = height * torch.sin(torch.arange(shape[0]) * 2 * torch.pi / length).view(-1, 1, 1)
    return u


def test_what_can_be_undone_stays_bit_for_bit():
    u = waves((30, 12, 14), 0.8, 24)
    found, inverse = make_invertible(u, -u)
    assert torch.equal(found, u)
    assert float(fields.round_trip(found, inverse).nan_to_num().max()) < 0.05


def test_a_fold_is_smoothed_and_the_rest_is_left_alone():
    torch.manual_seed(0)
    u = waves((40, 20, 20), 0.5, 40)
    u[:, :, 18:22, 8:12, 8:12] += 4 * torch.randn(1, 3, 4, 4, 4)
    assert float(fields.jacobian_determinant(u).min()) < -1
    found, inverse = make_invertible(u, torch.zeros_like(u))
    assert float(fields.jacobian_determinant(found).min()) > 0
    assert float(fields.round_trip(found, inverse).nan_to_num().max()) <= LIMIT
    changed = (found != u).any(1)[0].nonzero()
    assert 0 < len(changed) < 0.35 * u[0, 0].numel()
    assert torch.equal(found[:, :, :5], u[:, :, :5]) and torch.equal(found[:, :, 35:], u[:, :, 35:])


def test_a_steep_map_that_does_not_fold():
    u = waves((48, 6, 6), 1.5, 10)  # squeezes to a twentieth
    before = fields.invert(u, iterations=100)
    assert float(fields.jacobian_determinant(u).min()) > 0
    assert float(fields.round_trip(u, before).nan_to_num().max()) > LIMIT
    found, inverse = make_invertible(u, before)
    assert float(fields.round_trip(found, inverse).nan_to_num().max()) <= LIMIT
    assert float((found - u).abs().mean()) < 0.5


def test_rounds_are_limited():
    u = waves((24, 6, 6), 9.0, 8)
    once, inverse = make_invertible(u, -u, rounds=1)
    assert 0 < float((once - u).abs().max()) < 18
    assert_close(inverse, fields.invert(once, inverse, iterations=100))  # of what is returned, not of the one before


def test_what_slides_does_not_fold_and_still_slides():
    """A ball that turns in its socket: the jump stays, but for the few voxels at which tissue went through tissue."""
    place = torch.stack(torch.meshgrid(*[torch.arange(48.0) - 23.5] * 3, indexing="ij"))
    inside = place.norm(dim=0) < 15
    turn = torch.from_numpy(Rotation.from_rotvec((0.5, 0, 0)).as_matrix()).float()
    turned = torch.einsum("ij,jdhw->idhw", turn, place)
    displacement = torch.where(inside, turned - place, 0)[None]
    assert int((fields.jacobian_determinant(displacement) <= 0).sum()) > 100
    found = without_folds(displacement)
    assert float(fields.jacobian_determinant(found).min()) > 0
    away = (place.norm(dim=0) - 15).abs() > 5
    assert torch.equal(found[..., away], displacement[..., away])
    equator = ((place.norm(dim=0) - 15).abs() < 1) & (place[0].abs() < 2)
    own, around = (float(found[0][:, equator & side].norm(dim=0).mean()) for side in (inside, ~inside))
    assert own - around > 3 > around  # of 7 voxels, between neighbors
