"""Cuts and pictures turned the right way round on any lattice."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from drawn import AXIAL, CORONAL, SAGITTAL, blob, pixels, world
from JointRegSegLib import canvas, slices
from JointRegSegLib.deformation import scalar_image, vector_image
from JointRegSegLib.geometry import Grid
from JointRegSegLib.slices import PLANES, Box, cut, picture_grid
from scipy.spatial.transform import Rotation


@pytest.mark.parametrize(("plane", "toward"), [(AXIAL, (-1, -1)), (CORONAL, (-1, -1)), (SAGITTAL, (-1, -1))])
def test_a_blob_right_anterior_superior_is_seen_in_the_upper_left_where_it_lies(oblique, plane, toward):
    offset = np.array([-1.6, -2.0, 3.0])  # LPS: to the right, to the front, up
    center = oblique.center + offset
    box = Box.of_grid(oblique)
    grid = picture_grid(plane, center, box)
    picture = np.nan_to_num(cut(blob(oblique, center, 1.5), grid))
    row, column = np.unravel_index(np.argmax(picture), picture.shape)

    height, width = picture.shape
    assert np.sign((column - width / 2, row - height / 2)).tolist() == list(toward)
    # Millimeters from the middle of the box along the picture's axes, written out for each plane.
    middle = (box.low + box.high) / 2
    x, y, z = center - middle
    expected = {"axial": (x, y), "coronal": (x, -z), "sagittal": (y, -z)}[plane.name]
    found = np.array([column - (width - 1) / 2, row - (height - 1) / 2]) * grid.spacing[0]
    np.testing.assert_allclose(found, expected, atol=1.0)  # within a voxel


def test_directions_and_letters_are_radiological():
    assert [p.letters for p in PLANES] == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    assert [p.axis for p in PLANES] == [2, 1, 0]
    assert AXIAL.position(np.array([1, 2, -3.21])) == "I 3.2 mm"
    assert CORONAL.position(np.array([1, -2, 3])) == "A 2.0 mm"
    assert SAGITTAL.position(np.array([1.04, 2, 3])) == "L 1.0 mm"


def test_a_ball_is_round_and_of_its_size_on_anisotropic_voxels():
    grid = Grid.from_geometry(
        (60, 40, 20), (0.7, 1.0, 2.0), (30, -5, 90), Rotation.from_rotvec([0.4, 0.2, -0.3]).as_matrix()
    )
    distance = np.linalg.norm(world(grid) - grid.center, axis=-1)
    ball = scalar_image(np.clip(12 - distance, 0, 2).astype(np.float32), grid)  # half its height at a radius of 11 mm
    for plane in PLANES:
        lattice = picture_grid(plane, grid.center, Box.of_grid(grid))
        inside = np.nan_to_num(cut(ball, lattice)) > 1
        for axis in (0, 1):
            assert inside.any(axis).sum() * lattice.spacing[0] == pytest.approx(22, abs=0.8)


def test_outside_the_image_there_is_nothing(oblique):
    grid = picture_grid(AXIAL, oblique.center, Box.of_grid(oblique))
    picture = cut(blob(oblique, oblique.center, 3), grid)
    inside = oblique.contains(slices.points_of(grid))
    assert (np.isfinite(picture) == inside).mean() > 0.999  # but for rounding at the border
    assert 0.1 < inside.mean() < 0.9
    labels = cut(sitk.Cast(blob(oblique, oblique.center, 3) > -1, sitk.sitkUInt8) * 7, grid, sitk.sitkLabelLinear)
    assert set(np.unique(labels[~inside])) == {0}
    assert labels.max() == 7


def test_vectors_are_read_at_the_right_place(oblique):
    field = vector_image(torch.from_numpy(world(oblique).transpose(3, 0, 1, 2).copy()).float()[None], oblique)
    grid = picture_grid(CORONAL, oblique.center, Box.of_grid(oblique))
    values, points = cut(field, grid), slices.points_of(grid)
    # Within the outer voxels' centers, where interpolation does not run against the border.
    index = oblique.to_index(points)
    inner = ((index >= 0) & (index <= np.array(oblique.size) - 1)).all(-1)
    np.testing.assert_allclose(values[inner], points[inner], atol=1e-3)
    assert inner.sum() > 1000


# ---------------------------------------------------------------- where to look


def test_cuts_go_through_the_structure_and_not_between_two():
    grid = Grid.from_geometry((60, 40, 50), (2, 2, 2), (-60, -40, -50))
    pair = sum(sitk.GetArrayFromImage(blob(grid, (x, 10, 20), 6)) for x in (-35, 40)) > 0.3
    points = slices.structure_points(scalar_image(pair.astype(np.uint8), grid))
    point = slices.focus(points, grid)
    assert min(abs(point[0] + 35), abs(point[0] - 40)) < 9  # the centroid, x = 2, lies between them
    np.testing.assert_allclose(point[1:], (10, 20), atol=2)
    axis, places = slices.stations(points, grid)
    assert axis != 0  # the middle of the longest extent would show neither
    assert np.ptp(places) > 4
    index = grid.to_index(point)
    np.testing.assert_allclose(index, np.round(index), atol=1e-9)


def test_foreground_is_the_body_without_table_and_noise():
    grid = Grid.from_geometry((60, 60, 40), (4, 4, 5))
    noise = np.random.default_rng(0).normal(-1000, 15, grid.shape)
    ball = np.linalg.norm(world(grid) - (118, 100, 100), axis=-1) < 75
    image = np.where(ball, 40, noise)
    image[:, 55] = 100  # a plate under the body
    points = slices.foreground_points(scalar_image(image.astype(np.float32), grid))
    np.testing.assert_allclose((points.min(0), points.max(0)), ((43, 25, 25), (193, 175, 175)), atol=6)


def test_small_structures_do_not_slip_through_a_coarse_look():
    grid = Grid.from_geometry((300, 300, 60), (0.5, 0.5, 1))
    array = np.zeros(grid.shape, np.uint8)
    array[31, 151, 207] = 3
    np.testing.assert_allclose(slices.structure_points(scalar_image(array, grid)), [(103.5, 75.5, 31)])


def test_a_small_object_in_a_large_empty_volume():
    image = np.zeros((130, 130, 130), np.float32)
    image[41:44, 51:52, 51:55] = 100
    points = slices.foreground_points(scalar_image(image, Grid.from_geometry((130, 130, 130), (1, 1, 1))))
    np.testing.assert_allclose((points.min(0), points.max(0)), ((51, 51, 41), (54, 51, 43)))


# ---------------------------------------------------------------- drawing


def test_rendered_pictures_keep_their_pixels_and_carry_letters_and_a_true_scale_bar():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (200, 240, 3)).astype(np.uint8)
    black = np.zeros_like(noise)
    pixel = 0.5
    drawn = {
        p.name: [
            pixels(x.png) for x in canvas.render([canvas.Tile("a", "", noise), canvas.Tile("b", "", black)], p, pixel)
        ]
        for p in PLANES
    }
    untouched = np.s_[30:80, 30:100]
    np.testing.assert_array_equal(drawn["axial"][0][untouched], noise[untouched])  # neither flipped nor blurred

    def letter(plane: str, where) -> np.ndarray:
        return drawn[plane][1][where]

    left, right, top, bottom = np.s_[85:115, :20], np.s_[85:115, -20:], np.s_[:20, 105:135], np.s_[-20:, 105:135]
    for a, b in [(("axial", left), ("coronal", left)), (("axial", right), ("coronal", right))]:
        np.testing.assert_array_equal(letter(*a), letter(*b))  # R and R, L and L
    for where in (top, bottom):
        np.testing.assert_array_equal(letter("coronal", where), letter("sagittal", where))
        assert (letter("axial", where) != letter("coronal", where)).any()
    ink = {
        place: letter("coronal", where).sum() for place, where in zip("RLSI", (left, right, top, bottom), strict=True)
    }
    assert ink["L"] < 0.75 * ink["R"]
    assert 0 < ink["I"] < 0.6 * ink["S"]
    assert not drawn["axial"][1][:60, :60].any()

    # 240 pixels of half a millimeter: a quarter is 30 mm.
    bar = (drawn["axial"][1][200 - 8] > 200).all(-1)[:100]
    assert bar.sum() * pixel == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize(("length", "expected"), [(0.9, 1), (3.4, 3), (7.2, 10), (41, 50), (130, 100), (0.021, 0.02)])
def test_round_lengths(length, expected):
    assert canvas.round_length(length) == pytest.approx(expected)
