"""The shipped lung model on people whom it was not trained on: CT at inhale and exhale, and proton MRI of two people.

Volumes are as they come, read by the public function; bounds lie below what `linear_deformable.py` and this print.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import metrics, models, register
from JointRegSegLib.cli import REFINE_STEPS

MODEL = "lung-breathing"
#: The bundle names what was held out by the names that lung_cohort.py gives.
HELD_OUT = {"ct-4d-inhale", "ct-4d-exhale", "proton-0011"}
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
    result = register(fixed, moving, MODEL, fixed_labels=fixed_labels, moving_labels=moving_labels)
    quality = result.report["quality"]
    before, after = (quality["labels"][when]["mean_dice"] for when in ("before", "after"))
    found = array(result.fixed_segmentation) == RIGHT
    drawn = array(result.fixed_labels) > 0
    print(before, after, metrics.dice(found, drawn, [1])[1], result.report["verdict"])
    assert after > before + 0.01
    assert metrics.dice(found, drawn, [1])[1] > 0.85
    assert quality["regularity"]["folded_share"] < 1e-4
    assert result.verdict != "red"


def test_proton_mri_of_two_people(lungs):
    """Refined, the lungs of a person agree with those of one whom the model has not seen."""
    paths = {name: lungs / "proton_mri" / f"{name}.nii.gz" for name in ("0011", "0006", "0011_lungs", "0006_lungs")}
    labels = {"fixed_labels": paths["0011_lungs"], "moving_labels": paths["0006_lungs"]}
    for refine, least in ((0, 0.85), (REFINE_STEPS, 0.92)):
        result = register(paths["0011"], paths["0006"], MODEL, refine=refine, **labels)
        carried, drawn = array(result.warped_labels) > 0, array(result.fixed_labels) > 0
        found = array(result.fixed_segmentation) > 0
        print(metrics.dice(carried, drawn, [1])[1], metrics.dice(found, drawn, [1])[1], result.report["verdict"])
        assert metrics.dice(carried, drawn, [1])[1] > least
        assert metrics.dice(found, drawn, [1])[1] > 0.85
        assert result.verdict != "red"
