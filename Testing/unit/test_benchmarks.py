"""What benchmarks choose, cut out, train and tell, without running any of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import catalog, models
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid
from JointRegSegTrainingLib import cohort, plan, trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import ablation
import affine
import breaths
import document
import few_labels
import lung_cohort
import trainings
from cohorts import COHORTS
from revision import revision


def test_what_is_installed_is_measured(monkeypatch):
    """Models of a system and their relatives, on people whom none of them has seen."""
    held_out = {"uresnet-brain": ["a", "b", "c", "d"], "uresnet-brain-paper": ["b", "c", "d"], "brainy": ["x"]}
    monkeypatch.setattr(catalog, "entries", lambda: [{"name": name} for name in held_out])
    bundle = type("Bundle", (), {})
    monkeypatch.setattr(
        models, "find", lambda name: setattr(b := bundle(), "manifest", {"training": {"held_out": held_out[name]}}) or b
    )
    assert COHORTS["brain"].models == ["uresnet-brain", "uresnet-brain-paper"]
    assert [name for name, system in COHORTS.items() if system.models] == ["brain"]
    pairs, people = COHORTS["brain"].chosen(40)
    assert (
        people == 3 and {name for pair in pairs for name in pair} == {"b", "c", "d"} and len(set(pairs)) == len(pairs)
    )


def row(dice: float, fixed: str = "someone") -> dict[str, float | str]:
    keys = ("hd95", "folded", "spread", "mean_error", "seconds")
    return {"fixed": fixed, "before": 0.5, "dice": dice, "dice 1": dice, **dict.fromkeys(keys, 1.0)}


@pytest.mark.parametrize("reference", ["ANTs SyN", "generic"])
def test_the_document_compares_with_what_was_measured(tmp_path, reference):
    methods = {
        "none": [{"before": 0.5, "dice": 0.5, "dice 1": 0.5, "hd95": 3.0}] * 16,
        reference: [row(0.6)] * 16,
        "better": [row(0.7 + n / 100) for n in range(16)],
    }
    # Two pairs onto each of eight people, who count once.
    methods = {name: [{**r, "fixed": f"{n % 8}"} for n, r in enumerate(rows)] for name, rows in methods.items()}
    found = {"system": "heart", "said": "8 pairs", "machine": "x", "commit": "abc", "labels": {"1": "left"}}
    (tmp_path / "figures.json").write_text(json.dumps(found | {"memory": {"better": 1.5}, "methods": methods}))
    text = "\n".join(document.chapter(json.loads((tmp_path / "figures.json").read_text()), tmp_path))
    assert "8 pairs, x; commit abc." in text
    assert f"Difference of Dice from {reference}, of each person" in text
    # All of eight people are better: 2 / 2**8, times the two tests.
    assert "| better | +0.175 | 100 % | 0.016 |" in text and "| better |  | 1.50 |" in text
    assert (tmp_path / "heart.png").stat().st_size > 1000


def test_the_document_tells_structures_by_themselves(tmp_path):
    """What is segmented of them, and how often each is better than demons'."""
    demons = [row(0.5) | {"dice 2": 0.5} for _ in range(4)]
    network = [
        row(0.7) | {"dice 1": 0.4 + n / 10, "dice 2": 0.6, "segmentation": 0.9, "segmentation 2": 0.8} for n in range(4)
    ]
    methods = {"none": [row(0.4)] * 4, "generic": [row(0.6)] * 4, document.RIVAL: demons, "network": network}
    found = {"system": "heart", "said": "4 pairs", "machine": "x", "commit": "abc", "memory": {}, "methods": methods}
    text = document.chapter(found | {"labels": {"1": "left", "2": "right"}}, tmp_path)
    segmented = text.index("Dice of each structure as segmented in the fixed image:")
    assert text[segmented + 2 : segmented + 6] == [
        "| structure | network |",
        "| --- | --- |",
        "| right | 0.800 ± 0.000 |",
        "",
    ]
    beaten = text.index("Pairs in which a structure's Dice is better than that of SimpleITK demons:")
    assert text[beaten + 2] == "| structure | generic | network |"
    assert text[beaten + 4 : beaten + 6] == ["| left | 100 % | 50 % |", "| right |  | 100 % |"]


