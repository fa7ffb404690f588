"""From a CSV of breathing pairs to a bundle and to answers, by the command and by Slicer's headless module."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import batch, files
from JointRegSegLib.deformation import scalar_image, vector_image
from JointRegSegLib.geometry import Grid
from JointRegSegTrainingLib.classifier import prepare, simulate
from JointRegSegTrainingLib.classifier.classify import origin_doubts
from JointRegSegTrainingLib.classifier.cohort import Pair, look
from scipy.spatial.transform import Rotation

HEADLESS = Path(__file__).resolve().parents[2] / "JointRegSegTraining" / "JointRegSegTraining.py"
CENTER = np.array((10.0, -30.0, 200.0))


def child(*words: object) -> subprocess.CompletedProcess:
    """`jointregseg` in a process of its own."""
    return run("-m", "JointRegSegLib.cli", *words)


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def person(folder: Path, seed: int, diseased: bool, bent: float = 1.0) -> dict[str, str]:
    """Files of one person on a lattice of their own; the diseased hardly expand at the base."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(rng.uniform(-0.2, 0.2, 3)).as_matrix() @ np.eye(3)[:, rng.permutation(3)]
    grid = Grid.centered(CENTER, (32, 34, 33), rng.uniform(6.6, 7.4, 3), turn)
    k, j, i = np.indices(grid.shape)
    p = grid.to_world(np.stack([i, j, k], -1)) - CENTER
    lungs = np.zeros(grid.shape, np.uint8)
    for value, side in ((1, -46), (2, 46)):
        lungs[(((p - (side, 0, 0)) / rng.uniform((34, 56, 85), (38, 62, 95))) ** 2).sum(-1) < 1] = value
    stretch = np.diag(rng.uniform(1.04, 1.08, 3))
    vectors = p @ (stretch - np.eye(3)).T + bent * rng.uniform(0.2, 0.6, 3) * np.cos(p[..., ::-1] / 50)
    if diseased:
        vectors[..., 2] += bent * rng.uniform(3, 5) * np.cos(p[..., 2] / 60)
    tensor = torch.from_numpy(np.moveaxis(vectors, -1, 0)[None].copy())
    field = sitk.DisplacementFieldTransform(sitk.Cast(vector_image(tensor, grid), sitk.sitkVectorFloat64))
    values = -800 * (lungs > 0) + rng.normal(0, 20, grid.shape)
    values = values.astype(np.int16)
    for name, image in (("image", values), ("other", values), ("lungs", lungs)):
        files.write_image(scalar_image(image, grid), folder / f"{name}_{seed}.nii.gz")
    files.write_transform(field, folder / f"motion_{seed}.h5")
    return {
        "case": f"p{seed}",
        "fixed": f"image_{seed}.nii.gz",
        "moving": f"other_{seed}.nii.gz",
        "fixed_labels": f"lungs_{seed}.nii.gz",
        "diagnosis": "diseased" if diseased else "healthy",
        "split": "test" if seed % 4 == 3 else "train",
        "transform": f"motion_{seed}.h5",
    }


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return write(folder / "cohort.csv", [person(folder, n, n % 8 < 4 or n == 15) for n in range(18)])


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory) -> tuple[Path, str]:
    """Folder of a trained classifier, and what training printed."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    words = ("--permutations", 2, "--network-permutations", 1, "--epochs", 60, "--size", 12)
    done = child("train-classifier", "--cohort", cohort, "--output", folder, *words)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_training_tells_all_figures_with_intervals(trained):
    folder, said = trained
    for who in ("network", "baseline"):
        assert f"cross-validated, {who}" in said and f"held out, {who}" in said
        assert f"permutation test, {who}: p = " in said
    assert len(re.findall(r"(?:accuracy|sensitivity|specificity|auc) +\d\.\d\d   bootstrap .* score", said)) == 16
    assert "Research use only" in said
    found = json.loads((folder / "figures.json").read_text())
    assert found["cross_validation"]["network"]["people"] == 14 and found["test"]["network"]["people"] == 4
    assert found["cross_validation"]["network"]["auc"]["value"] > 0.8  # what differs is large
    with (folder / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 18 and all(0 <= float(row[who]) <= 1 for row in rows for who in ("network", "baseline"))
    page = (folder / "report.html").read_text()
    assert (
        page.count("data:image/png") == 3
        and "research use only" in page.lower()
        and "http:" not in page
        and "https:" not in page
    )


def test_what_is_prepared_is_not_prepared_again(trained, cohort):
    folder, said = trained
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "features").iterdir()}
    words = ("--permutations", 2, "--network-permutations", 1, "--epochs", 60, "--size", 12)
    damaged = folder / "features" / "p3.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:50])
    again = child("train-classifier", "--cohort", cohort, "--output", folder, *words)
    assert again.stdout == said  # the same seed, the same answers
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "features").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"p3.safetensors"}


def test_answers_have_doubts_and_a_map(trained, cohort, tmp_path):
    """By the script that Slicer runs; a person whose lungs move as nobody's is not judged."""
    rows = [person(tmp_path, 100, True), person(tmp_path, 101, False, bent=12.0)]
    table = write(
        tmp_path / "new.csv", [{k: v for k, v in row.items() if k not in ("diagnosis", "split")} for row in rows]
    )
    words = ("--task", "classify", "--bundle", trained[0] / "bundle", "--cohort", table, "--run", tmp_path / "answers")
    done = run(HEADLESS, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Research use only") == 2 and "p101: ABSTAINS" in done.stdout
    told = {case: json.loads((tmp_path / "answers" / case / "answer.json").read_text()) for case in ("p100", "p101")}
    for entry in told.values():
        low, high = entry["interval"]
        assert 0 <= low <= entry["probability"] <= high <= 1 and len(entry["zones"]) <= 3
        assert any("slices of" in text for text in entry["warnings"])
        assert entry["abstained"] == bool(entry["reasons"])
    assert told["p101"]["unlike_percentile"] > 99 > told["p100"]["unlike_percentile"]
    assert told["p100"]["probability"] > 0.5 and told["p100"]["zones"]
    for row in rows:
        found = files.read_image(tmp_path / "answers" / row["case"] / "occlusion.nii.gz", values=False)
        lungs = files.read_image(tmp_path / row["fixed_labels"], labels=True)
        assert files.grid_of(found).matches(files.grid_of(lungs))
        values, inside = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(lungs) > 0
        assert (values[~inside] == 0).all() and (values[inside] != 0).mean() > 0.9


def test_people_of_the_training_cohort_are_known_again(trained, cohort, tmp_path):
    with cohort.open() as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream) if row["case"] in ("p2", "p3")}
    places = ("fixed", "moving", "fixed_labels", "transform")
    own = [row | {key: str(cohort.parent / row[key]) for key in places} for row in rows.values()]
    table = write(tmp_path / "own.csv", own)
    words = ("--bundle", trained[0] / "bundle", "--cohort", table, "--output", tmp_path / "answers")
    assert child("classify", *words).returncode == 0
    for case, split in (("p2", "train"), ("p3", "test")):
        told = json.loads((tmp_path / "answers" / case / "answer.json").read_text())
        assert rows[case]["split"] == split
        assert any("trained on this person" in text for text in told["warnings"]) == (split == "train")


