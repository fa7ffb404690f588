"""Reading images between voxels and between grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid, affine_coordinates, resample, sample
from scipy.spatial.transform import Rotation

CODES = ("LPS", "RAS", "SLA", "PIR", "ASL")
TILT = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()


def three(strategy):
    """One value for each axis."""
    return st.tuples(strategy, strategy, strategy)


def numbered(shape, dtype=torch.float32) -> torch.Tensor:
    """(1, 1, D, H, W), every voxel another value."""
    return torch.arange(int(np.prod(shape))).reshape(1, 1, *shape).to(dtype)


def at(*points) -> torch.Tensor:
    """Coordinates (1, 3, n, 1, 1) of array points (k, j, i)."""
    return torch.tensor(points, dtype=torch.float32).T.reshape(1, 3, -1, 1, 1)


def points_of(grid: Grid) -> np.ndarray:
    """World points (3, D, H, W) of all voxels, from SimpleITK's own source of coordinates."""
    args = (grid.size, grid.origin.tolist(), grid.spacing.tolist(), grid.direction.ravel().tolist())
    return np.moveaxis(sitk.GetArrayFromImage(sitk.PhysicalPointSource(sitk.sitkVectorFloat64, *args)), -1, 0)


def test_affine_coordinates_by_hand():
    matrix = np.array([[2, 0, 0, 1], [0, 0, 3, -1], [0, 1, 0, 0.5]], float)
    out = affine_coordinates(matrix, (2, 3, 4), torch.empty(0))
    assert out.shape == (1, 3, 2, 3, 4)
    assert out[0, :, 1, 2, 3].tolist() == [2 * 1 + 1, 3 * 3 - 1, 2 + 0.5]
    assert torch.equal(affine_coordinates(np.vstack([matrix, [0, 0, 0, 1]]), (2, 3, 4), out), out)


def test_affine_coordinates_of_a_batch_are_differentiable():
    matrix = torch.eye(3, 4).repeat(2, 1, 1).requires_grad_()
    affine_coordinates(matrix, (2, 3, 4), matrix)[1].sum().backward()
    # Each row's derivative is the sum of the indices (k, j, i, 1) over the 24 voxels.
    assert matrix.grad[1].tolist() == [[12, 24, 36, 24]] * 3
    assert matrix.grad[0].abs().max() == 0


def test_sample_is_linear_between_voxels_and_repeats_the_border():
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (4, 5, 6)], indexing="ij")
    image = (100 * k + 10 * j + i)[None, None]
    out = sample(image, at((1.5, 2.25, 3), (0, 0, 4.75), (-7, 2, 1), (3, 4, 9)))
    np.testing.assert_allclose(out.flatten(), [175.5, 4.75, 21, 345], atol=1e-3)


def test_sample_fills_from_half_a_voxel_outside():
    image = numbered((3, 4, 5)) + 1
    out = sample(image, at((-0.49, 0, 0), (-0.51, 0, 0), (2.49, 3.49, 4.49), (2, 3.51, 4), (2, 3, 4.51)), fill=-9)
    assert out.flatten().tolist() == [1, -9, 60, -9, -9]


def test_sample_nearest_invents_no_label():
    out = sample(numbered((3, 4, 5)), at((0.4, 0.6, 0.4), (1.6, 2.4, 3.6)), mode="nearest")
    assert out.flatten().tolist() == [5, 20 * 2 + 5 * 2 + 4]


def test_sample_of_a_slice_has_one_value_along_the_missing_axis():
    out = sample(numbered((1, 2, 3)), at((0, 0, 1.5), (0.3, 1, 2), (-1, 1, 2)), fill=-1)
    np.testing.assert_allclose(out.flatten(), [1.5, 5, -1], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16, torch.uint8])
def test_sample_returns_voxels_in_the_images_type(dtype):
    # With 32 voxels interpolation at a voxel's center is off by rounding: no integer may become the one below.
    image = (numbered((32, 2, 3)) % 251).to(dtype)
    out = sample(image, affine_coordinates(np.eye(4), (32, 2, 3), image))
    assert out.dtype == dtype
    np.testing.assert_allclose(out.double(), image.double(), rtol=1e-3 if dtype.is_floating_point else 0, atol=1e-4)


def test_sample_reads_every_image_of_a_batch_at_the_same_places():
    image = torch.cat([numbered((3, 4, 5)), -numbered((3, 4, 5))])
    out = sample(image, at((1, 2, 3)))
    np.testing.assert_allclose(out.flatten(), [33, -33], rtol=1e-6)


