"""The finished map against SimpleITK, which is what Slicer will apply."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import fields
from JointRegSegLib.deformation import Deformation, scalar_image, vector_image
from JointRegSegLib.geometry import Grid
from scipy.spatial.transform import Rotation

TILT = Rotation.from_rotvec([0.1, 0.3, -0.2]).as_matrix()


def smooth(shape, amplitude: float, generator: torch.Generator) -> torch.Tensor:
    """A smooth displacement (1, 3, D, H, W) in voxels."""
    coarse = amplitude * torch.randn(1, 3, 3, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)


def affine_displacement(matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """The voxel displacement (1, 3, D, H, W) of a (4, 4) matrix of LPS points."""
    there = grid.to_world(np.indices(grid.shape)[::-1].reshape(3, -1).T)
    moved = grid.to_index(there @ matrix[:3, :3].T + matrix[:3, 3])[:, ::-1].T.reshape(3, *grid.shape)
    return torch.from_numpy(moved - np.indices(grid.shape))[None].float()


@pytest.fixture
def affine(oblique) -> np.ndarray:
    """Turn, shear, stretch and shift about the grid's middle."""
    linear = Rotation.from_rotvec([0.05, -0.1, 0.08]).as_matrix() @ [[1.1, 0.05, 0], [0, 0.95, 0.02], [0, 0, 1.02]]
    return fields.affine_matrix(linear, (1.5, -2, 2.5), oblique.center)


@pytest.fixture
def deformation(oblique, affine, generator) -> Deformation:
    u = smooth(oblique.shape, 0.5, generator)
    return Deformation(oblique, u, fields.invert(u, tolerance=1e-4), affine)


@pytest.fixture
def points(oblique) -> np.ndarray:
    """In the grid, between the voxels, in the outer half voxel and far outside."""
    index = np.random.default_rng(0).uniform(-0.45, np.array(oblique.size) - 0.55, (40, 3))
    return oblique.to_world(np.vstack([index, [[0, 0, 0], [9, 8, 7], [-0.4, 8.4, 7.4], [-0.6, 3, 3], [50, 60, 70]]]))


def shift(grid: Grid, vector) -> torch.Tensor:
    """The voxel displacement that moves every point by ``vector`` in LPS mm."""
    voxels = np.linalg.inv(grid.affine[:3, :3]) @ vector
    return torch.tensor(voxels[::-1].copy()).float().view(1, 3, 1, 1, 1).expand(1, 3, *grid.shape).clone()


@pytest.mark.parametrize("inverse", [False, True])
def test_to_itk_maps_points_as_simpleitk_does(deformation, points, inverse):
    transform = deformation.to_itk(inverse)
    ours = deformation.to_fixed(points) if inverse else deformation.to_moving(points)
    np.testing.assert_allclose(ours, [transform.TransformPoint(p) for p in points], atol=1e-4)
    assert np.abs(ours - points).max() > 1  # both parts moved them


def test_to_moving_displaces_and_then_applies_the_affine(oblique, affine):
    deformation = Deformation(oblique, shift(oblique, (1, 2, -3)), shift(oblique, (-1, -2, 3)), affine)
    inside = oblique.to_world([[3, 3.5, 2], [9, 8, 0.2]])
    expected = np.add(inside, (1, 2, -3)) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(deformation.to_moving(inside), expected, atol=1e-4)
    np.testing.assert_allclose(deformation.to_fixed(expected)[0], inside[0], atol=1e-4)
    far = oblique.to_world([[30, 30, 30]])  # only the affine is known there
    np.testing.assert_allclose(deformation.to_moving(far), far @ affine[:3, :3].T + affine[:3, 3], atol=1e-9)


def test_points_return_from_the_moving_space(deformation, oblique):
    inner = oblique.to_world(np.random.default_rng(1).uniform(2, np.array(oblique.size) - 3, (30, 3)))
    there = deformation.to_moving(inner)
    # Between the voxels the inverse of an interpolated field is not the interpolated inverse.
    np.testing.assert_allclose(deformation.to_fixed(there), inner, atol=0.1)
    assert np.linalg.norm(there - inner, axis=1).min() > 1


