"""The shipped brain and heart models on people whom they have not seen; bounds lie below what `bench.py` prints."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import files, metrics, models, precision, register
from JointRegSegLib.estimate import Settings, Volume, by_model
from JointRegSegLib.regularize import LIMIT
from JointRegSegTrainingLib.cohort import random_pairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from cohorts import COHORTS, prepare, read

#: System, pairs, least Dice without registration, carried over, and segmented, and most folded voxels.
BOUNDS = {
    "uresnet-brain": ("brain", 2, 0.40, 0.62, 0.84, 1e-5),
    "deepatlas-brain": ("brain", 2, 0.40, 0.72, 0.74, 1e-5),
    "svfnet-heart": ("heart", 6, 0.25, 0.66, 0.76, 0.0),
}


def held_out(model: models.Bundle, system: str, count: int, folder: Path) -> list[dict[str, Path]]:
    """Pairs of people whom a model has not seen, made ready in ``folder``."""
    cohort = COHORTS[system]
    source = Path(os.environ.get("JOINTREGSEG_DATA", "")) / cohort.folder
    if not os.environ.get("JOINTREGSEG_DATA") or not source.is_dir():
        pytest.skip(f"JOINTREGSEG_DATA does not name a folder with {cohort.folder}/")
    people = model.manifest["training"]["held_out"]
    return read(prepare(cohort, source, folder, random_pairs(people, count, seed=2)))


@pytest.fixture(scope="module", params=BOUNDS)
def measured(request, tmp_path_factory) -> tuple[str, dict[str, float]]:
    system, count, *_ = BOUNDS[request.param]
    model, cohort, rows, missed = models.find(request.param), COHORTS[system], [], []
    for pair in held_out(model, system, count, tmp_path_factory.mktemp(request.param)):
        result = register(pair["fixed"], pair["moving"], model.folder, moving_labels=pair["moving_labels"])
        truth, start = (sitk.GetArrayFromImage(sitk.ReadImage(pair[f"{side}_labels"])) for side in ("fixed", "moving"))
        carried, found = (sitk.GetArrayFromImage(x) for x in (result.warped_labels, result.fixed_segmentation))
        regularity = result.report["quality"]["regularity"]
        rows.append(
            {
                "before": np.mean(list(metrics.dice(start, truth, cohort.labels).values())),
                "after": np.mean(list(metrics.dice(carried, truth, cohort.labels).values())),
                "segmentation": np.mean(list(metrics.dice(found, truth, model.label_values).values())),
                "folded": regularity["folded_share"],
            }
        )
        missed.append(regularity["inverse_consistency_voxels"]["max"])
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return request.param, means | {"missed": max(missed), "allowed": model.round_trip}


def test_network_alone_aligns_and_segments_unseen_people(measured):
    name, figures = measured
    _, _, before, after, segmentation, folded = BOUNDS[name]
    assert figures["before"] > before and figures["after"] > max(after, figures["before"] + 0.1)
    assert figures["segmentation"] > segmentation
    assert figures["folded"] <= folded
    assert figures["missed"] <= figures["allowed"]  # voxels, there and back


def test_the_steep_map_of_a_heart_is_left_as_it_is(measured):
    name, figures = measured
    if name == "svfnet-heart":
        assert figures["allowed"] > LIMIT and figures["missed"] > LIMIT + 0.1
    else:
        assert figures["allowed"] == LIMIT


def test_refined_hearts_are_carried_over_better_and_undone_better(tmp_path):
    model, rows = models.find("svfnet-heart"), []
    for pair in held_out(model, "heart", 6, tmp_path):
        labels = {key: pair[key] for key in ("fixed_labels", "moving_labels")}
        found = [register(pair["fixed"], pair["moving"], model.folder, refine=n, **labels).report for n in (0, 40)]
        rows.append(
            [
                [f["labels"]["after"]["mean_dice"], f["regularity"]["inverse_consistency_voxels"]["mean"]]
                for f in (report["quality"] for report in found)
            ]
        )
    alone, refined = np.mean(rows, 0)
    assert refined[0] > alone[0] + 0.01 and refined[1] < alone[1]


@pytest.mark.parametrize(
    ("name", "system"), [("symmetric-hippocampus", "hippocampus"), *((k, v[0]) for k, v in BOUNDS.items())]
)
def test_half_precision_moves_points_by_hundredths_of_a_voxel(name, system, tmp_path, monkeypatch):
    bundle = models.find(name)
    (pair,) = held_out(bundle, system, 1, tmp_path)
    # The middle of what the network sees, where that is much: processors without half precision take minutes for it.
    size = (32, 32, 32) if np.prod(bundle.preprocessing.size) > 7e4 else bundle.preprocessing.size
    work = bundle.manifest["preprocessing"] | {"size": list(size)}
    bundle = replace(bundle, manifest=bundle.manifest | {"preprocessing": work})
    volumes = [Volume(*files.to_tensor(files.read_image(pair[side]))) for side in ("fixed", "moving")]
    maps = []
    for halves in (True, False):
        monkeypatch.setattr(precision, "halves", lambda device, halves=halves: halves)
        found = by_model(bundle, *volumes, Settings()).deformation
        maps.append(found.vectors()[0] / found.grid.spacing.min())
    off = (maps[0] - maps[1]).norm(dim=0)
    assert 0 < off.mean() < 0.05 and off.max() < 0.5 < maps[1].norm(dim=0).max()