def test_a_figure_that_is_none_is_neither_kept_nor_counted(tmp_path, monkeypatch):
    """A spread of logarithms has none where a method folds everything."""
    methods = {"none": [row(0.5)] * 3, "generic": [row(0.6), row(0.7), row(0.8) | {"spread": float("nan")}]}
    found = {"system": "heart", "said": "3 pairs", "machine": "x", "commit": "abc", "labels": {"1": "left"}}
    (tmp_path / "figures.json").write_text(json.dumps(found | {"memory": {}, "methods": methods}))
    monkeypatch.setattr("sys.argv", ["document.py", str(tmp_path / "out"), str(tmp_path / "figures.json")])
    assert document.main() == 0
    kept = (tmp_path / "out" / "figures" / "heart.json").read_text()
    assert "NaN" not in kept and kept.count('"spread"') == 5
    assert "| 1.000 ± 0.000 |" in (tmp_path / "out" / "README.md").read_text()


def test_figures_stay_in_the_document_until_they_are_measured_again(tmp_path, monkeypatch):
    """Those of another system, and an experiment's: they take days and are no part of `make bench`."""
    out = tmp_path / "out"

    def told(*paths: Path) -> str:
        monkeypatch.setattr("sys.argv", ["document.py", str(out), *map(str, paths)])
        assert document.main() == 0
        return (out / "README.md").read_text()

    for n, (title, dice) in enumerate((("Labels: few", 0.123456789), ("Symmetry", 0.7), ("Labels: few", 0.8))):
        monkeypatch.setattr("sys.argv", ["a/document.py", "--output", "b", str(n), "--data", "c"])
        trainings.Table(title, f"{n} pairs", ["Dice"], [[f"{dice:.1f}"]]).tell(tmp_path / f"{n}.json", [{"dice": dice}])
    first = told(tmp_path / "0.json", tmp_path / "1.json")
    assert (
        "## Labels: few" in first
        and "| 0.1 |" in first
        and "| 0.7 |" in first
        and "0 pairs; `document.py 0`, commit" in first
    )
    assert json.loads((out / "figures" / "labels-few.json").read_text())["pairs"] == [{"dice": 0.12346}]
    again = told(tmp_path / "2.json")
    assert "| 0.8 |" in again and "| 0.1 |" not in again and "| 0.7 |" in again and told() == again


def test_hippocampi_are_cut_out_of_brains_on_one_side(tmp_path):
    """Of an oblique lattice: in the middle of the crop, of the true size, and the right one mirrored."""
    axes = np.diag([1.0, -1, 1]) @ np.array([[0.995, -0.0998, 0], [0.0998, 0.995, 0], [0, 0, 1]])
    grid = Grid.centered((20, -30, 40), (120, 100, 90), (1, 1.1, 1.2), axes)
    k, j, i = np.indices(grid.shape)
    points = grid.to_world(np.stack([i, j, k], -1))
    labels, image = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.float32)
    for value, side in ((47, -1), (48, 1)):
        away = points - (20 + side * 25, -30, 40)
        labels[np.linalg.norm(away / (8, 18, 7), axis=-1) < 1] = value
        image += 100 * np.exp(-(((away - (side * 6, 0, 0)) / 5) ** 2).sum(-1))  # bright on the outer side
    for kind, values in (("images", image), ("labels", labels)):
        (tmp_path / kind).mkdir()
        sitk.WriteImage(scalar_image(values, grid), str(tmp_path / kind / "b.nii.gz"))
    rows = ablation.cut_out(tmp_path, tmp_path / "crops")
    assert [(row.name, row.subject, row.split) for row in rows] == [("b_right", "b", "train"), ("b_left", "b", "train")]
    assert not cohort.check(rows)
    cut = [sitk.GetArrayFromImage(sitk.ReadImage(str(row.image))) for row in rows]
    drawn = [sitk.GetArrayFromImage(sitk.ReadImage(str(row.labels))) for row in rows]
    for values in drawn:
        assert values.shape == ablation.CROP[::-1] and set(np.unique(values)) == {0, 1}
        assert values.sum() == pytest.approx(4 / 3 * np.pi * 8 * 18 * 7, rel=0.05)
        np.testing.assert_allclose(np.argwhere(values).mean(0), (np.array(values.shape) - 1) / 2, atol=1)
    np.testing.assert_allclose(cut[0], cut[1], atol=12)  # sampled elsewhere
    # The last index grows to the patient's right; the outer side of a left one is the left.
    assert np.argwhere(cut[1] > 50).mean(0)[2] < (ablation.CROP[0] - 1) / 2 - 3


