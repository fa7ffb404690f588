"""Augmentation, watched through images that hold their own voxel coordinates: the answer shows where it read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from JointRegSegTrainingLib.augment import Augmentation
from scipy.spatial.transform import Rotation

SHAPE = (20, 24, 22)
MIDDLE = (torch.tensor(SHAPE) - 1) / 2
RANGES = ("rotation", "translation", "zoom", "own_rotation", "own_translation", "elastic", "contrast", "bias", "noise")
STILL = Augmentation(flips=(0, 0, 0), **dict.fromkeys(RANGES, 0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(count: int) -> torch.Tensor:
    """(count, 3, D, H, W) array indices."""
    return torch.from_numpy(np.indices(SHAPE)).float().repeat(count, 1, 1, 1, 1)


def maps(augmentation: Augmentation, seed: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Linear parts (count, 3, 3) and shifts of the middle (count, 3), fitted around the middle of the lattice."""
    read = augmentation(coordinates(count), coordinates(count), seeded(seed))[1]
    part = (slice(None), slice(None), slice(7, 13), slice(9, 15), slice(8, 14))  # no border is read from here
    x = (coordinates(1)[part][0].flatten(1).T - MIDDLE).numpy()
    design = np.hstack([x, np.ones((len(x), 1))])
    fitted = [np.linalg.lstsq(design, (r.flatten(1).T - MIDDLE).numpy(), rcond=None)[0].T for r in read[part]]
    return np.stack(fitted)[..., :3], np.stack(fitted)[..., 3]


def test_without_ranges_nothing_changes(generator):
    images, labels = torch.rand(2, 2, *SHAPE, generator=generator), torch.rand(2, 3, *SHAPE, generator=generator)
    out = STILL(images, labels, generator)
    torch.testing.assert_close(out[0], images, rtol=0, atol=1e-5)
    torch.testing.assert_close(out[1], labels, rtol=0, atol=1e-5)


def test_labels_stay_on_their_images():
    shapes = replace(Augmentation(), contrast=0, bias=0, noise=0)
    images, labels = shapes(coordinates(4), coordinates(4), seeded(3))
    torch.testing.assert_close(images, labels)
    assert (images - coordinates(4)).abs().mean() > 1  # all of it moved


def test_memberships_still_sum_to_one(generator):
    labels = torch.rand(4, 3, *SHAPE, generator=generator).softmax(1)
    out = Augmentation()(coordinates(4), labels, generator)[1]
    torch.testing.assert_close(out.sum(1), torch.ones(4, *SHAPE))
    assert out.min() >= 0


def test_intensities_change_the_images_only(generator):
    only = replace(STILL, contrast=0.3, bias=0.3, noise=0.3)
    images, labels = only(coordinates(2), coordinates(2), generator)
    torch.testing.assert_close(labels, coordinates(2), rtol=0, atol=1e-4)
    assert (images - coordinates(2)).abs().mean() > 0.05


def test_same_seed_same_result():
    one, again, other = (Augmentation()(coordinates(2), coordinates(2), seeded(s)) for s in (5, 5, 6))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert (one[0] - other[0]).abs().mean() > 1


def test_does_not_touch_its_input(generator):
    images, labels = coordinates(2), coordinates(2)
    Augmentation()(images, labels, generator)
    assert torch.equal(images, coordinates(2))
    assert torch.equal(labels, coordinates(2))


@pytest.mark.parametrize("axis", range(3))
def test_a_certain_flip_turns_one_axis_about_the_middle(axis):
    linear, shift = maps(replace(STILL, flips=tuple(np.eye(3)[axis])), 0)
    expected = np.eye(3)
    expected[axis, axis] = -1
    np.testing.assert_allclose(linear, np.broadcast_to(expected, (4, 3, 3)), atol=1e-4)
    np.testing.assert_allclose(shift, 0, atol=1e-4)


def test_pairs_share_the_flip_and_flips_come_as_often_as_told():
    flipped = []
    for seed in range(25):
        linear, _ = maps(replace(STILL, flips=(0.0, 0.2, 0.6)), seed, count=8)
        np.testing.assert_allclose(linear[:4], linear[4:], atol=1e-4)  # partners are four places apart
        flipped.append(linear[:4, range(3), range(3)] < 0)
    # 100 pairs: three standard deviations are 0.12 and 0.15.
    np.testing.assert_array_less(np.abs(np.mean(flipped, (0, 1)) - (0, 0.2, 0.6)), (1e-9, 0.12, 0.15))


def test_pairs_share_rotation_translation_and_zoom():
    linear, shift = maps(replace(STILL, rotation=15, translation=4, zoom=0.15, flips=(0, 0, 0.5)), 0)
    np.testing.assert_allclose(linear[:2], linear[2:], atol=1e-4)
    np.testing.assert_allclose(shift[:2], shift[2:], atol=1e-4)
    assert np.abs(linear[0] - linear[1]).max() > 0.01  # but different pairs differ
    assert np.abs(shift[0] - shift[1]).max() > 0.1


@pytest.mark.parametrize("name", ["own_rotation", "own_translation", "elastic"])
def test_own_variation_differs_within_a_pair(name):
    read = replace(STILL, **{name: 3})(coordinates(2), coordinates(2), seeded(0))[1]
    assert (read[0] - read[1]).abs().mean() > 0.1


