"""The breathing phantom: what its users rely on when they take its motion and labels for the truth."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib.errors import InputError
from JointRegSegLib.files import grid_of
from JointRegSegLib.phantom import LABELS, MAX_DEPTH_MM, ThoraxPair, breathing_thorax
from scipy import ndimage

NUMBER = {name: number for number, name in LABELS.items()}
LUNGS = [NUMBER["right lung"], NUMBER["left lung"]]
IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels")


def small(seed: int = 0, **options: float) -> ThoraxPair:
    """The thorax on lattices of an eighth of the voxels."""
    return breathing_thorax(seed, (42, 34, 29), (7.2, 7.2, 10.0), **options)


@pytest.fixture(scope="module")
def pair() -> ThoraxPair:
    return breathing_thorax()


@pytest.fixture(scope="module")
def silent() -> ThoraxPair:
    """The same without noise."""
    return breathing_thorax(noise_hu=0)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def voxels(image: sitk.Image) -> np.ndarray:
    """World points (n, 3) of all voxels, in the order of the raveled array."""
    grid = grid_of(image)
    return grid.to_world(np.indices(grid.shape).reshape(3, -1).T[:, ::-1])


def read(image: sitk.Image, points: np.ndarray, order: int = 1) -> np.ndarray:
    """Values at world points (n, 3); zero outside."""
    index = grid_of(image).to_index(points)[:, ::-1].T
    return ndimage.map_coordinates(array(image).astype(float), index, order=order, mode="constant")


def determinant(pair: ThoraxPair, points: np.ndarray, h: float = 0.01) -> np.ndarray:
    """Determinant of the motion's derivative, by central differences."""
    columns = [(pair.motion(points + step) - pair.motion(points - step)) / (2 * h) for step in h * np.eye(3)]
    return np.linalg.det(np.stack(columns, -1))


def test_a_seed_gives_the_same_pair_and_another_seed_another():
    first, again, other = small(seed=3), small(seed=3), small(seed=4)
    for name in IMAGES:
        np.testing.assert_array_equal(array(getattr(first, name)), array(getattr(again, name)))
    np.testing.assert_array_equal(first.fixed_points, again.fixed_points)
    assert (array(first.fixed) != array(other.fixed)).mean() > 0.5
    assert first.fixed_points.shape != other.fixed_points.shape or (first.fixed_points != other.fixed_points).any()


def test_the_anatomy_depends_neither_on_lattice_nor_noise(pair, silent):
    np.testing.assert_array_equal(small().moving_points, pair.moving_points)
    for name in ("fixed_labels", "moving_labels"):
        np.testing.assert_array_equal(array(getattr(pair, name)), array(getattr(silent, name)))
    for name in ("fixed", "moving"):
        noise = array(getattr(pair, name)).astype(float) - array(getattr(silent, name))
        tissue = array(getattr(silent, name)) > -950  # air is cut at -1024
        assert noise[tissue].std() == pytest.approx(12, rel=0.02)
        assert abs(noise[tissue].mean()) < 0.2


def test_the_two_images_have_noise_of_their_own(pair, silent):
    # Otherwise a registration could look better than it is by aligning noise.
    noises = [array(getattr(pair, n)).astype(float) - array(getattr(silent, n)) for n in ("fixed", "moving")]
    assert abs(np.corrcoef(*[noise.ravel()[:200_000] for noise in noises])[0, 1]) < 0.02


def test_the_lattices_are_oblique_and_differ_in_everything(pair):
    fixed, moving = grid_of(pair.fixed), grid_of(pair.moving)
    assert (fixed.orientation, moving.orientation) == ("LPS", "AIL")
    for grid in (fixed, moving):
        largest = np.abs(grid.direction).max(0)
        assert (largest < 0.9995).all()  # no axis within a degree and a half of the patient's
        assert np.linalg.det(grid.direction) == pytest.approx(1)  # a rotation, as every file format can store
    assert len(set(moving.size)) == 3
    assert len(set(np.round(moving.spacing, 6))) == 3
    assert set(fixed.size).isdisjoint(moving.size)
    assert (np.abs(fixed.spacing[[1, 2, 0]] / moving.spacing - 1) > 0.05).all()
    assert (np.abs(fixed.center - moving.center) > 1).all()
    for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
        assert grid_of(image).matches(grid_of(labels))
        assert (image.GetPixelID(), labels.GetPixelID()) == (sitk.sitkInt16, sitk.sitkUInt8)


@pytest.mark.parametrize("depth", [18.0, MAX_DEPTH_MM])
def test_the_motion_does_not_fold(depth):
    moved = small(depth_mm=depth)
    axes = np.arange(-150, 151, 6), np.arange(-110, 111, 6), np.arange(-170, 191, 6)
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(float)
    values = determinant(moved, lattice)
    assert values.min() > 0.2
    assert values.min() < 0.9  # and it does move
    assert values.max() < 2


def test_the_motion_is_a_breath(pair):
    still = np.array([[0, 48, z] for z in range(-100, 160, 10)] + [[0, 73, 20], [-18, 50, 0]], float)
    np.testing.assert_array_equal(pair.motion(still), still)  # the spine
    points = np.array([(-110, 0, 20), (110, 0, 20), (0, -85, 20), (-58, 0, -10), (-58, 30, -10), (-50, 0, 150)], float)
    right, left, front, dome, behind, apex = pair.motion(points) - points
    assert right[0] > 1.5  # the sides close
    assert left[0] < -1.5
    assert front[1] > 2.5  # the breastbone sinks back
    assert dome[2] == pytest.approx(pair.depth_mm, rel=0.03)
    assert behind[2] > dome[2] + 0.5
    assert abs(apex[2]) < 1.5