def test_points_that_leave_the_lattice_return_too(oblique, affine):
    """A breath moves the diaphragm out of the field of view; the way back has to know where it came from."""
    k, j, i = torch.meshgrid(*(torch.arange(float(n)) for n in oblique.shape), indexing="ij")
    u = torch.stack([2 + 0.1 * k, -0.2 * j, 1.5 + 0.05 * i], 0)[None]  # 2 to 4 voxels beyond the last slice
    inverse = torch.zeros_like(u)
    deformation = Deformation(oblique, u, inverse, affine).inverted()
    centers = oblique.to_world(np.indices(oblique.shape)[::-1].reshape(3, -1).T)
    there = deformation.to_moving(centers)
    back = np.linalg.inv(affine)
    left = ~oblique.contains(there @ back[:3, :3].T + back[:3, 3])
    assert 0.1 < left.mean() < 0.9
    np.testing.assert_allclose(deformation.to_fixed(there), centers, atol=0.1)
    itk = deformation.to_itk(inverse=True)
    np.testing.assert_allclose([itk.TransformPoint(p) for p in there[left][:50].tolist()], centers[left][:50], atol=0.1)


def test_vectors_are_what_voxels_move_by(deformation, oblique):
    centers = oblique.to_world(np.indices(oblique.shape)[::-1].reshape(3, -1).T)
    expected = deformation.to_moving(centers) - centers
    np.testing.assert_allclose(deformation.vectors().reshape(3, -1).T, expected, atol=1e-3)
    image = vector_image(deformation.vectors(), oblique)
    point = image.TransformIndexToPhysicalPoint((7, 2, 5))
    goal = np.add(point, image.GetPixel((7, 2, 5)))
    np.testing.assert_allclose(goal, deformation.to_itk().TransformPoint(point), atol=1e-3)


def test_jacobian_is_the_ratio_of_volumes(oblique, affine):
    stretch = np.array([[1.2, 0.1, 0], [0, 0.9, 0], [0.05, 0, 1.1]])
    u = affine_displacement(fields.affine_matrix(stretch, (0, 0, 0), oblique.center), oblique)
    found = Deformation(oblique, u, u, affine).jacobian()
    assert found.shape == (1, 1, *oblique.shape)
    np.testing.assert_allclose(found, np.linalg.det(stretch) * np.linalg.det(affine[:3, :3]), rtol=1e-3)


def test_identity_and_affine_alone(oblique, affine, points):
    np.testing.assert_array_equal(Deformation.identity(oblique).to_moving(points), points)
    alone = Deformation.identity(oblique, affine)
    np.testing.assert_allclose(alone.to_moving(points), points @ affine[:3, :3].T + affine[:3, 3])
    np.testing.assert_allclose(alone.to_fixed(alone.to_moving(points)), points, atol=1e-9)
    assert alone.round_trip().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_identity_warp_is_exact(oblique, generator, dtype):
    image = (1000 * torch.randn(1, 2, *oblique.shape, generator=generator)).to(dtype)
    identity = Deformation.identity(oblique)
    assert torch.equal(identity.warp(image, oblique), image)
    turned = sitk.DICOMOrient(scalar_image(image[:, :1], oblique), "RAS")  # the same voxels in another order
    out = Deformation.identity(oblique.oriented("RAS")).warp(image[:, :1], oblique)
    np.testing.assert_array_equal(out[0, 0], sitk.GetArrayFromImage(turned))
    part = oblique.cropped((1, 2, 3), (4, 5, 3))
    assert torch.equal(Deformation.identity(part).warp(image, oblique), image[:, :, 3:6, 2:7, 1:5])


def test_warp_is_exact_where_nothing_moves(oblique, generator):
    image = torch.randn(1, 1, *oblique.shape, generator=generator)
    u = torch.zeros(1, 3, *oblique.shape)
    u[:, 2, 4:] = 0.5
    out = Deformation(oblique, u, -u, np.eye(4)).warp(image, oblique)
    assert torch.equal(out[:, :, :4], image[:, :, :4])
    np.testing.assert_allclose(out[:, :, 4:, :, :-1], image[:, :, 4:].unfold(4, 2, 1).mean(-1), atol=1e-5)