def test_motion_of_another_origin_is_told():
    """A transform that was given, beside a training on registrations, and the other way around."""
    image, labels = Path("image.nii.gz"), Path("labels.nii.gz")
    given = Pair("p", image, image, labels, transform=Path("truth.h5"))
    registered = replace(given, transform=None)
    card = {"people": 12, "registration": "generic"}
    for pair, count, told in ((given, 12, 0), (given, 0, 1), (registered, 12, 1), (registered, 0, 0)):
        assert len(origin_doubts(card | {"given_transforms": count}, pair)) == told
    assert origin_doubts(card, registered) == []  # of a training that did not count them


def test_what_is_not_its_own_stays(trained, cohort, tmp_path):
    """Neither an answer nor a bundle takes the place of anything else, wherever a case's name may lead."""
    thesis = tmp_path / "answers" / "p100" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    row = {k: v for k, v in person(tmp_path, 100, True).items() if k not in ("diagnosis", "split")}
    for number, (case, said) in enumerate((("p100", "thesis.txt"), ("../answers/p100", "name of a folder"))):
        table = write(tmp_path / f"{number}.csv", [row | {"case": case}])
        words = ("--bundle", trained[0] / "bundle", "--cohort", table, "--run", tmp_path / "answers")
        done = run(HEADLESS, "--task", "classify", *words)
        assert done.returncode == 1 and said in done.stderr
    assert thesis.read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cohort.csv").write_text("mine")
    done = run(HEADLESS, "--task", "train-classifier", "--cohort", cohort, "--run", tmp_path / "other")
    assert done.returncode == 2 and "holds 'cohort.csv', which is of no training" in done.stderr
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    (tmp_path / "run" / "bundle" / "thesis.txt").write_text("mine")
    done = run(HEADLESS, "--task", "train-classifier", "--cohort", cohort, "--run", tmp_path / "run")
    assert done.returncode == 2 and "thesis.txt" in done.stderr