def test_trainings_go_on_and_stop_in_time(tmp_path, monkeypatch):
    called = []

    def trains(*words: object) -> None:
        called.append(words)
        (tmp_path / "run").mkdir(exist_ok=True)
        whole = dict.fromkeys(("network", "average", "optimizer", "generator", "sums", "counted"))
        torch.save(whole | {"step": 5 * len(called)}, tmp_path / "run" / "state.pt")

    monkeypatch.setattr(trainings, "call", trains)
    all_runs = trainings.Trainings("some", ["pairs=1"], 60)
    with pytest.raises(trainings.OutOfTime):
        all_runs.train(tmp_path / "run", Path("c.csv"), 10, ["seed=3"])
    assert called[0][-6:] == ("--set", "steps=10", "--set", "pairs=1", "--set", "seed=3")
    assert all_runs.train(tmp_path / "run", Path("c.csv"), 10) == tmp_path / "run" and len(called) == 2
    with pytest.raises(trainings.OutOfTime):
        trainings.Trainings("some", minutes=0).train(tmp_path / "other", Path("c.csv"), 10)
    assert len(called) == 2


def test_a_complete_training_has_to_be_the_one_that_is_asked_for(tmp_path, monkeypatch):
    """A table would come from another training than its command says."""
    for kind, n in itertools.product(("images", "labels"), range(9)):
        path = tmp_path / "data" / kind / f"{n}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    people = trainings.cohort_of(tmp_path / "data", tmp_path / "people.csv", 2, 2)
    assert trainings.cohort_of(tmp_path / "data", people, 2, 2) == people
    with pytest.raises(SystemExit, match="another cohort"):
        trainings.cohort_of(tmp_path / "data", people, 2, 3)
    some = trainings.Trainings("deepatlas-hippocampus", ["mixed=false"])

    def trains(*words: object) -> None:
        run = Path(words[words.index("--output") + 1])
        source = plan.find(some.config)
        changes = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
        made = plan.from_entries(plan.read_entries(source, changes), str(source))
        cohort.write(run / "cohort.csv", cohort.read(people))
        (run / "plan.json").write_text(json.dumps(dataclasses.asdict(made)))
        whole = dict.fromkeys(("network", "average", "optimizer", "generator", "sums", "counted"))
        torch.save(whole | {"step": 10}, run / "state.pt")

    monkeypatch.setattr(trainings, "call", trains)
    run = some.train(tmp_path / "run", people, 10, ["seed=3"])
    monkeypatch.setattr(trainings, "call", None)
    assert some.train(run, people, 10, ["seed=3"]) == run
    with pytest.raises(SystemExit, match="differs in seed;"):
        some.train(run, people, 10, ["seed=4"])
    with pytest.raises(SystemExit, match="differs in steps;"):
        some.train(run, people, 9, ["seed=3"])
    with pytest.raises(SystemExit, match="another cohort"):
        some.train(run, trainings.cohort_of(tmp_path / "data", tmp_path / "others.csv", 2, 2, fold=1), 10, ["seed=3"])


@pytest.mark.parametrize("system", few_labels.SYSTEMS)
def test_networks_of_few_labels_can_be_built_and_exported(system):
    """Of each training, also those without a segmentation, with what the card changes."""
    for changes in (few_labels.FIRST.changes, *(stage.changes for stage in few_labels.STAGES)):
        entries = plan.read_entries(few_labels.SYSTEMS[system], changes)
        made = plan.from_entries(entries, system)
        trainer.build(dataclasses.replace(made, arguments=made.arguments | entries["card"]["arguments"]))


