"""What a training leaves to look at: its log, curves for TensorBoard and pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import PLAN, people
from JointRegSegTrainingLib import trainer
from JointRegSegTrainingLib.picture import draw


@pytest.fixture(scope="module")
def curves(run_folder):
    """TensorBoard's own reading of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_folder / "tensorboard"))
    found.Reload()
    return found


def test_curves_hold_what_the_log_does(run_folder, curves):
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = defaultdict(list)
    for row in log:
        for group in ("loss", "validation"):
            for key, value in row[group].items():
                expected[f"{group}/{key}"].append((row["step"], value))
    assert set(curves.Tags()["scalars"]) == set(expected)
    assert {"loss/similarity", "loss/overlap", "validation/dice", "validation/segmentation"} <= set(expected)
    for tag, points in expected.items():
        found = [(event.step, event.value) for event in curves.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in points]
        assert [v for _, v in found] == pytest.approx([v for _, v in points], rel=1e-6)


def test_pictures_are_there_and_show_something(run_folder, curves):
    pictures = sorted((run_folder / "pictures").iterdir())
    assert [p.name for p in pictures] == ["step_000040.png", "step_000080.png", "step_000120.png"]
    steps = [event.step for event in curves.Images("validation/pair")]
    assert steps == [40, 80, 120]
    for path in pictures:
        shown = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., :3].astype(float)
        for column in range(4):
            part = shown[:, column * shown.shape[1] // 4 : (column + 1) * shown.shape[1] // 4]
            assert part.std() > 10, (path, column)
            colorful = np.ptp(part, axis=2) > 50  # outlines, or the lines of the deformation
            assert colorful.sum() > 100, (path, column)


def test_a_picture_follows_network_and_labels(cohort_folder, tmp_path):
    moving, fixed = people(cohort_folder, 2)
    network = trainer.build(PLAN).eval()
    first = draw(network, moving, fixed, PLAN, tmp_path / "a" / "one.png")
    assert (tmp_path / "a" / "one.png").is_file() and first.dtype == np.uint8 and first.ndim == 3
    again = draw(network, moving, fixed, PLAN, tmp_path / "again.png")
    np.testing.assert_array_equal(first, again)
    fixed.labels.zero_()  # nothing is drawn: the middle of the lattice is shown, without outlines
    bare = draw(network, moving, fixed, PLAN, tmp_path / "bare.png")
    assert (bare != first).any()


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAI"])
def test_pictures_are_seen_as_radiologists_see_them(cohort_folder, tmp_path, orientation):
    """A bright corner that is right, in front and above comes to lie at the left and at the top."""
    plan = replace(PLAN, preprocessing=replace(PLAN.preprocessing, orientation=orientation))
    moving, fixed = people(cohort_folder, 2, plan)
    for subject in (moving, fixed):
        subject.labels.zero_()
        subject.image.zero_()
        half = [slice(n // 2, None) if letter in "RAS" else slice(n // 2 + 1) for n, letter in
                zip(subject.image.shape[2:], orientation[::-1], strict=True)]  # fmt: skip
        subject.image[..., half[0], half[1], half[2]] = 1
    shown = draw(trainer.build(plan).eval(), moving, fixed, plan, tmp_path / "one.png")
    for row in range(3):
        part = shown[row * len(shown) // 3 : (row + 1) * len(shown) // 3, : shown.shape[1] // 4]
        bright = np.argwhere((part > 250).all(2))
        high, wide = (bright.min(0) + bright.max(0)) / 2 / part.shape[:2]
        assert high < 0.5 and wide < 0.5, (row, high, wide)


def test_thick_slices_are_drawn_as_tall_as_they_are(cohort_folder, tmp_path):
    """In the third row; the first is within slices."""
    moving, fixed = people(cohort_folder, 2)
    fixed.labels.zero_()
    network = trainer.build(PLAN).eval()
    spacing = PLAN.preprocessing.spacing
    thick = replace(PLAN, preprocessing=replace(PLAN.preprocessing, spacing=(*spacing[:2], 3 * spacing[2])))
    sides = []
    for name, plan in (("even", PLAN), ("thick", thick)):
        shown = draw(network, moving, fixed, plan, tmp_path / f"{name}.png")
        part = shown[2 * len(shown) // 3 :, 3 * shown.shape[1] // 4 :]
        lines = (part[..., 2] > 200) & (part[..., 0] < 120)  # of the lattice, that has as many voxels along each axis
        high, wide = (np.ptp(np.flatnonzero(lines.any(axis))) + 1 for axis in (1, 0))
        sides.append(high / wide)
    assert sides == pytest.approx([1, 3], rel=0.05)