def test_registrations_replace_no_table_beside_them(tmp_path, monkeypatch):
    """`--cohort lungs.csv --registrations lungs`: the one has the name of the other."""
    row = {k: v for k, v in person(tmp_path, 100, True).items() if k != "transform"}
    table = write(tmp_path / "lungs.csv", [row])
    before = table.read_bytes()
    seen = []

    def registers(path: Path, folder: Path, *_: object, **__: object) -> batch.Outcome:
        seen.extend(batch.read_pairs(path))
        return batch.Outcome([], folder)

    monkeypatch.setattr(batch, "run_batch", registers)
    prepare.register(look(table)[0], tmp_path / "lungs", "generic", "cpu")
    assert table.read_bytes() == before and sorted(p.name for p in (tmp_path / "lungs").iterdir()) == [".pairs.csv"]
    assert [pair["case"] for pair in seen] == ["p100"]


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, False)])
def test_lungs_slide_in_all_registrations_of_a_cohort_or_in_none(tmp_path, monkeypatch, known):
    """Where only the sick were segmented, the registration would tell the diagnosis."""
    rows = [
        {k: v for k, v in person(tmp_path, 100 + i, True).items() if k != "transform"} | {"moving_labels": ""}
        for i in range(2)
    ]
    for row, both in zip(rows, known, strict=True):
        row["moving_labels"] = row["fixed_labels"] if both else ""
    pairs, seen = look(write(tmp_path / "lungs.csv", rows))[0], []

    def registers(path: Path, folder: Path, *_: object, **__: object) -> batch.Outcome:
        seen.extend(bool(pair.get("moving_organs")) for pair in batch.read_pairs(path))
        return batch.Outcome([], folder)

    monkeypatch.setattr(batch, "run_batch", registers)
    prepare.register(pairs, tmp_path / "out", "generic", "cpu", sliding=prepare.slides(pairs, "generic"))
    assert seen == [all(known)] * 2
    training = {"sliding": True, "people": 2, "registration": "generic"}
    told = [bool(origin_doubts(training, pair)) for pair in pairs]
    assert told == [not both for both in known]


def test_answers_do_not_mix_with_other_files(trained, tmp_path):
    """Neither with the cohort that is judged nor with anything else."""
    (tmp_path / "cohort").mkdir()
    row = {k: v for k, v in person(tmp_path / "cohort", 100, True).items() if k not in ("diagnosis", "split")}
    table = write(tmp_path / "cohort" / "new.csv", [row])
    bundle = ("--bundle", trained[0] / "bundle", "--cohort", table, "--output")
    done = child("classify", *bundle, tmp_path / "cohort")
    assert done.returncode == 2 and "holds the input" in done.stderr
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    done = child("classify", *bundle, tmp_path / "home")
    assert done.returncode == 2 and "holds 'thesis.txt', which is no answer" in done.stderr
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_bad_case_stops_no_other(trained, tmp_path):
    """Each is named with its reason; the moving image is looked at, too."""
    good = {k: v for k, v in person(tmp_path, 100, True).items() if k not in ("diagnosis", "split")}
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    image = sitk.ReadImage(str(tmp_path / good["fixed"]))
    far = sitk.Image(image)
    far.SetOrigin([x + 300 for x in image.GetOrigin()])
    sitk.WriteImage(far, str(tmp_path / "far.nii.gz"))
    solid = sitk.GetArrayFromImage(image)
    solid[:] = 30
    solid[:3] = -1000  # air outside the body, and no lung in it
    lungless = sitk.GetImageFromArray(solid)
    lungless.CopyInformation(image)
    sitk.WriteImage(lungless, str(tmp_path / "lungless.nii.gz"))
    rows = [
        good | {"case": "broken", "moving": "broken.nii.gz"},
        good | {"case": "gone", "moving": "gone.nii.gz"},
        good | {"case": "../outside"},
        good | {"case": "far", "moving": "far.nii.gz"},
        good | {"case": "lungless", "moving": "lungless.nii.gz"},
        good,
    ]
    table = tmp_path / "new.csv"
    text = "\r\n".join(";".join(row) for row in ([*good], *(row.values() for row in rows)))
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Excel saves it in Europe
    done = child("classify", "--bundle", trained[0] / "bundle", "--cohort", table, "--output", tmp_path / "answers")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = dict(line.split(": ", 1) for line in done.stderr.splitlines())
    assert set(errors) == {"broken", "gone (line 3)", "../outside (line 4)"}
    assert "broken.nii.gz" in errors["broken"] and "no such moving file" in errors["gone (line 3)"]
    assert re.search(r"^p100: probability", done.stdout, re.MULTILINE)
    assert re.search(r"^far: ABSTAINS.* lie outside the moving image", done.stdout, re.MULTILINE)
    assert re.search(r"^lungless: ABSTAINS.*no lungs", done.stdout, re.MULTILINE)
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"p100", "far", "lungless"}