def test_no_depth_is_no_motion(pair):
    rest = small(depth_mm=0)
    points = voxels(rest.fixed)
    np.testing.assert_array_equal(rest.motion(points), points)
    np.testing.assert_array_equal(rest.fixed_points, rest.moving_points)
    # The forks at exhale are the same however deep the breath before; the fixed points solve motion(x) = fork.
    np.testing.assert_allclose(pair.moving_points, rest.moving_points, atol=1e-6)


@pytest.mark.parametrize("name", NUMBER)
def test_labels_follow_the_motion(pair, name):
    own = array(pair.fixed_labels).ravel() == NUMBER[name]
    points = voxels(pair.fixed)
    carried = read(pair.moving_labels, pair.motion(points), order=0) == NUMBER[name]
    still = read(pair.moving_labels, points, order=0) == NUMBER[name]
    dice = [2 * (own & other).sum() / (own.sum() + other.sum()) for other in (carried, still)]
    assert dice[0] >= 0.95
    assert dice[1] < dice[0] - 0.02  # there is something to register


def test_the_images_follow_the_motion(silent):
    points = voxels(silent.fixed)
    moved = silent.motion(points)
    inside = grid_of(silent.moving).contains(moved) & grid_of(silent.moving).contains(points)
    solid = inside & ~np.isin(array(silent.fixed_labels).ravel(), LUNGS) & (array(silent.fixed).ravel() > -300)
    own = array(silent.fixed).ravel()[solid].astype(float)
    after = np.abs(read(silent.moving, moved[solid]) - own).mean()
    before = np.abs(read(silent.moving, points[solid]) - own).mean()
    assert after < before / 2


def test_right_is_right(pair):
    for labels in (pair.fixed_labels, pair.moving_labels):
        points, values = voxels(labels), array(labels).ravel()
        middle = {name: points[values == number].mean(0) for name, number in NUMBER.items()}
        assert middle["right lung"][0] < middle["liver"][0] < -20  # x runs to the left
        assert 5 < middle["heart"][0] < middle["left lung"][0]
        assert middle["heart"][1] < middle["left lung"][1]  # y runs to the back
        assert middle["liver"][2] < middle["heart"][2] < middle["right lung"][2]  # z runs up


def test_landmarks_are_forks_of_vessels_that_both_images_show(silent):
    assert len(silent.fixed_points) >= 40
    np.testing.assert_allclose(silent.motion(silent.fixed_points), silent.moving_points, atol=1e-9)
    ring = 9 * np.concatenate([np.eye(3), -np.eye(3)])
    organs = read(silent.moving_labels, silent.moving_points, order=0)
    assert set(organs) == {*LUNGS, NUMBER["liver"]}
    for image, labels, points in (
        (silent.fixed, silent.fixed_labels, silent.fixed_points),
        (silent.moving, silent.moving_labels, silent.moving_points),
    ):
        assert grid_of(image).contains(points).all()
        np.testing.assert_array_equal(read(labels, points, order=0), organs)
        around = np.mean([read(image, points + step) for step in ring], axis=0)
        contrast = read(image, points) - around
        lung = np.isin(organs, LUNGS)
        assert np.median(contrast[lung]) > 100
        assert (contrast[lung] > 0).mean() > 0.8
        assert np.median(contrast[~lung]) > 10


@pytest.mark.parametrize("number", LUNGS)
def test_lungs_shrink_and_keep_their_mass(pair, number):
    volume, mass, density = [], [], []
    for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
        values = array(image)[array(labels) == number].astype(float)
        volume.append(values.size * grid_of(image).voxel_volume)
        mass.append((values + 1000).sum() * grid_of(image).voxel_volume)
        density.append(np.median(values))
    assert volume[1] < 0.93 * volume[0]  # so far that the next line would fail at equal density
    assert mass[1] == pytest.approx(mass[0], rel=0.03)
    assert density[1] > density[0] + 10


def test_intensities_are_those_of_a_ct(pair):
    for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
        hu, organ = array(image), array(labels)
        assert hu.min() >= -1024
        assert 350 < hu.max() < 1000
        assert -870 < np.median(hu[np.isin(organ, LUNGS)]) < -800
        assert 90 < np.median(hu[organ == NUMBER["liver"]]) < 115
        assert 80 < np.median(hu[organ == NUMBER["heart"]]) < 180
        beside = np.abs(voxels(image)[:, 0]) > 142
        assert np.median(hu.ravel()[beside]) == pytest.approx(-1000, abs=2)  # air
        assert ((hu > -130) & (hu < -60)).mean() > 0.05  # fat
        assert (hu > 250).mean() > 0.01  # bone


@pytest.mark.parametrize(
    "options",
    [
        {"depth_mm": -1},
        {"depth_mm": MAX_DEPTH_MM + 1},
        {"depth_mm": float("nan")},
        {"noise_hu": -1},
        {"noise_hu": float("inf")},
        {"size": (20, 20)},
        {"size": (20, 20, 0)},
        {"spacing": (3.0, 3.0)},
        {"spacing": (3.0, 0.0, 5.0)},
    ],
)
def test_impossible_wishes_are_refused(options):
    with pytest.raises(InputError):
        breathing_thorax(**options)
