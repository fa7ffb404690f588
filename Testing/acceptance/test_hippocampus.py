"""The shipped model on real people whom it has not seen; bounds lie below what `make bench` prints on more pairs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import metrics, models, register
from JointRegSegLib.cli import REFINE_STEPS
from JointRegSegTrainingLib.cohort import random_pairs

DATA = Path(os.environ.get("JOINTREGSEG_DATA", "")) / "hippocampus"
MODEL = "symmetric-hippocampus"
LABELS = (1, 2)
#: Pairs of what takes seconds for each.
SOME = 6

pytestmark = pytest.mark.skipif(
    not os.environ.get("JOINTREGSEG_DATA") or not DATA.is_dir(),
    reason="JOINTREGSEG_DATA does not name a folder with hippocampus/",
)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Path]]:
    chosen = random_pairs(models.find(MODEL).manifest["training"]["held_out"], 8, seed=2)
    return [
        {
            "fixed": DATA / "images" / f"{fixed}.nii.gz",
            "moving": DATA / "images" / f"{moving}.nii.gz",
            "fixed_labels": DATA / "labels" / f"{fixed}.nii.gz",
            "moving_labels": DATA / "labels" / f"{moving}.nii.gz",
        }
        for moving, fixed in chosen
    ]


def dice(result, image: sitk.Image) -> float:
    found, truth = (sitk.GetArrayViewFromImage(x) for x in (image, result.fixed_labels))
    return float(np.mean(list(metrics.dice(found, truth, LABELS).values())))


def test_network_alone_aligns_and_segments_unseen_people(pairs):
    results = [register(**pair, model=MODEL) for pair in pairs]
    assert np.mean([dice(r, r.warped_labels) for r in results]) > 0.84
    assert np.mean([dice(r, r.fixed_segmentation) for r in results]) > 0.85
    # The model's own training data must not be called unlike its training data.
    assert sum(len(r.report["warnings"]) == 0 for r in results) >= len(results) - 1


@pytest.fixture(scope="module")
def refined(pairs) -> list:
    return [register(**pair, model=MODEL, refine=REFINE_STEPS) for pair in pairs[:SOME]]


def test_refinement_is_accurate_and_regular(refined):
    assert np.mean([dice(r, r.warped_labels) for r in refined]) > 0.85
    regularity = [r.report["quality"]["regularity"] for r in refined]
    assert max(r["folded_share"] for r in regularity) <= 1e-5
    assert np.mean([r["inverse_consistency_voxels"]["mean"] for r in regularity]) < 0.1


def test_refined_inverse_is_within_half_a_voxel_at_worst(refined):
    assert max(r.report["quality"]["regularity"]["inverse_consistency_voxels"]["max"] for r in refined) < 0.5


def test_generic_needs_no_training(pairs):
    # Crops that share no frame: their middles are the best first guess.
    results = [register(**pair, align="center") for pair in pairs[:SOME]]
    assert np.mean([dice(r, r.warped_labels) for r in results]) > 0.70


def test_a_brain_is_out_of_the_domain_of_the_hippocampus_model():
    brain = sorted((DATA.parent / "brain" / "images").glob("*.nii.gz"))[:2]
    result = register(*brain, model=MODEL)
    assert result.verdict != "green"
    assert any("extent" in warning for warning in result.report["warnings"])


def test_two_runs_are_identical(pairs):
    first, second = (register(**pairs[0], model=MODEL, refine=8) for _ in range(2))
    for name in ("warped", "displacement", "fixed_segmentation"):
        a, b = (sitk.GetArrayViewFromImage(getattr(r, name)) for r in (first, second))
        assert np.array_equal(a, b)
    assert json.dumps(first.report["quality"]) == json.dumps(second.report["quality"])