def test_all_problems_of_a_cohort_are_told_at_once(cohort, tmp_path):
    with cohort.open() as stream:
        rows = list(csv.DictReader(stream))
    rows = [row | {key: str(cohort.parent / row[key]) for key in ("fixed", "moving", "fixed_labels")} for row in rows]
    for row in rows:
        row["transform"] = str(cohort.parent / row["transform"])
    rows[0]["diagnosis"] = "ill"
    rows[1]["transform"] = "nowhere.h5"
    rows[2]["fixed"] = ""
    rows[3]["split"] = "validation"
    rows[5]["case"] = rows[4]["case"]
    rows[7]["fixed"] = rows[6]["fixed"]
    rows[8]["moving"] = rows[8]["fixed"]
    done = child("train-classifier", "--cohort", write(tmp_path / "bad.csv", rows), "--output", tmp_path / "run")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    for said in (
        *("7 problems", "diagnosis 'ill'", "nowhere.h5: no such transform", "no fixed", "split 'validation'"),
        "is an image of case 'p6' and of case 'p7'",
        "is both the fixed and the moving image",
    ):
        assert said in done.stderr
    assert "an earlier row has the case 'p4' too" in done.stderr


def test_too_few_people_and_strange_columns(cohort, tmp_path):
    with cohort.open() as stream:
        rows = list(csv.DictReader(stream))
    places = ("fixed", "moving", "fixed_labels", "transform")
    rows = [row | {key: str(cohort.parent / row[key]) for key in places} for row in rows]
    few = write(tmp_path / "few.csv", [row for row in rows if row["diagnosis"] == "diseased"])
    done = child("train-classifier", "--cohort", few, "--output", tmp_path / "run")
    assert done.returncode == 2 and "0 healthy people to train on" in done.stderr
    strange = write(tmp_path / "strange.csv", [row | {"age": "50"} for row in rows])
    done = child("train-classifier", "--cohort", strange, "--output", tmp_path / "run")
    assert done.returncode == 2 and "unknown column 'age'" in done.stderr and done.stderr.count("\n") == 1


def test_a_cohort_is_simulated_and_gone_on_with(tmp_path):
    words = ("--output", tmp_path / "s", "--patients", 4, "--healthy", 2, "--test", 0, "--spacing", 10)
    done = child("simulate-cohort", *words)
    assert done.returncode == 0, done.stderr
    assert "4 people, 2 healthy; 4 were new" in done.stdout
    assert "2 healthy people to train on; 5" in done.stderr and "2 diseased people" in done.stderr
    with (tmp_path / "s" / simulate.TRUTH).open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["diagnosis"] for row in rows) == ["diseased"] * 2 + ["healthy"] * 2
    for row in rows:
        place = tmp_path / "s" / "cases" / row["case"]
        degree = json.loads((place / "truth.json").read_text())["degree"]
        assert (degree > 0) == (row["diagnosis"] == "diseased")
        inhale, exhale = (files.read_image(place / f"{name}.nii.gz") for name in ("inhale", "exhale"))
        lungs = [
            sitk.GetArrayFromImage(files.read_image(place / f"{n}hale_lungs.nii.gz", labels=True)) for n in ("in", "ex")
        ]
        assert (lungs[0] > 0).sum() > 1.03 * (lungs[1] > 0).sum()
        # The true motion brings the exhale onto the inhale.
        warped = sitk.Resample(exhale, inhale, files.read_transform(place / "motion.h5"), sitk.sitkLinear, -1000.0)
        solid = lungs[0] == 0
        difference = [
            np.abs(sitk.GetArrayFromImage(image).astype(float) - sitk.GetArrayFromImage(inhale))[solid].mean()
            for image in (warped, exhale)
        ]
        assert difference[0] < 0.5 * difference[1]
    before = (tmp_path / "s" / "cases" / "case_002" / "inhale.nii.gz").stat().st_mtime_ns
    for path in (tmp_path / "s" / "cases" / "case_001").iterdir():
        path.unlink()
    (tmp_path / "s" / "cases" / "case_001").rmdir()
    assert "1 were new" in child("simulate-cohort", *words).stdout
    assert (tmp_path / "s" / "cases" / "case_002" / "inhale.nii.gz").stat().st_mtime_ns == before
    other = child("simulate-cohort", *words, "--severity", 0.2)
    assert other.returncode == 2 and "other settings" in other.stderr


def test_a_simulation_that_cannot_be(tmp_path):
    words = ("--patients", 5, "--healthy", 5, "--severity", 2, "--spacing", 0)
    done = child("simulate-cohort", "--output", tmp_path / "s", *words)
    assert done.returncode == 2 and "3 problems" in done.stderr and not (tmp_path / "s").exists()