def test_the_table_of_the_ablation():
    figures = {"before": 0.5, "hd95": 2.0, "spread": 0.1, "folded": 0.0}
    found = {
        name: [figures | {"fixed": f"{n % 10}", "dice": base + n / 1000} for n in range(20)]
        for name, base in (("baseline", 0.6), ("+ symmetry", 0.7), ("+ pretraining", 0.7))
    }
    table = ablation.table(found)
    assert all(len(row) == len(table.columns) for row in table.rows) and table.said.startswith("20 pairs of 10 people")
    first, _, symmetry, pretraining = table.rows
    assert first[:3] == ["unregistered", "0.500", "0.500"]
    assert symmetry[-2:] == ["+0.100", "0.0039"]  # 2 / 2**10 of ten people, times two tests
    assert pretraining[-2:] == ["+0.000", "1"]
    assert table.said.endswith(f"told from chance: {pretraining[0]}")


def test_each_person_whose_lungs_were_drawn_is_left_out_alone():
    people = {"a": "train", "b": "test", "unlabeled": "train", "phantom-0": "train", "phantom-5": "validation"}
    rows = [
        cohort.Row(Path(f"{name}.nii"), None if name == "unlabeled" else Path(f"{name}-labels.nii"), name, split)
        for name, split in people.items()
    ]
    assert affine.drawn(rows) == ["a", "b"]
    splits = {row.subject: row.split for row in affine.without("a", rows)}
    assert splits == {"a": "test", **dict.fromkeys(("b", "unlabeled", "phantom-0"), "train"), "phantom-5": "validation"}


def test_a_third_of_simulated_people_is_left_out(monkeypatch):
    monkeypatch.setattr(
        affine.lung_cohort,
        "phantoms",
        lambda folder, count: [
            cohort.Row(folder / f"{i}-{phase}", None, f"phantom-{i}", "train" if i < count - 2 else "validation")
            for i in range(count)
            for phase in ("inhale", "exhale")
        ],
    )
    splits = {row.subject: row.split for row in affine.simulated(Path("x"), 7)}
    assert list(splits.values()) == ["test", "test", "train", "train", "train", "validation", "validation"]


def test_the_affine_part_is_judged_on_pairs_of_the_person_left_out(monkeypatch):
    """Of one person's two images and of different people's; a person counts once."""
    people = [type("Subject", (), {"name": name, "owner": name[0], "image": name}) for name in ("a1", "a2", "b1", "c1")]
    monkeypatch.setattr(affine, "overlaps", lambda answer, moving, fixed, made: [0.5, 0.6, 0.7, answer, float("nan")])
    found = affine.figures(lambda moving, fixed: 0.8 if moving[0] == fixed[0] else 0.9, people, ["a"], None)
    assert [row["kind"] for row in found].count("inhale and exhale") == 2 and len(found) == 10
    assert {row["fixed"] for row in found} == {"a"}
    found += [row | {"fixed": n} for n in "bcd" for row in found]
    table = affine.tabled(
        {affine.WITHOUT: [row | {"both": row["both"] - 0.05} for row in found], affine.WITH: found}, "x"
    )
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][:8] == ["inhale and exhale", affine.WITHOUT, "4", "8", "50.00 ± 0.00", "", "", "75.00 ± 0.00"]
    assert table.rows[3][2:] == [
        *("4", "32", "50.00 ± 0.00", "60.00 ± 0.00", "70.00 ± 0.00", "90.00 ± 0.00", "+5.00"),
        f"{1 / 16:.2g}",
    ]


