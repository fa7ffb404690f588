"""Demons: no force between equals, the right way between shapes that were moved, and back."""

from __future__ import annotations

import pytest
import torch
from JointRegSegLib import demons, fields, losses

SHAPE = (20, 24, 28)


def memberships(shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """(1, 2, D, H, W): a ball and a shell around it, moved by ``shift`` voxels along D, H, W."""
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    center = [(n - 1) / 2 + s for n, s in zip(SHAPE, shift, strict=True)]
    radius = sum((axis - c).square() for axis, c in zip(axes, center, strict=True)).sqrt()
    ball, all_ = torch.sigmoid(2 * (4 - radius)), torch.sigmoid(2 * (7 - radius))
    return torch.stack([ball, all_ - ball])[None]


def test_equal_shapes_do_not_move():
    shape, still = memberships(), torch.zeros(2, 3, *SHAPE)
    assert not demons.force(shape, shape).any()
    assert torch.equal(demons.steps(shape, shape, still, 3), still)


@pytest.mark.parametrize("axis", range(3))
def test_the_force_points_from_fixed_to_moving(axis):
    shift = [0.0] * 3
    shift[axis] = 0.3
    fixed = memberships()
    found = demons.force(memberships(tuple(shift)), fixed)
    edge = (fixed[:, :1] - 0.5).abs() < 0.3
    along = [(component[None] * edge).sum() for component in found[0]]
    assert along[axis] > 0 and all(along[axis] > 5 * abs(x) for i, x in enumerate(along) if i != axis)
    assert found.square().sum(1).sqrt().max() <= 0.5


def test_an_edge_of_one_channel_asks_for_the_distance_between_both():
    """Where intensities are linear the force is the distance, short of what keeps it from growing without bounds."""
    ramp = (torch.arange(28.0) / 28).expand(1, 1, *SHAPE)
    moving, fixed = ramp, ramp + 0.1 / 28
    found = demons.force(moving, fixed)[..., 1:-1]
    slope, difference = 1 / 28, 0.1 / 28
    torch.testing.assert_close(
        found[:, 2],
        torch.full_like(found[:, 2], slope * difference / (slope**2 + difference**2 + 1e-3)),
        rtol=1e-3,
        atol=1e-5,
    )
    assert not found[:, :2].any()


def test_the_two_ways_are_each_others_negative():
    a, b = memberships(), memberships((1.0, -0.5, 0.8))
    torch.testing.assert_close(demons.force(a, b), -demons.force(b, a))


def test_steps_find_a_shift_and_the_way_back():
    moving, fixed = memberships((1.2, -0.9, 1.5)), memberships()
    found = demons.steps(moving, fixed, torch.zeros(2, 3, *SHAPE), 12)
    before, after = (losses.dice(x, fixed) for x in (moving, fields.warp(moving, found[:1])))
    assert before > 0.2 and after < 0.1 * before
    assert losses.dice(fields.warp(fixed, found[1:]), moving) < 0.1 * before
    assert fields.jacobian_determinant(found).min() > 0
    assert fields.round_trip(found[:1], found[1:]).nanmean() < 0.05


def test_steps_go_on_where_a_registration_ended():
    """A shift that was found already needs no force; the gradient gets through to what found it."""
    moving, fixed = memberships((2.0, 0.0, -1.0)), memberships()
    known = torch.tensor([2.0, 0.0, -1.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE).clone().requires_grad_()
    found = demons.steps(moving, fixed, known, 2)
    inner = (slice(None), slice(None), *(slice(4, -4),) * 3)
    assert (found - known)[inner].abs().max() < 0.1
    found.sum().backward()
    torch.testing.assert_close(known.grad.mean(), torch.tensor(1.0), rtol=0.1, atol=0)