def test_ranges_are_kept_and_used():
    ranges = replace(STILL, rotation=20, translation=3, zoom=0.2)
    found = [maps(ranges, seed) for seed in range(10)]
    linear, shift = (np.concatenate(parts) for parts in zip(*found, strict=True))
    scale = np.cbrt(np.linalg.det(linear))
    angles = np.degrees(Rotation.from_matrix(linear / scale[:, None, None]).as_rotvec())
    for values, limit in ((angles, 20), (shift, 3), (np.log(scale), 0.2)):
        assert np.abs(values).max() < limit + 1e-2
        assert values.max() > 0.6 * limit
        assert values.min() < -0.6 * limit
    # A rotation and a zoom, nothing else.
    np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1), scale[:, None, None] ** 2 * np.eye(3), atol=1e-3)


def test_elastic_is_smooth_and_of_the_size_asked_for():
    read = replace(STILL, elastic=1.5)(coordinates(8), coordinates(8), seeded(0))[1]
    moved = (read - coordinates(8))[..., 4:-4, 4:-4, 4:-4]
    assert 0.5 < moved.std() < 1.6  # interpolation between the waves' nodes takes some of it away
    assert moved.diff(dim=4).std() < 0.3 * moved.std()


def test_planar_motion_stays_within_slices():
    planar = replace(Augmentation(), planar=True, flips=(0, 0, 0), elastic=0, contrast=0, bias=0, noise=0)
    linear, shift = maps(planar, seed=5, count=8)
    np.testing.assert_allclose(linear[:, 0], np.tile([1, 0, 0], (8, 1)), atol=1e-3)
    np.testing.assert_allclose(linear[:, 1:, 0], 0, atol=1e-3)
    np.testing.assert_allclose(shift[:, 0], 0, atol=1e-3)
    assert np.abs(shift[:, 1:]).max() > 1 and np.abs(linear[:, 1, 2]).max() > 0.05
    waves = replace(STILL, elastic=2.0, planar=True)(coordinates(2), coordinates(2), seeded(1))[0] - coordinates(2)
    assert waves[:, 0].abs().max() < 1e-3 < 0.5 < waves[:, 1:].abs().max()


def test_stretch_is_of_each_axis_and_the_same_for_both():
    linear, shift = maps(replace(STILL, stretch=0.2), 2)
    np.testing.assert_allclose(linear[:2], linear[2:], atol=1e-4)
    np.testing.assert_allclose(shift, 0, atol=1e-3)
    logs = np.log(np.diagonal(linear, axis1=1, axis2=2))
    assert np.abs(logs).max() <= 0.2 and np.ptp(logs, axis=1).min() > 0.01
    np.testing.assert_allclose(linear - linear * np.eye(3), 0, atol=1e-4)


def test_own_stretch_differs():
    linear, _ = maps(replace(STILL, own_stretch=0.2), 2)
    assert np.abs(linear[:2] - linear[2:]).max() > 0.05
    np.testing.assert_allclose(linear - linear * np.eye(3), 0, atol=1e-4)


def test_only_stretch_leaves_the_slices():
    planar = replace(Augmentation(), planar=True, flips=(0, 0, 0), elastic=0)
    linear, shift = maps(replace(planar, own_stretch=0.2), 2)
    np.testing.assert_allclose(linear[:, 0], [[1, 0, 0]] * 4, atol=1e-4)
    np.testing.assert_allclose(shift[:, 0], 0, atol=1e-3)
    assert np.abs(maps(replace(planar, stretch=0.2), 2)[0][:, 0, 0] - 1).min() > 1e-3


def test_gamma_keeps_order_and_range(generator):
    images = torch.randn(4, 1, *SHAPE, generator=generator)
    out, _ = replace(STILL, gamma=0.5)(images, images, generator)
    order = images.flatten(1).argsort(1)
    assert (out.flatten(1).gather(1, order).diff(dim=1) >= -1e-4).all()
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(end(out, (1, 2, 3, 4)), end(images, (1, 2, 3, 4)), rtol=0, atol=1e-4)
    assert (out - images).abs().mean() > 0.02


def test_structures_change_their_brightness_each_by_itself(generator):
    images = torch.randn(4, 1, *SHAPE, generator=generator)
    labels = torch.nn.functional.one_hot(torch.randint(3, (4, *SHAPE), generator=generator), 3).movedim(-1, 1).float()
    out, kept = replace(STILL, structures=0.4)(images, labels, generator)
    torch.testing.assert_close(kept, labels, rtol=0, atol=1e-4)
    changes = [(out - images)[i][labels[i, k : k + 1] == 1] for i in range(4) for k in range(3)]
    assert all(float(change.std()) < 1e-3 for change in changes)  # the same all over a structure of an image
    offsets = torch.stack([change.mean() for change in changes])
    assert 0.2 < offsets.abs().max() <= 0.4
    assert offsets.sort().values.diff().min() > 1e-4


@pytest.mark.parametrize("planar", [False, True])
def test_blur_softens_and_sharpens_and_keeps_what_is_flat(generator, planar):
    still = replace(STILL, blur=1.0, planar=planar)
    flat, _ = still(torch.full((4, 1, *SHAPE), 3.0), torch.zeros(4, 1, *SHAPE), generator)
    torch.testing.assert_close(flat, torch.full((4, 1, *SHAPE), 3.0), rtol=0, atol=1e-4)
    images = torch.randn(8, 1, *SHAPE, generator=generator)
    out, _ = still(images, images, generator)
    deviations = out.flatten(1).std(1)
    assert deviations.min() < 0.8 and deviations.max() > 1.2
    point = torch.zeros(2, 1, *SHAPE)
    point[:, :, 10, 10, 10] = 1
    spread = (still(point, point, generator)[0] - point).abs() > 1e-3
    assert spread[..., 9, 10:12, 10:12].any() != planar and spread[..., 10, 9:12, 9:12].all()
