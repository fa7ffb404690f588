"""Grids against SimpleITK's geometry, and the algebra that has to hold for any grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import Grid, voxel_map
from scipy.spatial.transform import Rotation

CODES = [
    "".join(letters) for axes in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*axes)
]  # all 48


def three(strategy):
    """One value for each axis."""
    return st.tuples(strategy, strategy, strategy)


sizes = three(st.integers(1, 6))


@st.composite
def grids(draw, size=sizes) -> Grid:
    """Any rotation, flips, spacings and origin."""
    direction = Rotation.from_rotvec(draw(three(st.floats(-3, 3)))).as_matrix()
    direction = direction @ np.diag(draw(three(st.sampled_from([-1, 1]))))
    spacing, origin = draw(three(st.floats(0.3, 4))), draw(three(st.floats(-500, 500)))
    return Grid.from_geometry(draw(size), spacing, origin, direction)


def itk(grid: Grid) -> sitk.Image:
    """An image on ``grid`` in which every voxel has another value."""
    return scalar_image(np.arange(grid.voxels, dtype=np.float32).reshape(grid.shape), grid)


def grid_of(image: sitk.Image) -> Grid:
    return Grid.from_geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def assert_same_voxels(a: Grid, b: Grid):
    """Every voxel of one is a voxel of the other, in whatever order."""
    index = b.to_index(a.to_world(list(np.ndindex(a.size))))
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)
    assert {tuple(row) for row in np.round(index).astype(int)} == set(np.ndindex(b.size))


def ambiguous(grid: Grid) -> bool:
    """Whether two axes are equally close to one direction, as after a turn by 45°, so that rounding decides."""
    cosines = np.abs(grid.direction)
    for values in (np.sort(cosines, 0), np.sort(cosines.T, 0)):
        if ((np.diff(values, axis=0) < 1e-6) & (values[1:] > 0.3)).any():
            return True
    return False


def test_world_points_agree_with_simpleitk(oblique):
    image = itk(oblique)
    for index in ([0, 0, 0], [9, 8, 7], [2.25, 7.5, 0.125], [-3, 20, 4]):
        point = image.TransformContinuousIndexToPhysicalPoint(index)
        np.testing.assert_allclose(oblique.to_world(index), point, atol=1e-9)
        np.testing.assert_allclose(oblique.to_index(point), index, atol=1e-9)


def test_array_index_runs_in_reverse(oblique):
    assert oblique.shape == (8, 9, 10)
    i, j, k = 3, 5, 1
    np.testing.assert_allclose((oblique.array_affine @ [k, j, i, 1])[:3], oblique.to_world([i, j, k]))


def test_figures_of_a_known_grid():
    quarter_turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # i runs along P, j along R
    grid = Grid.from_geometry((4, 3, 2), (0.5, 2, 5), (10, 20, 30), quarter_turn)
    np.testing.assert_allclose(grid.affine, [[0, -2, 0, 10], [0.5, 0, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(grid.spacing, (0.5, 2, 5))
    np.testing.assert_allclose(grid.direction, quarter_turn)
    np.testing.assert_allclose(grid.center, (10 - 2, 20 + 0.75, 30 + 2.5))
    np.testing.assert_allclose(grid.extent, (2, 6, 10))
    assert (grid.voxels, grid.voxel_volume, grid.orientation) == (24, pytest.approx(5), "PRS")


def test_voxel_volume_of_a_sheared_grid_is_not_the_product_of_its_spacings():
    tilted = Grid((2, 2, 2), [[1, 0, 0, 0], [0, 1, 3, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    assert tilted.voxel_volume == pytest.approx(4)
    np.testing.assert_allclose(tilted.spacing, (1, 1, 5))


def test_centered_puts_the_middle_there(oblique):
    grid = Grid.centered((7, -8, 9), (4, 5, 6), (1, 2, 3), oblique.direction)
    np.testing.assert_allclose(grid.to_world((1.5, 2, 2.5)), (7, -8, 9))
    assert grid.size == (4, 5, 6)
    np.testing.assert_allclose(grid.direction, oblique.direction)


@pytest.mark.parametrize(
    ("size", "affine"),
    [
        ((0, 2, 2), np.eye(4)),
        ((2, 2), np.eye(4)),
        ((2, 2, 2), np.eye(3)),
        ((2, 2, 2), np.full((4, 4), np.nan)),
        ((2, 2, 2), np.diag([1, 1, 0, 1])),
        # The translation in the last row is a transposed matrix, as from another library's convention.
        ((2, 2, 2), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 6, 7, 1]]),
    ],
    ids=["empty", "flat", "3x3", "nan", "singular", "transposed"],
)
def test_refuses_what_is_no_lattice(size, affine):
    with pytest.raises(InputError):
        Grid(size, affine)


@pytest.mark.parametrize("name", ["affine", "array_affine"])
def test_cannot_be_changed_through_its_matrices(oblique, name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(oblique, name)[0, 0] = 3


def test_contains_up_to_the_borders_of_the_outer_voxels(oblique):
    inside = oblique.to_world([[-0.49, 0, 0], [9.49, 8.49, 7.49]])
    outside = oblique.to_world([[-0.51, 0, 0], [0, 8.51, 0], [0, 0, 7.51]])
    assert oblique.contains(inside).tolist() == [True, True]
    assert oblique.contains(outside).tolist() == [False] * 3


def test_matches_counts_in_voxels(oblique):
    step = oblique.affine[:3, 2]  # one voxel along k, 2.5 mm
    shifted = [np.block([[np.eye(3), share * step[:, None]], [np.zeros(3), 1]]) for share in (0.0009, 0.0011)]
    little, more = (Grid(oblique.size, matrix @ oblique.affine) for matrix in shifted)
    assert oblique.matches(little)
    assert not oblique.matches(more)
    assert oblique.matches(more, tolerance=0.01)
    assert not oblique.matches(oblique.cropped((0, 0, 0), (10, 9, 7)))


def test_cropped_is_simpleitks_extract_and_pad(oblique):
    image = itk(oblique)
    assert oblique.cropped((2, 0, 3), (5, 9, 4)).matches(grid_of(sitk.Extract(image, (5, 9, 4), (2, 0, 3))), 1e-9)
    # ITK keeps the old origin and a negative start index when it pads; the first voxel's place is what counts.
    padded = sitk.ConstantPad(image, (1, 2, 3), (4, 0, 1))
    ours = oblique.cropped((-1, -2, -3), (15, 11, 12))
    assert ours.size == padded.GetSize()
    np.testing.assert_allclose(ours.origin, padded.TransformIndexToPhysicalPoint((0, 0, 0)), atol=1e-9)


@given(grids(), three(st.integers(-4, 4)), sizes)
def test_cropping_back_restores_the_grid(grid, start, size):
    back = grid.cropped(start, size).cropped([-s for s in start], grid.size)
    assert back.matches(grid, 1e-6)


def test_fitted_keeps_the_middle(oblique):
    grid = oblique.fitted((6, 11, 2))  # cropped, padded, cropped, each by an even number
    np.testing.assert_allclose(grid.center, oblique.center, atol=1e-9)
    assert grid.size == (6, 11, 2)


def test_fitted_cuts_and_pads_the_odd_voxel_at_the_end(oblique):
    for size in ((9, 9, 7), (11, 9, 9)):
        np.testing.assert_allclose(oblique.fitted(size).origin, oblique.origin, atol=1e-9)


@given(grids(), sizes)
def test_fitted_back_restores_the_grid(grid, size):
    assert grid.fitted(size).fitted(grid.size).matches(grid, 1e-6)


def test_strided_is_simpleitks_bin_shrink(oblique):
    grid = oblique.cropped((0, 0, 0), (8, 9, 6))
    assert grid.strided((4, 3, 2)).matches(grid_of(sitk.BinShrink(itk(grid), (4, 3, 2))), 1e-9)


def test_strided_covers_the_remainder_too(oblique):
    coarse = oblique.strided((4, 2, 3))
    assert coarse.size == (3, 5, 3)  # BinShrink would drop the voxels that fill no block
    assert coarse.contains(oblique.to_world([[0, 0, 0], [9, 8, 7]])).all()
    with pytest.raises(InputError):
        oblique.strided((1, 0, 1))


@given(grids(), three(st.floats(-20, 20)), sizes)
def test_snapped_moves_onto_the_lattice_by_half_a_voxel_at_most(lattice, shift, size):
    grid = Grid.from_geometry(size, lattice.spacing, lattice.to_world(shift), lattice.direction)
    start = lattice.to_index(grid.snapped(lattice).origin)
    np.testing.assert_allclose(start, np.round(start), atol=1e-6)
    assert (np.abs(start - shift) <= 0.5 + 1e-6).all()
    assert grid.snapped(lattice).size == size


def test_snapped_leaves_a_grid_with_other_axes_alone(oblique):
    for other in (oblique.strided((2, 2, 2)), oblique.oriented("RAS")):
        assert other.snapped(oblique) is other


@pytest.mark.parametrize("code", CODES)
def test_oriented_is_simpleitks_dicom_orient(oblique, code):
    image = sitk.DICOMOrient(itk(oblique), code)
    grid = oblique.oriented(code)
    assert grid.matches(grid_of(image), 1e-9)
    assert grid.orientation == code
    assert oblique.oriented(code.lower()).matches(grid)


@given(grids(), st.sampled_from(CODES))
def test_oriented_twice_is_stable_and_keeps_the_voxels(grid, code):
    assume(not ambiguous(grid))
    turned = grid.oriented(code)
    assert turned.orientation == code
    assert turned.oriented(code).matches(turned, 1e-9)
    assert turned.oriented(grid.orientation).matches(grid, 1e-9)
    assert_same_voxels(turned, grid)


def test_oriented_uses_each_axis_once_however_sheared():
    # After the two nearest axes are given away, what remains has no share of the third direction at all.
    columns = np.array([[0.8, 0, 0.6], [0, 0.8, 0.6], [np.sqrt(0.5), np.sqrt(0.5), 0]]).T
    grid = Grid.from_geometry((2, 3, 4), direction=columns)
    assert_same_voxels(grid.oriented("LPS"), grid)


@pytest.mark.parametrize("code", ["", "LP", "LPSA", "LLS", "LRS", "XYZ"])
def test_oriented_refuses_what_names_no_three_directions(oblique, code):
    with pytest.raises(InputError, match="orientation"):
        oblique.oriented(code)


@given(grids())
def test_orientation_is_simpleitks(grid):
    assume(not ambiguous(grid))
    name = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction.ravel().tolist())
    assert grid.orientation == name


def test_overlap_is_the_share_inside(oblique):
    assert oblique.overlap(oblique) == 1
    assert oblique.overlap(oblique.cropped((0, 0, 0), (5, 9, 8))) == pytest.approx(0.5)
    assert oblique.cropped((0, 0, 0), (5, 9, 8)).overlap(oblique) == 1  # not symmetric
    assert oblique.overlap(oblique.cropped((10, 0, 0), (5, 9, 8))) == 0
    # More voxels than are sampled:
    wide = Grid.from_geometry((200, 1, 1))
    assert wide.overlap(wide.cropped((0, 0, 0), (100, 1, 1))) == pytest.approx(0.5)


@given(grids(), three(st.floats(-100, 100)))
def test_to_index_inverts_to_world(grid, index):
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-8)


@given(grids(), grids(), grids(), st.floats(-1, 1), st.floats(0.5, 2))
def test_voxel_maps_compose(a, b, c, angle, scale):
    first = np.eye(4)
    first[:3, :3] = scale * Rotation.from_rotvec([angle, 0.2, -0.4]).as_matrix()
    second = np.array([[1, 0.3, 0, 4], [0, 1, 0, -5], [0, 0, 1, 6], [0, 0, 0, 1]])
    np.testing.assert_allclose(
        voxel_map(b, c, second) @ voxel_map(a, b, first), voxel_map(a, c, second @ first), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(voxel_map(a, a), np.eye(4), atol=1e-6)
