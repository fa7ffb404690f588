"""What the classifier sees: the same of one body on any lattice, and nothing of an affine motion."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import deformation
from JointRegSegLib.deformation import scalar_image, vector_image
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung.features import Recipe, frame, prepare, regional
from JointRegSegLib.lung.pair import breathing_pair
from scipy.spatial.transform import Rotation

CENTER = np.array((12.0, -40.0, 300.0))
STRAIGHT = Grid.centered(CENTER, (58, 50, 66), (4, 4, 4), np.eye(3))
TURNED = Grid.centered(
    CENTER + 3,
    (64, 72, 62),
    (4.4, 3.7, 4.1),
    Rotation.from_rotvec([0.3, -0.25, 0.2]).as_matrix() @ np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]),
)
AFFINE = np.array([[1.08, 0.03, 0], [0.02, 1.05, -0.04], [0.01, 0.05, 1.12]])


def points(grid: Grid) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    return grid.to_world(np.stack([i, j, k], -1))


def wave(p: np.ndarray) -> np.ndarray:
    """A smooth motion in mm that no affine map has."""
    x = (p - CENTER) / 80
    return np.stack([3 * np.cos(3 * x[..., 1]), 2 * np.cos(3 * x[..., 2]), 5 * np.cos(2.5 * x[..., 0])], -1)


def pair_on(grid: Grid, bent: float = 1.0, linear: np.ndarray = AFFINE, shift: float = 7.0):
    """Two ellipsoids as lungs, exhale fixed."""
    p = points(grid)
    lungs = np.zeros(grid.shape, np.uint8)
    for value, side in ((1, -48), (2, 48)):
        lungs[(((p - CENTER - (side, 0, 0)) / (38, 62, 95)) ** 2).sum(-1) < 1] = value
    vectors = (p - CENTER) @ (linear - np.eye(3)).T + shift + bent * wave(p)
    tensor = torch.from_numpy(np.moveaxis(vectors, -1, 0)[None].copy())
    transform = sitk.DisplacementFieldTransform(sitk.Cast(vector_image(tensor, grid), sitk.sitkVectorFloat64))
    return breathing_pair(transform, scalar_image(lungs, grid))


@pytest.fixture(scope="module")
def straight():
    return pair_on(STRAIGHT)


@pytest.fixture(scope="module")
def turned():
    return pair_on(TURNED)


def test_frame_is_the_box_of_the_lungs(straight, turned):
    for pair in (straight, turned):
        box = frame(pair, 16)
        np.testing.assert_allclose(box.center, CENTER, atol=1)
        np.testing.assert_allclose(box.extent, (172, 124, 190), rtol=0.12)


@pytest.mark.parametrize(
    "recipe", [Recipe(12), Recipe(12, ventilation=True), Recipe(12, motion="whole", by_depth=False)], ids=str
)
def test_one_body_on_two_lattices_is_seen_the_same(straight, turned, recipe):
    (first, mask), (second, other) = prepare(straight, recipe), prepare(turned, recipe)
    assert first.shape == (recipe.channels, 12, 12, 12)
    both = mask & other
    assert both.sum() > 0.93 * (mask | other).sum()
    for a, b in zip(first, second, strict=True):
        assert np.abs(a - b)[both].mean() < 0.06 * np.abs(a[both]).max()
    one, two = regional(straight), regional(turned)
    for name in one:
        assert one[name] == pytest.approx(two[name], abs=0.03), name


def test_channels_are_x_y_z_of_the_motion(straight):
    """The wave's x component depends on y alone, and so on."""
    seen, inside = prepare(straight, Recipe(12, by_depth=False))
    place = points(frame(straight, 12))
    expected = np.moveaxis(wave(place), -1, 0)
    for channel, extent in enumerate(frame(straight, 12).extent):
        told = seen[channel][inside] * extent / 100
        assert np.corrcoef(told, expected[channel][inside])[0, 1] > 0.9
    assert (seen[:, ~inside] == 0).all()


def test_an_affine_motion_leaves_no_residual():
    pair = pair_on(STRAIGHT, bent=0.0)
    assert pair.volume_ratio == pytest.approx(np.linalg.det(AFFINE), abs=1e-4)
    assert np.abs(prepare(pair, Recipe(12))[0]).max() < 1e-3
    whole = prepare(pair, Recipe(12, motion="whole", by_depth=False))[0]
    assert np.abs(whole).max() > 3


