"""Cohorts: what a folder and a table say, and what is said of bad ones before any training begins."""

from __future__ import annotations

import csv
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import PLAN, people, small_grid, small_scene
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib import cohort
from JointRegSegTrainingLib.cohort import Row
from JointRegSegTrainingLib.schemes import Pairs
from JointRegSegTrainingLib.subjects import load, pairs_of
from samples import label_map, volume, write


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    """A CSV with the columns that the rows have."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def entry(folder: Path, number: int, split: str = "train", **changes: object) -> dict[str, object]:
    """A good row: the files of one of the twelve."""
    name = f"p{number:02d}"
    row = {"image": folder / "images" / f"{name}.nii.gz", "labels": folder / "labels" / f"{name}.nii.gz"}
    return row | {"subject": name, "split": split} | changes


def copy(source: Path, target: Path, change=None) -> Path:
    """An image file, changed."""
    image = sitk.ReadImage(str(source))
    array = sitk.GetArrayFromImage(image)
    if change:
        array = change(array)
    out = sitk.GetImageFromArray(array)
    out.CopyInformation(image)
    return write(out, target)


def test_split():
    names = [f"p{i}" for i in range(50)]
    first, again = (cohort.split(names, 8, 12) for _ in "12")
    assert first == again
    parts = [set(first[part]) for part in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [30, 8, 12]
    assert set.union(*parts) == set(names)
    assert cohort.split(names, 8, 12, seed=1) != first
    assert cohort.split(names, 3, 12)["test"] == first["test"]  # the test subjects stay, whatever is validated on
    with pytest.raises(InputError, match="50 subjects are too few for 30 in validation and 20 in test"):
        cohort.split(names, 30, 20)


def test_folds_without_anybody_to_test_on_validate_on_others():
    names = [f"p{i}" for i in range(9)]
    parts = [set(cohort.split(names, 3, 0, fold=fold)["validation"]) for fold in range(3)]
    assert set().union(*parts) == set(names)
    with pytest.raises(InputError, match="fold 3: with 3 of 9 subjects in validation there are 3"):
        cohort.split(names, 3, 0, fold=3)


def test_folds_leave_out_everybody_once():
    names = [f"p{i}" for i in range(11)]
    folds = [cohort.split(names, 2, 3, seed=4, fold=fold) for fold in range(3)]
    assert folds[0] == cohort.split(names, 2, 3, seed=4)
    for fold in folds:
        assert [len(fold[part]) for part in cohort.SPLITS] == [6, 2, 3]
        assert set().union(*fold.values()) == set(names)
    assert len(set().union(*(fold["test"] for fold in folds))) == 9
    with pytest.raises(InputError, match="fold 3: with 3 of 11 subjects in test there are 3"):
        cohort.split(names, 2, 3, fold=3)


def test_pairs():
    names = [f"p{i}" for i in range(7)]
    pairs = cohort.random_pairs(names, 21)
    assert pairs == cohort.random_pairs(names, 21) != cohort.random_pairs(names, 21, seed=1)
    assert all(moving != fixed for moving, fixed in pairs)
    assert len(set(pairs)) == 21
    assert sorted(cohort.random_pairs(names[:3], 9)) == sorted(itertools.permutations(names[:3], 2))
    for side in (0, 1):
        assert {name: sum(p[side] == name for p in pairs) for name in names} == dict.fromkeys(names, 3)


def test_images_of_one_subject_are_never_paired(cohort_folder):
    subjects = people(cohort_folder, 6)
    for subject, owner in zip(subjects, "aaabbc", strict=True):
        subject.owner = owner
    of = {s.name: s.owner for s in subjects}
    pairs = pairs_of(subjects, 40)
    assert all(of[moving] != of[fixed] for moving, fixed in pairs)
    assert len(set(pairs)) == len(pairs) == 22  # all that there are
    scheme, generator = Pairs(PLAN, subjects, torch.device("cpu")), torch.Generator().manual_seed(0)
    drawn = [(int(m), int(f)) for _ in range(50) for m, f in zip(*scheme.draw(generator), strict=True)]
    assert all("aaabbc"[moving] != "aaabbc"[fixed] for moving, fixed in drawn)
    assert len(set(drawn)) == 22  # all pairs of two people, either way
    for subject in subjects:
        subject.owner = "one"
    with pytest.raises(InputError, match="two subjects at least make a pair"):
        pairs_of(subjects, 1)
    with pytest.raises(InputError, match="two subjects at least make a pair"):
        Pairs(PLAN, subjects, torch.device("cpu"))
    subjects[0].owner = "another"  # a batch of two pairs would need it twice
    with pytest.raises(InputError, match="too many images are of one subject for 2 pairs"):
        Pairs(PLAN, subjects, torch.device("cpu"))


def test_many_images_of_few_people(cohort_folder):
    """Pairs drawn at random hardly ever are all of two people; all kinds of them come, and each image."""
    subjects = [replace(s, name=f"{s.name}-{n}") for n in range(12) for s in people(cohort_folder, 3)]
    for subject, owner in zip(subjects, "ab" * 15 + "aabbcc", strict=True):
        subject.owner = owner
    few = [replace(s, known=s.known & (i < 3)) for i, s in enumerate(subjects)]
    generator = torch.Generator().manual_seed(0)
    for plan, images in ((PLAN, subjects), (replace(PLAN, annotated_share=1.0), few)):
        scheme = Pairs(replace(plan, pairs=17), images, torch.device("cpu"))
        drawn = [torch.stack(scheme.draw(generator)) for _ in range(30)]
        owners = [scheme.owners[pairs] for pairs in drawn]
        assert all((of[0] != of[1]).all() for of in owners)
        if plan is PLAN:
            assert all(len(pairs.unique()) == 34 for pairs in drawn)
            assert len(torch.cat(owners, 1).unique(dim=1).T) == 6
        else:
            assert all(torch.isin(pairs, scheme.annotated).any(0).all() for pairs in drawn)


def test_links_and_hidden_files_in_a_folder(cohort_folder, shell, tmp_path):
    """As git-annex and DVC keep data, and as a Mac packs them."""
    store = tmp_path / "store"
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for n, path in enumerate(sorted((cohort_folder / part).iterdir())):
            (store / part).mkdir(parents=True, exist_ok=True)
            kept = shutil.copy(path, store / part / f"MD5E-{n:05x}")
            (tmp_path / "data" / part / path.name).symlink_to(kept)
            (tmp_path / "data" / part / f"._{path.name}").write_bytes(b"Mac OS X")
    table = tmp_path / "c.csv"
    assert shell("cohort", tmp_path / "data", "--output", table, "--validation", 2, "--test", 3)[0] == 0
    rows = cohort.read(table)
    assert [row.name for row in rows] == [f"p{n:02d}" for n in range(12)]
    assert len(load(rows, PLAN)) == 12
    cohort.require_same(table, cohort.of_folder(tmp_path / "data", 2, 3))


def test_a_folder_becomes_a_table(cohort_folder, cohort_file, shell, tmp_path):
    rows = cohort.read(cohort_file)
    assert [row.name for row in rows] == [f"p{i:02d}" for i in range(12)]
    assert [row.subject for row in rows] == [row.name for row in rows]
    assert [sum(row.split == split for row in rows) for split in cohort.SPLITS] == [7, 2, 3]
    assert all(row.labels == cohort_folder / "labels" / row.image.name and row.annotated is None for row in rows)
    arguments = ["cohort", cohort_folder, "--output", tmp_path / "c.csv", "--validation", 1, "--test", 1]
    code, _, error = shell(*arguments, "--subject", "(p.)")
    assert code == 2 and "2 subjects are too few for 1 in validation and 1 in test" in error
    assert shell(*arguments, "--subject", r"p.(\d)")[0] == 0
    place = ["cohort", cohort_folder, "--validation", 1, "--test", 1, "--output"]
    assert shell(*place, tmp_path / "new" / "deeper" / "c.csv")[0] == 0
    assert (tmp_path / "new" / "deeper" / "c.csv").is_file()
    code, _, error = shell(*place, tmp_path / "new")
    assert code == 2 and f"{tmp_path / 'new'}: exists and is no cohort" in error
    assert not (tmp_path / "new.tmp").exists()
    rows = cohort.read(tmp_path / "c.csv")
    assert shell(*place, tmp_path / "other.csv", "--fold", 1)[0] == 0
    left_out = [
        {r.name for r in cohort.read(tmp_path / f"{name}.csv") if r.split == "test"}
        for name in ("new/deeper/c", "other")
    ]
    assert len(left_out[0]) == len(left_out[1]) == 1 and left_out[0] != left_out[1]
    of = {row.name: (row.subject, row.split) for row in rows}
    assert of["p00"] == of["p10"] and of["p01"] == of["p11"] and len(set(of.values())) == 10


def test_nothing_but_a_cohort_is_replaced(cohort_folder, shell, tmp_path):
    """Least of all one of its own images."""
    data = shutil.copytree(cohort_folder, tmp_path / "data")
    image, notes = next((data / "images").iterdir()), tmp_path / "notes.csv"
    notes.write_text("mine\n")
    command = ["cohort", data, "--validation", "2", "--test", "3", "--output"]
    for path in (image, notes):
        before = path.read_bytes()
        code, _, error = shell(*command, path)
        assert code == 2 and "exists and is no cohort" in error and path.read_bytes() == before
    for seed in (0, 1):
        assert shell(*command, tmp_path / "cohort.csv", "--seed", seed)[0] == 0


def test_folders_and_patterns_that_do_not_fit(cohort_folder, refused, tmp_path):
    few = ["--validation", 1, "--test", 1]
    refused("cohort", tmp_path, words=(str(tmp_path), "no images in its folder images/"))
    refused("cohort", cohort_folder, words=("12 subjects are too few for 20 in validation and 30 in test",))
    refused("cohort", cohort_folder, *few, "--only", "brain", words=("no images", "'brain'"))
    refused("cohort", cohort_folder, *few, "--subject", "(", words=("'('", "no regular expression"))
    refused("cohort", cohort_folder, *few, "--subject", "p", words=("does not say whose image", "(group)"))


def test_relative_paths_count_from_the_table(cohort_folder, tmp_path):
    (tmp_path / "data").symlink_to(cohort_folder)
    rows = [entry(Path("data"), i) for i in range(2)]
    found = cohort.read(table(tmp_path / "c.csv", rows))
    assert [row.image for row in found] == [tmp_path / "data" / "images" / f"p{i:02d}.nii.gz" for i in range(2)]
    cohort.write(tmp_path / "elsewhere.csv", found)
    assert {row.image for row in cohort.read(tmp_path / "elsewhere.csv")} == {r.image for r in found}


def test_what_a_table_says_is_what_comes_back(cohort_folder, tmp_path):
    rows = [
        entry(cohort_folder, 0, annotated="left blob"),
        entry(cohort_folder, 1, labels=""),
        entry(cohort_folder, 2, labeled_by="tiny-blobs"),
    ]
    found = cohort.read(table(tmp_path / "c.csv", rows))
    assert [row.annotated for row in found] == [("left blob",), None, None]
    assert [row.labels is None for row in found] == [False, True, False]
    assert [row.labeled_by for row in found] == [None, None, "tiny-blobs"]
    cohort.write(tmp_path / "again.csv", found)
    assert cohort.read(tmp_path / "again.csv") == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,labels\n", "lacks the column subject, split; columns are image, subject"),
        (b"image,subject,split,patient\n", "unknown column 'patient'; columns are"),
        (b"image,subject,split,image\n", "the column 'image' is there twice; columns are"),
        (b"image,subject,split\na.nii,b,c\na.nii,b,c,d\n", "line 3 has more cells than there are columns"),
        (b"\xff\xfe\xff", "cannot be read as CSV"),
    ],
)
def test_tables_that_are_none(tmp_path, content, words):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"c\.csv: .*{words}"):
        cohort.read(tmp_path / "c.csv")


def test_subjects(cohort_folder):
    subjects = people(cohort_folder, 6)
    assert [s.name for s in subjects] == [f"p{i:02d}" for i in range(6)]
    for subject in subjects:
        assert subject.image.shape == subject.labels.shape == (1, 1, 16, 16, 16)
        assert set(subject.labels.unique().tolist()) == {0, 1, 2}
        assert subject.known.tolist() == [True, True]
        assert float(subject.image.abs().max()) <= 5


def test_partial_and_missing_labels(cohort_folder, tmp_path):
    rows = [entry(cohort_folder, 0, annotated="right blob"), entry(cohort_folder, 1, labels="")]
    partial, bare = load(cohort.read(table(tmp_path / "c.csv", rows)), PLAN)
    assert partial.known.tolist() == [False, True] and set(partial.labels.unique().tolist()) == {0, 1, 2}
    assert bare.known.tolist() == [False, False] and not bare.labels.any()
    rows[0]["annotated"] = "nose"
    with pytest.raises(InputError, match=r"annotated 'nose' is none of the plan's labels \(left blob, right blob\)$"):
        load(cohort.read(table(tmp_path / "c.csv", rows)), PLAN)


def test_a_model_that_segments_more_than_the_plan_is_about(cohort_folder, tmp_path):
    rows = [entry(cohort_folder, 0, annotated="nose; left blob", labeled_by="a-model")]
    found = cohort.read(table(tmp_path / "c.csv", rows))
    with pytest.raises(InputError, match=r"'nose' is none of .*; names have to agree, or set other_labels to"):
        load(found, PLAN)
    assert load(found, replace(PLAN, other_labels="background"))[0].known.tolist() == [True, False]


def test_all_that_is_wrong_is_told_in_one_list(cohort_folder, config_file, shell, tmp_path):
    """Each line of this table has another fault; nothing is trained, and no folder is made."""
    images, labels = cohort_folder / "images", cohort_folder / "labels"
    turned = write(sitk.DICOMOrient(sitk.ReadImage(str(images / "p05.nii.gz")), "RAS"), tmp_path / "turned.nii.gz")
    other = write(label_map(small_scene(6), small_grid((12, 12, 12))), tmp_path / "other_grid.nii.gz")
    strange = copy(labels / "p07.nii.gz", tmp_path / "strange.nii.gz", lambda a: np.where(a == 2, 9, a))
    empty = copy(labels / "p08.nii.gz", tmp_path / "empty.nii.gz", np.zeros_like)
    nan = copy(images / "p09.nii.gz", tmp_path / "nan.nii.gz", lambda a: np.where(a == a.max(), np.nan, a))
    huge = sitk.ReadImage(str(images / "p08.nii.gz"))
    huge.SetSpacing((1000, 1000, 1000))
    rows = [
        entry(cohort_folder, 0),
        entry(cohort_folder, 0),
        entry(cohort_folder, 8, image=write(huge, tmp_path / "huge.nii.gz"), labels=""),
        entry(cohort_folder, 1, image=tmp_path / "gone.nii.gz"),
        entry(cohort_folder, 2, labels=tmp_path / "lost.nii.gz"),
        entry(cohort_folder, 3, split="training"),
        entry(cohort_folder, 4, subject="p00", split="test"),
        entry(cohort_folder, 5, image=turned, labels=""),
        entry(cohort_folder, 6, labels=other),
        entry(cohort_folder, 7, labels=strange),
        entry(cohort_folder, 8, labels=empty),
        entry(cohort_folder, 9, image=nan, labels=""),
        entry(cohort_folder, 10, annotated="nose"),
        entry(cohort_folder, 11, split="validation", labels=""),
        {"image": images / "p11.nii.gz", "subject": "", "split": ""},
    ]
    path = table(tmp_path / "bad.csv", rows)
    code, said, error = shell("train", "--config", config_file, "--cohort", path, "--output", tmp_path / "run")
    assert code == 2 and said == "" and not (tmp_path / "run").exists()
    first, *problems = error.splitlines()
    for words in (
        ("p00.nii.gz", "is listed 2 times"),
        ("gone.nii.gz", "no such image file"),
        ("lost.nii.gz", "no such labels file"),
        ("p03.nii.gz", "split 'training' is none of train, validation, test"),
        ("subject 'p00' is in test and in train",),
        ("mixed orientations", "turned.nii.gz in RAS", "in LPS"),
        ("other_grid.nii.gz", "another grid"),
        ("strange.nii.gz", "value 9 is in no label's list"),
        ("empty.nii.gz", "empty"),
        ("nan.nii.gz", "NaN"),
        ("p10.nii.gz", "annotated 'nose'"),
        ("p11.nii.gz", "has no labels, which validation needs"),
        ("1 subject to validate on",),
        ("line 16", "no subject and no split"),
        ("huge.nii.gz", "voxels, 1000 x 1000 x 1000 mm, are wider than the working lattice"),
    ):
        assert len([line for line in problems if all(word in line for word in words)]) == 1, (words, error)
    assert str(path) in first and f"{len(problems)} problems" in first
    assert len(problems) == 15


@pytest.mark.parametrize("rows", [0, 1])
def test_one_image_makes_no_pair(cohort_folder, config_file, shell, tmp_path, rows):
    path = table(tmp_path / "c.csv", [entry(cohort_folder, 0), entry(cohort_folder, 1, "validation")][:rows])
    if not rows:
        path.write_text("image,subject,split\n", encoding="utf-8")
    code, _, error = shell("train", "--config", config_file, "--cohort", path, "--output", tmp_path / "run")
    assert code == 2 and not (tmp_path / "run").exists()
    assert f"{rows} subject{'s' * (rows != 1)} to train on; two at least make a pair" in error
    assert "0 subjects to validate on" in error


def test_two_images_of_one_name(cohort_folder, tmp_path):
    """Figures and pseudo-labels go by the name."""
    twin = write(volume(small_scene(1), small_grid()), tmp_path / "p00.nii.gz")
    found = cohort.check(
        [Row(cohort_folder / "images" / "p00.nii.gz", None, "a", "train"), Row(twin, None, "b", "test")]
    )
    assert len(found) == 1 and "2 images are named 'p00'" in found[0]


def test_one_image_written_in_two_ways_is_one(cohort_folder):
    image = cohort_folder / "images" / "p00.nii.gz"
    found = cohort.check(
        [Row(image, None, "a", "train"), Row(image.parent / ".." / "images" / image.name, None, "a", "train")]
    )
    assert len(found) == 1 and "is listed 2 times" in found[0]


def test_nothing_is_measured_on_the_labels_of_a_model(cohort_folder, tmp_path):
    rows = [entry(cohort_folder, i, split, labeled_by="m") for i, split in enumerate(cohort.SPLITS)]
    with pytest.raises(InputError, match="2 problems") as error:
        cohort.read(table(tmp_path / "c.csv", rows))
    assert "p01.nii.gz: its labels are those of a model, so that validation would measure nothing" in str(error.value)