@pytest.mark.parametrize(("mode", "method"), [("bilinear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)])
def test_warp_is_simpleitks_resampling(deformation, oblique, generator, mode, method):
    source = Grid.centered(oblique.center + 2, (11, 12, 13), (0.9, 1.2, 1.4), TILT)
    image = torch.randn(1, 1, *source.shape, generator=generator)
    reference = scalar_image(torch.zeros(oblique.shape), oblique)
    transform = deformation.to_itk()
    expected = sitk.GetArrayFromImage(sitk.Resample(scalar_image(image, source), reference, transform, method, -9.0))
    assert 0.05 < (expected == -9).mean() < 0.8  # both inside and outside are tried
    np.testing.assert_allclose(deformation.warp(image, source, mode, fill=-9)[0, 0], expected, atol=1e-3)


def test_on_a_finer_lattice_is_the_same_map(oblique, affine):
    # Linear in space, so that interpolation between the coarse voxels is exact.
    bend = fields.affine_matrix(np.diag([0.9, 0.95, 0.85]), (0.5, 0.2, -0.4), oblique.center)
    u = affine_displacement(bend, oblique)
    back = affine_displacement(np.linalg.inv(bend), oblique)
    deformation = Deformation(oblique, u, back, affine)
    other = Grid.centered(oblique.center, (6, 7, 8), (0.5, 0.6, 0.7), TILT)
    carried = deformation.on(other)
    assert carried.grid is other
    inner = other.to_world(np.random.default_rng(2).uniform(0, 5, (20, 3)))
    np.testing.assert_allclose(carried.to_moving(inner), deformation.to_moving(inner), atol=1e-3)
    middle = deformation.to_moving(other.center[None] + np.random.default_rng(3).uniform(-0.5, 0.5, (20, 3)))
    np.testing.assert_allclose(carried.to_fixed(middle), deformation.to_fixed(middle), atol=1e-3)


def test_on_a_larger_lattice_goes_on_as_at_the_border(deformation, oblique):
    wide = deformation.on(oblique.cropped((-3, -2, -4), (16, 13, 15)))
    np.testing.assert_allclose(wide.displacement[..., 4:12, 2:11, 3:13], deformation.displacement, atol=1e-5)
    np.testing.assert_allclose(wide.on(oblique).displacement, deformation.displacement, atol=1e-5)
    border = deformation.displacement[0, :, 0, 5, 9].numpy()
    np.testing.assert_allclose(wide.displacement[0, :, 0, 7, 15], border, atol=1e-5)  # beyond i = 9, below k = 0
    assert deformation.on(oblique.cropped((0, 0, 0), oblique.size)) is deformation


def test_on_a_turned_lattice_turns_the_vectors(deformation, oblique, points):
    turned = deformation.on(oblique.oriented("SLA"))
    assert turned.grid.orientation == "SLA"
    np.testing.assert_allclose(turned.to_moving(points), deformation.to_moving(points), atol=1e-4)
    np.testing.assert_allclose(turned.to_fixed(points), deformation.to_fixed(points), atol=1e-4)


def test_inverted_computes_the_inverse_anew(deformation, affine):
    stale = Deformation(deformation.grid, deformation.displacement, torch.zeros_like(deformation.inverse), affine)
    fresh = stale.inverted()
    # At the voxels of the moving side, where the inverse is solved for; between them interpolation adds its error.
    missed = [fields.round_trip(d.inverse, d.displacement).nan_to_num().max() for d in (stale, fresh)]
    assert missed[0] > 0.3
    assert missed[1] < 0.02
    assert torch.equal(fresh.displacement, stale.displacement)
    np.testing.assert_allclose(fresh.inverse, deformation.inverse, atol=0.03)


def test_images_lie_where_the_grid_says(oblique):
    values = torch.arange(oblique.voxels).reshape(1, 1, *oblique.shape)
    image = scalar_image(values, oblique)
    assert image.GetSize() == oblique.size
    assert image.GetPixel((7, 2, 5)) == values[0, 0, 5, 2, 7]
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((7, 2, 5)), oblique.to_world((7, 2, 5)), atol=1e-9)
    vectors = vector_image(torch.cat([values, -values, 2 * values], 1).double(), oblique)
    assert vectors.GetNumberOfComponentsPerPixel() == 3
    assert vectors.GetPixel((7, 2, 5)) == (value := float(values[0, 0, 5, 2, 7]), -value, 2 * value)
    np.testing.assert_allclose(vectors.TransformIndexToPhysicalPoint((9, 0, 7)), oblique.to_world((9, 0, 7)), atol=1e-9)


def test_of_itk_reads_any_transform(oblique, affine, deformation, points):
    """An affine map leaves no displacement; a composite one is the same map at every voxel, and can be undone."""
    plain = sitk.AffineTransform(3)
    plain.SetMatrix(affine[:3, :3].ravel().tolist())
    plain.SetTranslation(affine[:3, 3].tolist())
    read = Deformation.of_itk(plain, oblique)
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    assert float(read.displacement.abs().max()) < 1e-3

    read = Deformation.of_itk(deformation.to_itk(), oblique)
    inside = oblique.to_world(np.random.default_rng(0).uniform(0, np.array(oblique.size) - 1, (40, 3)))
    np.testing.assert_allclose(read.to_moving(inside), deformation.to_moving(inside), atol=1e-3)
    np.testing.assert_allclose(read.jacobian(), deformation.jacobian(), atol=1e-3)
    assert float(read.round_trip().nan_to_num().mean()) < 0.1
