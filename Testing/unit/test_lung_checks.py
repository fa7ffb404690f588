"""What speaks against two scans: order, cut lungs, slices, kernels, sides, surfaces."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung import checks, evidence
from JointRegSegLib.lung.checks import Scan

#: i to the patient's left, j to the front, k to the feet: a lattice that is not the world's.
GRID = Grid.centered((0, 0, 0), (50, 46, 30), (2.4, 2.3, 2.5), np.diag([1, -1, -1]))


def ball(radius: float, middle=(0, 0, 0), grid: Grid = GRID) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    return (np.linalg.norm(grid.to_world(np.stack([i, j, k], -1)) - middle, axis=-1) < radius).astype(np.uint8)


def scan(name="inhale", lungs=None, grid: Grid = GRID, noise=0.0, **tags) -> Scan:
    values = np.random.default_rng(0).normal(40, noise, grid.shape) if noise else np.zeros(grid.shape)
    lungs = ball(25, grid=grid) if lungs is None else lungs
    return Scan(name, scalar_image(values.astype(np.float32), grid), lungs, tags)


def test_fit_scans_are_not_blamed():
    assert checks.warnings(scan(lungs=ball(26)), scan("exhale"), ct=True) == []


def test_order_by_volume():
    (text,) = checks.order(scan(lungs=ball(20)), scan("exhale", ball(25)))
    small, large = (4 / 3 * np.pi * r**3 / 1000 for r in (20, 25))
    assert f"{scan(lungs=ball(20)).volume:.0f} ml" in text and "exchange" in text
    assert scan(lungs=ball(20)).volume == pytest.approx(small, rel=0.03)
    assert scan(lungs=ball(25)).volume == pytest.approx(large, rel=0.03)


def test_a_lobe_that_one_scan_lacks():
    """Its volume tells nothing of the order."""
    both = ball(25)
    both[..., :25] *= 2
    half = np.where(both == 2, 0, both)
    assert checks.order(scan(lungs=half), scan("exhale", both)) == []
    (text,) = checks.missing(scan(lungs=half), scan("exhale", both))
    assert text.startswith("inhale: label 2")
    (text,) = checks.missing(scan(lungs=both), scan("exhale", half))
    assert text.startswith("exhale: label 2")


@pytest.mark.parametrize(
    ("middle", "face"),
    [
        ((0, 0, 30), "upper"),
        ((0, 0, -30), "lower"),
        ((55, 0, 0), "left"),
        ((-55, 0, 0), "right"),
        ((0, 45, 0), "posterior"),
        ((0, -45, 0), "anterior"),
    ],
)
def test_lungs_that_are_cut_off(middle, face):
    (text,) = checks.cut_off(scan(lungs=ball(25, middle)))
    assert f"at the {face} border" in text


def test_a_voxel_at_the_border_is_no_cut():
    lungs = ball(20)
    lungs[0, 5, 5] = 1
    assert checks.cut_off(scan(lungs=lungs)) == []


def test_slices():
    thick = Grid.centered((0, 0, 0), (40, 36, 15), (3, 3, 5), np.eye(3))
    thin = Grid.centered((0, 0, 0), (40, 36, 15), (1, 1, 1.5), np.eye(3))
    assert checks.slices(scan(grid=thin), scan("exhale", grid=thin), ct=True) == []
    found = checks.slices(scan(grid=thin), scan("exhale", grid=thick), ct=True)
    assert [text[:6] for text in found] == ["exhale", "slices"]
    assert [text[:6] for text in checks.slices(scan(grid=thin), scan("exhale", grid=thick), ct=False)] == ["slices"]
    # What the header says may be more than the distance of overlapping slices.
    found = checks.slices(scan(grid=thin, **{"slice thickness": "3"}), scan("exhale", grid=thin), ct=True)
    assert [text[:6] for text in found] == ["inhale", "slices"] and "3 mm" in found[0]
    (text,) = checks.slices(scan(grid=thick), scan("exhale", grid=thick), ct=True)
    assert text.startswith("inhale and exhale: slices of 5 mm")


def test_kernels_by_name():
    same = [scan(kernel="B30f"), scan("exhale", kernel="B30f")]
    assert checks.kernels(*same, ct=True) == []
    (text,) = checks.kernels(same[0], scan("exhale", kernel="B70f"), ct=True)
    assert "B30f (inhale) and B70f (exhale)" in text


def test_kernels_by_noise():
    assert checks.soft_noise(scan(noise=10).image) == pytest.approx(10, rel=0.25)
    assert checks.kernels(scan(noise=10), scan("exhale", noise=14), ct=True) == []
    (text,) = checks.kernels(scan(noise=10), scan("exhale", noise=35), ct=True)
    assert "noise" in text and "estimate" in text
    assert checks.kernels(scan(noise=10), scan("exhale", noise=35), ct=False) == []


def test_no_soft_tissue_tells_no_noise():
    assert checks.soft_noise(scalar_image(np.full(GRID.shape, -800, np.float32), GRID)) is None


def test_sides_are_the_patients():
    labels = ball(15, (-30, 0, 0)) + 2 * ball(15, (30, 0, 0))
    assert checks.sides(scan(lungs=labels), {1: "Right lung", 2: "left lung"}) == []
    (text,) = checks.sides(scan("exhale", labels), {1: "left lung", 2: "right lung"})
    assert text.startswith("exhale") and "mirrored" in text
    assert checks.sides(scan(lungs=labels), {1: "left lung"}) == []


def test_sides_that_are_exchanged_in_one_scan():
    """With names or without; lobes of one side may change their order."""
    one = scan(lungs=ball(15, (-30, 0, 0)) + 2 * ball(15, (30, 0, 0)))
    other = scan("exhale", 2 * ball(15, (-30, 0, 0)) + ball(15, (30, 0, 0)))
    (text,) = checks.both_sides(one, other, {})
    assert "labels 1 and 2" in text and "exhale" in text
    (text,) = checks.both_sides(one, other, {1: "right lung", 2: "left lung"})
    assert text.startswith("exhale: what the labels call right")
    assert checks.both_sides(one, one, {}) == []
    lobes = [ball(10, (-30 + x, 0, 20)) + 2 * ball(10, (-30 - x, 0, -20)) for x in (8, -8)]
    assert checks.both_sides(scan(lungs=lobes[0]), scan("exhale", lobes[1]), {}) == []


def test_outlines_on_the_wrong_side_are_no_labels():
    labels = ball(15, (-30, 0, 0)) + 2 * ball(15, (30, 0, 0))
    (text,) = checks.sides(scan(lungs=labels), {1: "left lung", 2: "right lung"}, drawn=False)
    assert "outlined as the right lung" in text and "labels" not in text


def test_names_that_fit_no_label():
    one, both = ball(15, (-30, 0, 0)), ball(15, (-30, 0, 0)) + 2 * ball(15, (30, 0, 0))
    assert checks.named([both, both], {1: "Right lung", 2: "Left lung"}) == []
    (typed, alone) = checks.named([both, both], {1: "Right lung", 3: "left lung"})
    assert "3 (left lung)" in typed and "label 2 has no name" in typed and "the right one alone" in alone
    (alone,) = checks.named([one, one], {1: "Right lung"})
    assert "the right one alone" in alone
    assert checks.named([one, one], {1: "lungs"}) == []


def test_one_lung_alone_is_told():
    names = {1: "right lung", 2: "left lung"}
    right, both = scan(lungs=ball(15, (-30, 0, 0))), scan(lungs=ball(15, (-30, 0, 0)) + 2 * ball(15, (30, 0, 0)))
    (text,) = checks.alone(right, right, names)
    assert text.startswith("no left lung") and text.endswith("the right lung alone")
    assert checks.alone(both, both, names) == [] and checks.alone(right, both, names) == []


@pytest.mark.parametrize(
    ("before", "after", "surfaces", "red", "told"),
    [
        (0.9, 0.95, 1.0, False, False),
        (0.98, 0.97, 1.0, False, True),
        (0.9, 0.8, 1.0, True, True),
        (0.2, 0.7, 1.0, True, True),
        (0.2, 0.8, 8.0, False, True),
        (0.2, 0.8, 43.0, True, True),
    ],
)
def test_lungs_that_miss_each_other_are_a_failure_and_a_little_is_a_doubt(before, after, surfaces, red, told):
    found = {"dice_before": before, "dice_after": after, "unseen_share": 0.0, "surfaces_mm": surfaces}
    found |= {"carried_ml": 3000.0, "expanded_ml": 3000.0, "segmented_ml": 3000.0}
    doubts = evidence.doubts(found, "exhale", 3500.0)
    assert bool(evidence.failed(found)) == red and len(evidence.failed(found) + doubts) == told


def test_two_people_are_told_apart_without_telling_who():
    one, other = {"number": "4711", "birth date": "19500101"}, {"number": "4712", "birth date": "19500101"}
    (text,) = checks.people(one, other)
    assert "different number" in text and "471" not in text and "birth" not in text
    assert checks.people(one, one) == [] and checks.people(one, {}) == []


def test_distance_of_surfaces():
    steps = GRID.spacing[::-1]
    assert checks.surface_distance(ball(25) > 0, ball(25) > 0, steps) == 0
    apart = checks.surface_distance(ball(30) > 0, ball(22) > 0, steps)
    assert apart == pytest.approx(8, abs=1)
    assert np.isnan(checks.surface_distance(np.zeros(GRID.shape, bool), ball(25) > 0, steps))