def test_the_table_of_few_labels_gets_into_the_document(tmp_path, capsys):
    figures = {"before": 0.5, "folded": 0.0}
    found = {
        (1, name): [
            figures | {"fixed": str(n % 4), "dice": base + n / 1000, "segmentation": base + n % 4 / 1000}
            for n in range(11)
        ]
        for name, base in ((few_labels.APART, 0.6), (few_labels.TOGETHER, 0.7))
    }
    apart = found[1, few_labels.APART]
    with_demons = [row | {"dice": row["dice"] + 0.05} for row in apart]
    found |= {(1, few_labels.APART + few_labels.JOINED): with_demons}
    found |= {(1, few_labels.TOGETHER + few_labels.JOINED): found[1, few_labels.TOGETHER]}
    few_labels.table("brain", {(0, few_labels.APART): apart, **found}).tell(tmp_path / "figures.json", [])
    printed = capsys.readouterr().out.splitlines()
    unlabeled, apart, together, apart_joined, joined = (line.split("\t") for line in printed[1:6])
    assert unlabeled == ["0", "apart", "0.605", "", "", "", "", "", "", "", "0.0000"]
    assert apart == ["1", "apart", "0.605", "", "", "", "0.601", "", "", "", "0.0000"]
    # Demons beside demons: what both gain from them is no merit of DeepAtlas.
    assert apart_joined[:4] == ["1", "apart, with demons", "0.655", ""] and apart_joined[6:10] == [""] * 4
    assert joined[:4] == ["1", "DeepAtlas, with demons", "0.705", "+0.050"] and joined[6:10] == [""] * 4
    # All four people are better, however many pairs they are in: 4! 4! / 8! and 1 / 2**4, thrice the same.
    for gained in (together[2:6], together[6:10]):
        assert gained[1:] == ["+0.100", f"{1 / 70:.2g}", f"{1 / 16:.2g}"]
    assert "11 pairs of 4 people" in printed[6]
    written = document.chapter(json.loads((tmp_path / "figures.json").read_text()), tmp_path)
    assert written[-2].endswith(f"commit {revision()}.")
    assert written[0] == "## DeepAtlas with few labels: brain" and "| 1 | apart | 0.605 |" in "\n".join(written)


def test_landmarks_of_sagittal_slices_are_where_a_known_motion_takes_them(tmp_path):
    """Landmark files count mm along a volume's own axes, which its header does not tell; motion is in LPS mm."""
    shift = np.array([3.0, -6, 9])  # to the left, to the front and up
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(lung_cohort.SAGITTAL, (3, 3)) * (2, 3, 4)
    grid = Grid((30, 20, 10), affine)
    along = np.array([[20.0, 15, 12], [30, 24, 20]])  # to the back, up and to the left
    points = {"exhMaster": along, "cyc_1_4": along + np.array([-6.0, 9, 3])}
    for phase, values in points.items():
        told = "\n".join(" ".join(map(str, row)) for row in values)
        (tmp_path / f"{phase}LMliver.vtk").write_text(f"DATASET POLYDATA\nPOINTS 2 float\n{told}\n", "ascii")
    rows = [
        cohort.Row(tmp_path / f"mri-4d-a-{phase}.nii.gz", None, "mri-4d-a", "test")
        for phase in ("exhMaster-unmasked", "cyc-1-4")
    ]
    drawn = tuple(breaths.landmarks(tmp_path, row) for row in rows)
    np.testing.assert_allclose(drawn[0][0], grid.to_world((10, 5, 3)))
    np.testing.assert_allclose(drawn[1] - drawn[0], np.tile(shift, (2, 1)))
    image = scalar_image(np.zeros(grid.shape, np.float32), grid)
    for row in rows:
        sitk.WriteImage(image, str(row.image))
    field = sitk.GetImageFromArray(np.tile(shift, (*grid.shape, 1)), isVector=True)
    field.CopyInformation(image)
    sitk.WriteImage(field, str(tmp_path / "displacement.nii.gz"))
    pair = breaths.Pair(rows[0], rows[1], drawn)
    assert breaths.figures(pair, None)[:2] == [f"{np.linalg.norm(shift):.2f}", f"{np.linalg.norm(shift):.1f}"]
    assert breaths.figures(pair, tmp_path)[:4] == ["0.00", "0.0", "", "0.0000"]
    back = breaths.figures(breaths.Pair(rows[1], rows[0], drawn[::-1]), tmp_path)
    assert back[0] == f"{2 * np.linalg.norm(shift):.2f}"
    for name, way in (("transform", shift), ("inverse_transform", (0.5, 0, 0) - shift)):
        sitk.WriteTransform(sitk.TranslationTransform(3, [float(x) for x in way]), str(tmp_path / f"{name}.h5"))
    assert breaths.figures(pair, tmp_path)[4] == "0.500"
