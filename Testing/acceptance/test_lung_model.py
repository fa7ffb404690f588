"""The shipped lung model on people whom it was not trained on: CT at inhale and exhale, and proton MRI of two people.

Volumes are as they come, through the public function. Bounds lie a little below what came out when it was trained.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import metrics, models, register
from JointRegSegLib.cli import REFINE_STEPS
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.files import grid_of
from JointRegSegLib.lung import review
from JointRegSegLib.lung.breathing import Breath, breathe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from breaths import landmarks, moved
from lung_cohort import liver

MODEL = "lung-breathing"
#: The bundle names what was held out by the names that lung_cohort.py gives.
HELD_OUT = {"ct-4d-inhale", "ct-4d-exhale", "proton-0011", "mri-4d-dataset23-exhMaster-unmasked"}
RIGHT = 1


@pytest.fixture(scope="module")
def lungs() -> Path:
    folder = Path(os.environ.get("JOINTREGSEG_DATA", "")) / "lung"
    if not os.environ.get("JOINTREGSEG_DATA") or not folder.is_dir():
        pytest.skip("JOINTREGSEG_DATA does not name a folder with lung/")
    return folder


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_these_people_were_held_out():
    assert set(models.find(MODEL).manifest["training"]["held_out"]) >= HELD_OUT


def test_inhale_and_exhale_of_a_person(lungs):
    """Of this person the right lung is annotated; most of the left one is airless."""
    fixed, moving, fixed_labels, moving_labels = (
        lungs / "ct_4d" / f"{name}.nii.gz" for name in ("inhale", "exhale", "inhale_rightlung", "exhale_rightlung")
    )
    # A quarter of the steps that `--refine` takes, for the sake of time.
    labels = {"fixed_labels": fixed_labels, "moving_labels": moving_labels}
    result = register(fixed, moving, MODEL, refine=REFINE_STEPS // 4, **labels)
    quality = result.report["quality"]
    assert quality["labels"]["before"]["mean_dice"] < 0.91
    assert quality["labels"]["after"]["mean_dice"] > 0.96
    assert quality["regularity"]["folded_share"] < 1e-4
    assert metrics.dice(array(result.fixed_segmentation) == RIGHT, array(result.fixed_labels) > 0, [1])[1] > 0.96
    assert set(np.unique(array(result.fixed_segmentation))) == {0, RIGHT}  # where the network sees a left lung is fat
    assert quality["regularity"]["inverse_consistency_mm"]["mean"] < 0.1
    # The network alone, without refinement, is called red here.
    assert result.verdict != "red"


def test_proton_mri_of_two_people(lungs):
    """Refined, the lungs of a person agree with those of one whom the model has not seen."""
    paths = {name: lungs / "proton_mri" / f"{name}.nii.gz" for name in ("0011", "0006", "0011_lungs", "0006_lungs")}
    labels = {"fixed_labels": paths["0011_lungs"], "moving_labels": paths["0006_lungs"]}
    for steps, least in ((0, 0.81), (REFINE_STEPS // 2, 0.92)):
        result = register(paths["0011"], paths["0006"], MODEL, refine=steps, **labels)
        carried, drawn = array(result.warped_labels) > 0, array(result.fixed_labels) > 0
        assert metrics.dice(carried, drawn, [1])[1] > least
        assert result.report["quality"]["regularity"]["folded_share"] < 1e-4
        assert result.verdict != "red"
    assert metrics.dice(array(result.fixed_segmentation) > 0, drawn, [1])[1] > 0.88


@pytest.mark.parametrize(
    ("person", "inhale", "before", "mean", "worst"),
    [("dataset23", "cyc-1-4", 9, 1.5, 4), ("dataset18", "cyc-3-10", 20, 3.5, 18)],
    ids=["shallow", "deep"],
)
def test_a_liver_in_a_thin_slab(lungs, tmp_path, person, inhale, before, mean, worst):
    """Its network sees too little of it; the refinement leaves that answer behind and finds how it moved."""
    scans = {row.name: row for row in liver(lungs, tmp_path) if row.subject == f"mri-4d-{person}"}
    rows = [scans[f"mri-4d-{person}-{phase}"] for phase in ("exhMaster-unmasked", inhale)]
    fixed, moving = (landmarks(lungs / "mri_4d" / person, row) for row in rows)
    result = register(rows[0].image, rows[1].image, MODEL, refine=REFINE_STEPS)
    missed = np.linalg.norm(fixed + moved(result.displacement, fixed) - moving, axis=1)
    assert np.linalg.norm(fixed - moving, axis=1).mean() > before
    assert missed.mean() < mean and missed.max() < worst  # mm
    assert result.report["quality"]["regularity"]["folded_share"] == 0


def test_a_breath_in_mri_is_reviewed_without_drawn_lungs(lungs):
    """The model outlines the lungs of a person whom it has not seen, before and after a simulated breath."""
    scan, drawn = (sitk.ReadImage(str(lungs / "proton_mri" / f"0011{name}.nii.gz")) for name in ("", "_lungs"))
    grid = grid_of(scan)
    inhaled = breathe(array(scan), grid, array(drawn), Breath(25, 5), air=None)
    found = review(scalar_image(inhaled.values, grid), scan, model=MODEL)
    told = found.report["inputs"]
    assert all(MODEL in told[phase]["lungs"] for phase in ("inhale", "exhale"))
    assert any("look at the outlines" in text for text in found.report["warnings"])
    for phase, true in (("inhale", inhaled.lungs), ("exhale", array(drawn))):
        volume = (true > 0).sum() * grid.voxel_volume / 1000
        assert found.report["volumes_ml"][phase] == pytest.approx(volume, rel=0.15)
    assert not found.report["exchanged"]
    assert {row["region"] for row in found.rows} >= {"right lung", "left lung"}
    true = inhaled.lungs > 0
    expected = true.sum() / (array(drawn) > 0).sum() - 1
    assert found.rows[0]["ventilation"] == pytest.approx(expected, rel=0.5)