def test_depth_is_divided_out_and_a_shift_of_the_patient_does_not_count():
    """Twice as deep a breath, in all of its parts, from another place on the table."""
    shallow = pair_on(STRAIGHT, 0.5, np.eye(3) + (AFFINE - np.eye(3)) / 2, shift=-4)
    deep = pair_on(STRAIGHT)
    (a, mask), (b, _) = prepare(shallow, Recipe(12)), prepare(deep, Recipe(12))
    np.testing.assert_allclose(a[:, mask], b[:, mask], atol=0.06 * np.abs(b).max())
    (a, _), (b, _) = (prepare(pair, Recipe(12, by_depth=False)) for pair in (shallow, deep))
    np.testing.assert_allclose(2 * a[:, mask], b[:, mask], atol=1e-3)


def test_exhale_and_inhale_as_fixed_image_tell_the_same():
    pair = pair_on(STRAIGHT, bent=0.0)
    back = pair_on(STRAIGHT, bent=0.0, linear=np.linalg.inv(AFFINE), shift=0.0)
    assert not pair.breath.fixed_is_inhale and back.breath.fixed_is_inhale
    assert pair.volume_ratio == pytest.approx(back.volume_ratio, rel=1e-3)
    assert regional(pair)["lungs: ventilation"] == pytest.approx(regional(back)["lungs: ventilation"], rel=1e-3)
    # Tissue moves down to inhale whichever image is fixed.
    for p in (pair_on(STRAIGHT, 0, linear=np.diag([1.05, 1.05, 1.1]), shift=0), back):
        assert (p.breath.expansion.motion[p.points[:, 2] < CENTER[2] - 60, 2] < 0).all()


def test_lungs_that_do_not_breathe_are_refused():
    with pytest.raises(InputError, match="too little to compare"):
        prepare(pair_on(STRAIGHT, bent=0.1, linear=np.eye(3)), Recipe(12))


def test_what_lies_beyond_the_pleura_does_not_count(straight):
    """Lungs slide along the wall: another motion outside changes nothing inside."""
    p = points(STRAIGHT)
    vectors = (p - CENTER) @ (AFFINE - np.eye(3)).T + 7 + wave(p)
    vectors[~straight.lungs] += 15
    tensor = torch.from_numpy(np.moveaxis(vectors, -1, 0)[None].copy())
    lungs = scalar_image(straight.lungs.astype(np.uint8), STRAIGHT)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(vector_image(tensor, STRAIGHT), sitk.sitkVectorFloat64))
    slid = breathing_pair(transform, lungs)
    np.testing.assert_allclose(slid.breath.expansion.gradient, straight.breath.expansion.gradient, atol=1e-5)
    np.testing.assert_allclose(prepare(slid, Recipe(12))[0], prepare(straight, Recipe(12))[0], atol=1e-3)


def test_labels_stay_what_they_are_on_a_coarser_lattice(monkeypatch):
    """Between 0 and 5 there is no label 3, and a lung is as large whatever its number."""
    grid = Grid.centered(CENTER, (60, 60, 60), (3, 3, 3), TURNED.direction)
    p, lungs = points(grid), np.zeros(grid.shape, np.uint8)
    for value, side in ((1, -45), (5, 45)):
        lungs[(((p - CENTER - (side, 0, 0)) / (30, 40, 60)) ** 2).sum(-1) < 1] = value
    squeezed = sitk.AffineTransform((0.9 * np.eye(3)).ravel().tolist(), (0, 0, 0), CENTER.tolist())
    monkeypatch.setattr(deformation, "FIELD_VOXELS", grid.voxels // 4)
    pair = breathing_pair(squeezed, scalar_image(lungs, grid))
    assert pair.grid.voxels <= grid.voxels / 4
    parts = [pair.parts[name].sum() for name in ("label 1", "label 5")]
    assert sum(parts) == pair.lungs.sum() and abs(parts[0] / parts[1] - 1) < 0.02


def test_few_folds_are_left_out_and_many_refused(straight):
    def folded(count: int):
        p = points(STRAIGHT)
        vectors = (p - CENTER) @ (AFFINE - np.eye(3)).T
        places = np.argwhere(straight.lungs)[:: len(straight.parts["peel"]) // count][:count]
        vectors[tuple(places.T)] += (0, 0, 12)
        tensor = torch.from_numpy(np.moveaxis(vectors, -1, 0)[None].copy())
        transform = sitk.DisplacementFieldTransform(sitk.Cast(vector_image(tensor, STRAIGHT), sitk.sitkVectorFloat64))
        return breathing_pair(transform, scalar_image(straight.lungs.astype(np.uint8), STRAIGHT))

    few = folded(3)
    assert 0 < straight.lungs.sum() - few.lungs.sum() < 10
    assert few.breath.expansion.volume_ratio.min() > 0
    with pytest.raises(InputError, match="folds"):
        folded(2000)
