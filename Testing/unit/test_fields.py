"""Displacements whose warp, inverse, exponential and Jacobian are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from JointRegSegLib import fields
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

SHAPE = (12, 13, 14)
SHRINK = np.array([[0.9, 0.05, 0], [-0.04, 0.85, 0.03], [0, 0.02, 0.95]])  # keeps all points on the lattice


def three(strategy):
    """One value for each axis."""
    return st.tuples(strategy, strategy, strategy)


def indices(shape=SHAPE) -> torch.Tensor:
    """(1, 3, D, H, W) array indices, from NumPy and not from the library."""
    return torch.from_numpy(np.indices(shape)).float()[None]


def linear(matrix, shape=SHAPE) -> torch.Tensor:
    """The displacement of x ↦ matrix (x - middle) + middle in voxels."""
    x = indices(shape) - torch.tensor(shape).view(1, 3, 1, 1, 1) / 2 + 0.5
    return torch.einsum("ca,nadhw->ncdhw", torch.as_tensor(matrix).float() - torch.eye(3), x)


def constant(*vector, shape=SHAPE) -> torch.Tensor:
    return torch.tensor(vector, dtype=torch.float32).view(1, 3, 1, 1, 1).expand(1, 3, *shape).clone()


def inner(field: torch.Tensor, margin: int = 2) -> torch.Tensor:
    return field[..., margin:-margin, margin:-margin, margin:-margin]


def assert_close(a, b, atol=1e-4):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)


def test_identity_is_the_index():
    assert torch.equal(fields.identity(constant(1, 2, 3)), indices())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16])
def test_warp_by_zero_is_exact(generator, dtype):
    image = (1000 * torch.randn(2, 3, *SHAPE, generator=generator)).to(dtype)
    assert torch.equal(fields.warp(image, constant(0, 0, 0)), image)


def test_warp_reads_ahead_along_each_axis(generator):
    image = torch.randn(1, 2, *SHAPE, generator=generator)
    out = fields.warp(image, constant(1, -2, 3), fill=7)
    assert_close(out[:, :, :-1, 2:, :-3], image[:, :, 1:, :-2, 3:], 1e-5)
    assert (out[:, :, -1] == 7).all()
    assert (out[:, :, :, :2] == 7).all()
    assert (out[..., -3:] == 7).all()


def test_warp_is_exact_wherever_the_field_is_zero(generator):
    image = torch.randn(1, 1, *SHAPE, generator=generator)
    u = constant(0, 0, 0)
    u[:, 1, 5:] = 0.5
    for field in (u, u.clone().requires_grad_()):
        out = fields.warp(image, field).detach()
        assert torch.equal(out[:, :, :5], image[:, :, :5])
        assert_close(out[:, :, 5:, :-1], (image[:, :, 5:, :-1] + image[:, :, 5:, 1:]) / 2, 1e-5)


def test_warp_passes_gradients_from_a_zero_field():
    # A ramp of slope 3 along H: the derivative of the output by u is (0, 3, 0), but zero beyond the border.
    image = 3 * indices()[:, 1:2]
    u = constant(0, 0, 0).requires_grad_()
    fields.warp(image, u).sum().backward()
    assert_close(inner(u.grad), inner(constant(0, 3, 0)))


def test_warp_passes_gradients_to_the_image():
    image = torch.zeros(1, 1, *SHAPE, requires_grad=True)
    fields.warp(image, constant(0, 0, 0)).sum().backward()
    assert_close(image.grad, torch.ones(1, 1, *SHAPE))


def test_warp_of_a_coarser_lattice_has_the_lattices_shape():
    image = indices((12, 13, 14))[:, 2:3]
    out = fields.warp(image, constant(0, 0, 0.5, shape=(3, 4, 5)))
    assert_close(out, indices((3, 4, 5))[:, 2:3] + 0.5, 1e-5)


def test_integrated_half_is_exactly_the_identity():
    assert not fields.integrate_gradients(torch.full((2, 3, *SHAPE), 0.5)).any()


def test_integration_sums_each_component_along_its_own_axis(generator):
    g = torch.rand(2, 3, 4, 5, 6, generator=generator)
    position = indices((4, 5, 6)) + fields.integrate_gradients(g)
    for axis in range(3):
        # φ(i) = 2 Σ g - 1, so φ(0) = 2 g(0) - 1 and each step is twice the gradient.
        component, own = position[:, axis].movedim(axis + 1, 0), g[:, axis].movedim(axis + 1, 0)
        assert_close(component[0], 2 * own[0] - 1, 1e-6)
        assert_close(component.diff(dim=0), 2 * own[1:], 1e-5)
        assert (component.diff(dim=0) > 0).all()


@pytest.mark.parametrize("steps", [4, 7])
def test_scale_and_square_is_a_matrix_power(steps):
    rate = np.array([[-0.3, 0.1, 0.02], [-0.1, -0.4, 0.05], [0, -0.06, -0.2]])  # inward: no border gets in the way
    u = fields.scale_and_square(linear(np.eye(3) + rate), steps)
    assert_close(u, linear(np.linalg.matrix_power(np.eye(3) + rate / 2**steps, 2**steps)))


def test_scale_and_square_approaches_the_matrix_exponential():
    rate = np.array([[-0.3, 0.1, 0.02], [-0.1, -0.4, 0.05], [0, -0.06, -0.2]])
    velocity, answer = linear(np.eye(3) + rate), linear(expm(rate))
    errors = [float((fields.scale_and_square(velocity, n) - answer).abs().max()) for n in (3, 5, 7)]
    assert errors[2] < 5e-3
    assert errors[0] > 3 * errors[1] > 9 * errors[2]  # first order in the step


def test_compose_applies_inner_first():
    outer = np.array([[0.8, 0, 0.1], [0, 0.9, 0], [0.1, 0, 0.9]])
    u = fields.compose(linear(outer), linear(SHRINK))
    assert_close(u, linear(outer @ SHRINK))
    assert float((u - linear(SHRINK @ outer)).abs().max()) > 0.05  # the other order is another map


def test_compose_with_zero_changes_nothing(generator):
    u = 0.3 * torch.randn(1, 3, *SHAPE, generator=generator)
    assert torch.equal(fields.compose(constant(0, 0, 0), u), u)
    assert_close(fields.compose(u, constant(0, 0, 0)), u, 1e-5)


@pytest.mark.parametrize(("scale", "turn"), [(1.3, 0), (2.5, 0), (1.8, 55)], ids=["gentle", "swinging", "circling"])
def test_invert_a_linear_map(scale, turn):
    # A stretch above two makes the plain fixed point iteration diverge, and so does a smaller one that turns.
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    matrix = scale * np.linalg.inv(SHRINK) @ np.diag([1, 1, 0.9]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    v = fields.invert(linear(matrix), iterations=100, tolerance=1e-4)
    assert_close(v, linear(np.linalg.inv(matrix)), 1e-3)


def test_invert_stops_at_its_tolerance_and_starts_where_told():
    u, answer = linear(np.linalg.inv(SHRINK)), linear(SHRINK)
    once = fields.invert(u, iterations=1, tolerance=0)
    assert float((once - answer).abs().max()) > 0.02
    assert_close(fields.invert(u, answer, iterations=1), answer, 1e-3)
    assert_close(fields.invert(u, tolerance=0.01), answer, 0.01)


def test_round_trip_is_the_distance_missed():
    there, back = constant(1, 0, 0), constant(-1, 3, 4)
    error = fields.round_trip(there, back)
    assert error.shape == (1, 1, *SHAPE)
    assert_close(error[:, :, :-1], torch.full((1, 1, 11, 13, 14), 5.0), 1e-5)
    assert error[:, :, -1].isnan().all()  # these voxels left the lattice
    assert_close(fields.round_trip(linear(SHRINK), linear(np.linalg.inv(SHRINK))), torch.zeros(1, 1, *SHAPE), 1e-4)


def test_jacobian_of_a_linear_map():
    matrix = np.array([[1.2, 0.3, -0.1], [0.05, 0.8, 0.2], [0.4, 0, 1.5]])
    assert_close(fields.jacobian_determinant(linear(matrix)), np.full((1, 1, *SHAPE), np.linalg.det(matrix)))
    assert_close(fields.log_jacobian(linear(matrix)), np.full((1, 1, *SHAPE), np.log(np.linalg.det(matrix))))


def test_jacobian_of_a_curved_map():
    k, j, i = indices().unbind(1)
    u = torch.stack([0.01 * k * j, 0.02 * i * k, 0.01 * j.square()], 1)
    expected = torch.eye(3).view(1, 3, 3, 1, 1, 1).repeat(1, 1, 1, *SHAPE)
    expected[:, 0, 0], expected[:, 0, 1] = 1 + 0.01 * j, 0.01 * k
    expected[:, 1, 0], expected[:, 1, 2] = 0.02 * i, 0.02 * k
    expected[:, 2, 1] = 0.02 * j
    # Central differences are exact for quadratic functions, the one-sided ones at the border are not.
    determinant = np.linalg.det(np.moveaxis(expected[0].numpy(), (0, 1), (-2, -1)))
    assert_close(inner(fields.jacobian_determinant(u)[0, 0], 1), inner(torch.from_numpy(determinant), 1))


def test_jacobian_shows_folds_and_its_logarithm_stays_finite():
    mirror = linear(np.diag([1, -2, 1]))
    assert_close(fields.jacobian_determinant(mirror), np.full((1, 1, *SHAPE), -2.0))
    assert_close(fields.log_jacobian(mirror, 1e-3), np.full((1, 1, *SHAPE), np.log(1e-3)))


def test_jacobian_of_a_single_slice():
    u = linear(np.diag([1, 1.5, 0.5]), (1, 6, 7))
    assert_close(fields.jacobian_determinant(u), np.full((1, 1, 1, 6, 7), 0.75))


def test_resize_keeps_the_map_between_borders():
    # The same map in physical terms: doubling D halves the voxels there, so vectors along D double.
    u = linear(SHRINK, (6, 8, 10))
    fine = fields.resize(u, (12, 8, 30))
    scale = np.diag([2, 1, 3])
    assert_close(inner(fine), inner(linear(scale @ SHRINK @ np.linalg.inv(scale), (12, 8, 30))), 1e-4)
    assert fields.resize(u, (6, 8, 10)) is u
    assert_close(fields.resize(constant(1, 2, 3, shape=(6, 8, 10)), (3, 4, 20)), constant(0.5, 1, 6, shape=(3, 4, 20)))
    assert_close(fields.resize(constant(1, 2, 3), (6, 6, 7), rescale=False), constant(1, 2, 3, shape=(6, 6, 7)))


def test_to_world_turns_array_order_into_lps(oblique, generator):
    u = torch.randn(1, 3, *oblique.shape, generator=generator)
    index = np.indices(oblique.shape).reshape(3, -1)
    moved = index + u.numpy().reshape(3, -1)
    expected = oblique.to_world(moved[::-1].T) - oblique.to_world(index[::-1].T)
    world = fields.to_world(u, oblique)
    assert_close(world.reshape(3, -1).T, expected)
    assert_close(fields.to_voxel(world, oblique), u, 1e-5)


def test_affine_matrix_turns_about_a_center_and_shifts():
    center = np.array([10, -20, 30])
    turn = Rotation.from_rotvec([0.1, 0.2, -0.3]).as_matrix() * 1.1
    matrix = fields.affine_matrix(turn, (3, -2, 5), center)
    np.testing.assert_allclose(matrix @ [*center, 1], [13, -22, 35, 1])
    np.testing.assert_allclose(matrix @ [1, 2, 3, 0], [*(turn @ [1, 2, 3]), 0])
