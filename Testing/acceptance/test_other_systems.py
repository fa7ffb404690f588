"""The shipped brain and heart models on people whom they have not seen; bounds lie below what `bench.py` prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import metrics, models, register
from JointRegSegTrainingLib.cohort import random_pairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from cohorts import COHORTS, prepare, read

#: System, pairs, least Dice without registration, carried over, and segmented, and most folded voxels.
BOUNDS = {
    "uresnet-brain": ("brain", 2, 0.40, 0.62, 0.84, 1e-5),
    "deepatlas-brain": ("brain", 2, 0.40, 0.62, 0.74, 1e-5),
    "svfnet-heart": ("heart", 6, 0.25, 0.60, 0.76, 1e-4),
}


@pytest.fixture(scope="module", params=BOUNDS)
def measured(request, tmp_path_factory) -> tuple[str, dict[str, float]]:
    system, count, *_ = BOUNDS[request.param]
    cohort = COHORTS[system]
    source = Path(os.environ.get("JOINTREGSEG_DATA", "")) / cohort.folder
    if not os.environ.get("JOINTREGSEG_DATA") or not source.is_dir():
        pytest.skip(f"JOINTREGSEG_DATA does not name a folder with {cohort.folder}/")
    model = models.find(request.param)
    people = model.manifest["training"]["held_out"]
    pairs = list(dict.fromkeys(random_pairs(people, count, seed=2)))  # of few people some come twice
    rows = []
    for pair in read(prepare(cohort, source, tmp_path_factory.mktemp(request.param), pairs)):
        result = register(pair["fixed"], pair["moving"], model.folder, moving_labels=pair["moving_labels"])
        truth, start = (sitk.GetArrayFromImage(sitk.ReadImage(pair[f"{side}_labels"])) for side in ("fixed", "moving"))
        carried, found = (sitk.GetArrayFromImage(x) for x in (result.warped_labels, result.fixed_segmentation))
        rows.append(
            {
                "before": np.mean(list(metrics.dice(start, truth, cohort.labels).values())),
                "after": np.mean(list(metrics.dice(carried, truth, cohort.labels).values())),
                "segmentation": np.mean(list(metrics.dice(found, truth, model.label_values).values())),
                "folded": result.report["quality"]["regularity"]["folded_share"],
            }
        )
    return request.param, {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def test_network_alone_aligns_and_segments_unseen_people(measured):
    name, figures = measured
    _, _, before, after, segmentation, folded = BOUNDS[name]
    assert figures["before"] > before and figures["after"] > max(after, figures["before"] + 0.1)
    assert figures["segmentation"] > segmentation
    assert figures["folded"] <= folded