def test_resample_of_a_function_of_world_is_that_function(oblique):
    def value(points):
        return 2 * points[0] - 3 * points[1] + 0.5 * points[2] - 900

    image = torch.from_numpy(value(points_of(oblique)))[None, None].float()
    inner = Grid.centered(oblique.center, (4, 3, 2), (0.9, 1.1, 1.7), Rotation.from_rotvec([0.5, 0.1, 0]).as_matrix())
    np.testing.assert_allclose(resample(image, oblique, inner)[0, 0], value(points_of(inner)), atol=2e-3)
    # The transform takes points of the target to the source.
    move = np.eye(4)
    move[:3, 3] = 0.4, -0.3, 0.2
    moved = value(points_of(inner) + move[:3, 3].reshape(3, 1, 1, 1))
    np.testing.assert_allclose(resample(image, oblique, inner, move)[0, 0], moved, atol=2e-3)


@pytest.mark.parametrize(("mode", "method"), [("bilinear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)])
def test_resample_is_simpleitks(oblique, generator, mode, method):
    image = torch.rand(1, 1, *oblique.shape, generator=generator)
    target = Grid.centered(oblique.center, (9, 11, 13), (1, 1.5, 1.9), TILT)
    linear = np.array([[1.05, 0.1, 0], [0, 0.95, 0], [0, -0.1, 1]])
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = oblique.center + np.array([0.7, -0.9, 1.1]) - linear @ oblique.center
    transform = sitk.AffineTransform(linear.ravel().tolist(), affine[:3, 3].tolist())
    reference = scalar_image(torch.zeros(target.shape), target)
    expected = sitk.GetArrayFromImage(sitk.Resample(scalar_image(image, oblique), reference, transform, method, -1.0))
    assert 0.1 < (expected == -1).mean() < 0.9  # both inside and outside are tried
    np.testing.assert_allclose(resample(image, oblique, target, affine, mode, fill=-1)[0, 0], expected, atol=1e-4)


@given(st.sampled_from(CODES), three(st.floats(-3, 3)), three(st.integers(1, 6)))
def test_resample_to_an_oriented_grid_and_back_is_exact(code, vector, size):
    grid = Grid.from_geometry(size, (0.7, 1.1, 2.3), (-90, 410, 77), Rotation.from_rotvec(vector).as_matrix())
    image = torch.randn(1, 2, *grid.shape, generator=torch.Generator().manual_seed(1))
    turned = grid.oriented(code)
    there = resample(image, grid, turned)
    assert torch.equal(resample(there, turned, grid), image)
    oriented = sitk.DICOMOrient(scalar_image(image[:, :1], grid), turned.orientation)
    np.testing.assert_array_equal(there[0, 0], sitk.GetArrayFromImage(oriented))


@given(three(st.integers(-4, 4)), three(st.integers(1, 8)), st.sampled_from([torch.float32, torch.int16]))
def test_resample_crops_and_pads_whole_voxels(start, size, dtype):
    grid = Grid.from_geometry((4, 5, 6), (0.7, 1.1, 2.3), (-90, 410, 77), Rotation.from_rotvec([1, 2, 3]).as_matrix())
    image = numbered(grid.shape, dtype)
    part = grid.cropped(start, size)
    index = [np.arange(s, s + n) for s, n in zip(start[::-1], size[::-1], strict=True)]
    outside = [(i < 0) | (i >= n) for i, n in zip(index, grid.shape, strict=True)]
    repeated = image[0, 0].numpy()[np.ix_(*[i.clip(0, n - 1) for i, n in zip(index, grid.shape, strict=True)])]
    filled = np.where(np.logical_or.outer(np.logical_or.outer(*outside[:2]), outside[2]), -3, repeated)
    np.testing.assert_array_equal(resample(image, grid, part)[0, 0], repeated)
    np.testing.assert_array_equal(resample(image, grid, part, fill=-3)[0, 0], filled)


def test_resample_by_a_transform_of_whole_voxels_is_exact(oblique, generator):
    image = torch.randn(1, 1, *oblique.shape, generator=generator)
    move = np.eye(4)
    move[:3, 3] = oblique.affine[:3, :3] @ (0, 2, -1)  # reads two voxels further along j, one back along k
    out = resample(image, oblique, oblique, move, fill=0)
    assert torch.equal(out[:, :, 1:, :-2], image[:, :, :-1, 2:])
    assert out[:, :, 0].abs().max() == 0
