"""SVF-Net's own training: shapes are matched by a command, and a network learns the velocities."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ENTRIES, PLAN, people
from JointRegSegLib import fields, metrics
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib import cohort, trainer
from JointRegSegTrainingLib.plan import Shapes, from_entries
from JointRegSegTrainingLib.references import PairVelocities, shapes

CHANGES = {
    "network": "svfnet",
    "arguments": {"channels": [4, 8, 16], "classes": 3},
    "scheme": "references",
    "references": {"structures": [[1], [2]], "spacing": [2, 2, 2], "edge": 4},
    "weights": {"similarity": 0, "overlap": 0, "inverse": 0, "folding": 0, "velocity": 1.0, "segmentation": 0.1},
    "augmentation": {"translation": 1},
    "steps": 240,
}


@pytest.fixture(scope="module")
def plan():
    return from_entries({**ENTRIES, **CHANGES}, "test")


@pytest.fixture(scope="module")
def made(cohort_folder, tmp_path_factory) -> dict[str, Path]:
    """A configuration, a cohort of four to train on, and its references by ``jointregseg make-references``."""
    from JointRegSegLib import cli

    folder = tmp_path_factory.mktemp("references")
    out = {"config": folder / "plan.yaml", "cohort": folder / "cohort.csv", "references": folder / "made"}
    out["config"].write_text(yaml.safe_dump({**ENTRIES, **CHANGES}), encoding="utf-8")
    cohort.write(out["cohort"], cohort.of_folder(cohort_folder, 2, 6))
    command = ["make-references", "--config", out["config"], "--cohort", out["cohort"], "--output", out["references"]]
    assert cli.main([str(a) for a in [*command, "--processes", "1", "--pairs", "2"]]) == 0
    return out


def test_velocities_carry_the_labels_over(made, plan, cohort_folder):
    from JointRegSegTrainingLib.subjects import load

    velocities = PairVelocities(made["references"])
    known = {s.name: s for s in load([r for r in cohort.read(made["cohort"]) if r.split == "train"], plan)}
    assert set(velocities.points) == set(known) and len(known) == 4
    assert len(list((made["references"] / "velocities").iterdir())) == 2
    before, after = [], []
    for fixed in known.values():
        for moving in known.values():
            if moving is fixed:
                continue
            u = fields.scale_and_square(velocities(fixed.name, moving.name), 7)
            assert float(fields.jacobian_determinant(u).min()) > 0
            truth = fixed.labels[0, 0].numpy()
            for out, labels in ((before, moving.labels), (after, fields.warp(moving.labels, u, "nearest"))):
                out.append(np.mean(list(metrics.dice(labels[0, 0].numpy(), truth, (1, 2)).values())))
    assert np.mean(after) > np.mean(before) + 0.05
    assert np.mean(after) > 0.8


def test_the_network_learns_them(made, plan, cohort_folder, tmp_path):
    from JointRegSegTrainingLib.subjects import load

    subjects = load([r for r in cohort.read(made["cohort"]) if r.split == "train"], plan)
    seen = {}
    run = trainer.Trainer(replace(plan, rate=1e-2, pairs=2), subjects, tmp_path / "run", references=made["references"])
    run.run(every=80, report=lambda step, terms: seen.setdefault(step, terms["velocity"]))
    assert 0 < seen[240] < 0.85 * seen[80]


def test_an_image_without_labels_is_left_out(made, plan, shell, tmp_path):
    """Of what nobody drew there are no shapes to match."""
    rows = cohort.read(made["cohort"])
    bare = next(i for i, row in enumerate(rows) if row.split == "train")
    rows[bare] = replace(rows[bare], labels=None)
    cohort.write(tmp_path / "c.csv", rows)
    words = ["--config", made["config"], "--cohort", tmp_path / "c.csv"]
    code, said, error = shell("make-references", *words, "--output", tmp_path / "made", "--processes", 1)
    assert code == 0 and "3 images matched" in said
    assert "1 training image without all labels left out" in error
    words += ["--references", tmp_path / "made", "--set", "steps=2", "--set", "pairs=1", "--device", "cpu"]
    code, _, error = shell("train", *words, "--output", tmp_path / "run")
    assert code == 0, error


def test_the_command_trains_with_them(made, shell, tmp_path):
    command = ["train", "--config", made["config"], "--cohort", made["cohort"], "--output", tmp_path / "run"]
    command += ["--set", "steps=2", "--set", "pairs=1", "--device", "cpu"]
    code, _, error = shell(*command)
    assert code == 2 and "needs the folder that make-references filled" in error
    code, said, error = shell(*command, "--references", made["references"])
    assert code == 0, error
    assert "step 2/2" in said


def test_references_of_another_plan_are_refused(made, plan, shell, tmp_path):
    """Their velocities would be in other voxels, or of other shapes."""
    command = ["train", "--config", made["config"], "--cohort", made["cohort"], "--references", made["references"]]
    for change, key in (
        ("preprocessing.spacing=[2.5, 2, 2]", "preprocessing.spacing"),
        ("references.edge=7", "references.edge"),
        ("references.sort_slices=true", "references.sort_slices"),
    ):
        code, _, error = shell(*command, "--output", tmp_path / "run", "--set", change, "--device", "cpu")
        assert code == 2 and f"made with another {key};" in error and not (tmp_path / "run").exists()


def test_references_of_other_labels_are_refused(made, plan, tmp_path):
    """What is learned would carry other shapes than those that are drawn now."""
    from JointRegSegTrainingLib.subjects import load

    subjects = load([r for r in cohort.read(made["cohort"]) if r.split == "train"], plan)
    corrected = subjects[1].labels.clone()
    corrected[..., 0, 0, 0] = 1
    others = [subjects[0], replace(subjects[1], labels=corrected), *subjects[2:]]
    with pytest.raises(InputError, match=f"made of other labels of {subjects[1].name};"):
        trainer.Trainer(plan, others, tmp_path / "run", references=made["references"])


def test_a_damaged_velocity_is_named(made, plan, tmp_path):
    folder = shutil.copytree(made["references"], tmp_path / "references")
    for path in (folder / "velocities").iterdir():
        path.write_text("junk")
        names = path.name.split("-")[:2]
    with pytest.raises(InputError, match=r"velocities/.*\.npy: is damaged; remove it, and it is made anew"):
        PairVelocities(folder)(*names)


def test_references_are_made_into_a_folder_of_their_own(made, shell, tmp_path):
    (tmp_path / "labels").mkdir()
    command = ["make-references", "--config", made["config"], "--cohort", made["cohort"], "--output", tmp_path]
    code, _, error = shell(*command, "--processes", "1")
    assert code == 2 and "holds 'labels', which is no reference" in error
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_all_that_is_wrong_with_a_cohort_is_one_list(made, shell, tmp_path):
    first, second, *_ = (row for row in cohort.read(made["cohort"]) if row.split == "train")
    (tmp_path / "bad.nii.gz").write_bytes(first.image.read_bytes()[:200])
    rows = [replace(first, image=tmp_path / "bad.nii.gz"), replace(second, image=tmp_path / "none.nii.gz")]
    cohort.write(tmp_path / "c.csv", [replace(row, subject="one") for row in rows])
    words = ["--config", made["config"], "--cohort", tmp_path / "c.csv", "--output", tmp_path / "made"]
    code, _, error = shell("make-references", *words)
    assert code == 2 and "c.csv: 3 problems" in error and not (tmp_path / "made").exists()
    assert "none.nii.gz: " in error and "1 subject to train on" in error and "bad.nii.gz" in error


def test_pairs_that_all_fold_end_it(made, plan, cohort_folder, monkeypatch):
    """Where people have several images each, most pairs are of one person and never come."""
    from JointRegSegTrainingLib.schemes.references import References
    from JointRegSegTrainingLib.subjects import load

    subjects = load([r for r in cohort.read(made["cohort"]) if r.split == "train"], plan)
    twins = [replace(s, owner=str(n % 2)) for n, s in enumerate(subjects)]
    scheme = References(replace(plan, pairs=1), twins, made["references"], torch.device("cpu"))
    monkeypatch.setattr(fields, "jacobian_determinant", lambda u: -torch.ones_like(u[:, :1]))
    with pytest.raises(InputError, match="nearly all reference velocities fold"):
        scheme.terms(None, torch.Generator().manual_seed(0))


def test_what_is_missing_is_named(made, plan, cohort_folder, refused, shell, tmp_path):
    others = people(cohort_folder, 12, replace(PLAN, labels=plan.labels))
    with pytest.raises(InputError, match=r"holds no reference of .*run make-references with this cohort"):
        trainer.Trainer(plan, others, tmp_path / "run", references=made["references"])
    with pytest.raises(InputError, match="holds no references; make them first"):
        trainer.Trainer(plan, others[:4], tmp_path / "run", references=tmp_path)
    with pytest.raises(InputError, match="references: scheme 'references' needs this entry"):
        replace(plan, references=None)
    code, _, error = shell(
        "make-references", "--config", made["config"], "--cohort", made["cohort"],
        "--output", tmp_path / "x", "--processes", "0",
    )  # fmt: skip
    assert code == 2 and "whole number of 1 or more" in error and not (tmp_path / "x").exists()


def test_slices_are_sorted(cohort_folder, plan):
    subject = people(cohort_folder, 1)[0]
    labels = torch.zeros(1, 1, 8, 16, 16)
    for k in range(1, 7):
        labels[0, 0, k, : k + 2, : k + 2] = 1
    growing = replace(subject, labels=labels, image=labels + torch.arange(8).view(1, 1, 8, 1, 1))
    falling = replace(growing, labels=labels.flip(2), image=growing.image.flip(2))
    chosen = replace(plan, references=Shapes(((1,),), (1, 1, 1), sort_slices=True))
    for found in shapes.prepared([growing, falling], chosen, None):
        assert torch.equal(found.labels, growing.labels) and torch.equal(found.image, growing.image)
    kept = shapes.prepared([falling], replace(plan, references=Shapes(((1,),), (1, 1, 1))), None)
    assert torch.equal(kept[0].labels, falling.labels)


def test_subjects_are_turned_into_one_direction(cohort_folder, plan):
    """A mark beside a middle, in three subjects at known angles: all come to lie at their mean."""
    subject = people(cohort_folder, 1)[0]
    k, j, i = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in (5, 33, 33)], indexing="ij")
    found = {}
    drawn = []
    for degrees in (170.0, -160.0):
        angle = torch.tensor(degrees).deg2rad()
        first = i.square() + j.square() < 9
        last = (i - 10 * angle.cos()).square() + (j - 10 * angle.sin()).square() < 9
        labels = (first + 2 * last).float()[None, None]
        drawn.append(replace(subject, labels=labels, image=labels + 0.1 * k))
    chosen = replace(plan, references=Shapes(((1,), (2,)), (1, 1, 1), turn=True))
    toward = shapes.mean_direction(drawn, chosen)
    both = shapes.prepared(drawn, chosen, toward)
    for number, turned in enumerate(both):
        place = (turned.labels[0, 0] == 2).nonzero().double().mean(0) - torch.tensor([2.0, 16.0, 16.0])
        found[number] = float(torch.atan2(place[1], place[2]).rad2deg()) % 360
        assert abs(place[0]) < 1e-6 and place.norm() == pytest.approx(10, abs=0.3)
        assert float(turned.image[0, 0, 0, 16, 16]) == pytest.approx(1 - 0.2, abs=1e-4)
    assert list(found.values()) == pytest.approx([185, 185], abs=2)  # halfway between 170 and 200
    # Some of them are turned as all were, not into a direction of their own.
    assert torch.equal(shapes.prepared(drawn[1:], chosen, toward)[0].labels, both[1].labels)
    as_they_are = replace(plan, references=Shapes(((1,), (2,)), (1, 1, 1)))
    assert shapes.mean_direction(drawn, as_they_are) is None
    assert torch.equal(shapes.prepared(drawn[:1], as_they_are, None)[0].labels, drawn[0].labels)


def test_few_labels(cohort_folder, shell, tmp_path):
    kept = {}
    for count in (0, 1, 3):
        command = ["cohort", cohort_folder, "--output", tmp_path / "c.csv", "--validation", "2", "--test", "3"]
        code, said, _ = shell(*command, "--labeled", count)
        assert code == 0 and f"without labels: {7 - count}" in said
        with (tmp_path / "c.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept[count] = {row["subject"] for row in rows if row["split"] == "train" and row["labels"]}
        assert len(kept[count]) == count
        assert all(row["labels"] for row in rows if row["split"] != "train")
    assert kept[1] < kept[3]
    code, _, error = shell(*command, "--labeled", 8)
    assert code == 2 and "8 labeled subjects: there are 7 to train on" in error
