"""Labels by a model for images that nobody labeled: on the right voxels, marked, and only where they may be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import PLAN, small_grid, small_scene, tilted
from JointRegSegLib import metrics, models
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid
from JointRegSegTrainingLib import cohort
from JointRegSegTrainingLib.pseudo import segment, voted
from JointRegSegTrainingLib.subjects import load
from samples import CENTER, array, label_map, motion, volume, write

GRIDS = {
    "straight": small_grid(),
    "oblique": tilted(Grid.centered(CENTER, (20, 26, 14), (2.2, 1.5, 2.6), np.eye(3))),
    "shifted": Grid.centered(CENTER + np.array([2.0, -1.0, 3.0]), (18, 20, 16), (2, 2, 2), np.eye(3)),
}


@pytest.fixture
def table(cohort_file, tmp_path) -> Path:
    """Three labeled training images, two without labels, of which one is oblique, and bare ones to test on."""
    rows = [row for row in cohort.read(cohort_file) if row.split == "train"][:3]
    for name, split in (("straight", "train"), ("oblique", "train"), ("shifted", "test")):
        image = write(volume(small_scene(30), GRIDS[name]), tmp_path / "new" / f"{name}.nii.gz")
        rows.append(cohort.Row(image, None, name, split))
    cohort.write(tmp_path / "some.csv", rows)
    return tmp_path / "some.csv"


@pytest.mark.parametrize("name", GRIDS)
def test_labels_lie_where_the_structures_are(bundle, name):
    """On whatever grid the same person was scanned: as good as on a straight one."""
    image = volume(small_scene(30), GRIDS[name])
    found, _ = segment(models.load(bundle), bundle, image, torch.device("cpu"))
    assert found.GetSize() == image.GetSize() and found.GetOrigin() == image.GetOrigin()
    assert found.GetDirection() == image.GetDirection() and found.GetPixelID() == sitk.sitkUInt8
    dice = metrics.dice(array(found), array(label_map(small_scene(30), GRIDS[name])), [1, 2])
    assert min(dice.values()) > 0.6, dice


def test_labels_keep_their_values(bundle):
    """A model whose labels have other values writes those."""
    other = [dict(label, value=value) for label, value in zip(bundle.manifest["labels"], (7, 300), strict=True)]
    changed = replace(bundle, manifest=bundle.manifest | {"labels": other})
    image = volume(small_scene(30), GRIDS["straight"])
    network = models.load(bundle)
    first, second = (segment(network, b, image, torch.device("cpu"))[0] for b in (bundle, changed))
    assert second.GetPixelID() == sitk.sitkUInt16
    np.testing.assert_array_equal(array(second), np.array([0, 7, 300])[array(first)])


def test_what_is_unlike_the_training_data_is_told(bundle):
    narrow = replace(bundle, manifest=bundle.manifest | {"domain": bundle.manifest["domain"] | {"extent": [1.0, 2.0]}})
    image, network = volume(small_scene(30), GRIDS["straight"]), models.load(bundle)
    told = [segment(network, b, image, torch.device("cpu"), "image 7")[1] for b in (bundle, narrow)]
    assert not [line for line in told[0] if "extent" in line]
    assert [line for line in told[1] if "image 7" in line and "extent" in line]


def test_a_cohort_with_the_labels_of_a_model(bundle, table, shell, tmp_path):
    out = tmp_path / "labeled"
    command = ["pseudo-label", "--model", bundle.folder, "--cohort", table, "--output", out, "--device", "cpu"]
    code, said, error = shell(*command, "--progress", "slicer")
    assert code == 0, error
    assert said.count("<filter-progress>") == 2 and "2 images labeled, 0 kept from before" in said
    before, after = cohort.read(table), cohort.read(out / "cohort.csv")
    assert [row.image for row in after] == [row.image for row in before]
    assert after[:3] == before[:3]
    for row in after[3:5]:
        assert row.labels == out / "labels" / row.image.name
        assert row.labeled_by == bundle.name and row.annotated == ("left blob", "right blob")
    assert after[5] == before[5]  # what is tested on keeps to what people drew
    subjects = [*load(after[:4], PLAN), *load(after[4:5], PLAN)]  # of the two orientations
    assert all(s.known.all() and set(s.labels.unique().tolist()) == {0, 1, 2} for s in subjects)
    # Again: what is there is kept, what has gone is made anew, the same.
    kept, gone = (row.labels for row in after[3:5])
    expected, stamp = array(gone), kept.stat().st_mtime_ns
    gone.unlink()
    code, said, _ = shell(*command)
    assert code == 0 and "1 images labeled, 1 kept from before" in said
    assert kept.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(array(gone), expected)
    assert sorted(p.name for p in (out / "labels").iterdir()) == ["oblique.nii.gz", "straight.nii.gz"]


def test_labels_of_a_model_are_read_by_its_values_not_by_those_of_label_files(bundle, table, shell, tmp_path):
    """Files number the structures the other way around: what people drew is exchanged, what a model did is not."""
    out = tmp_path / "labeled"
    code, _, error = shell("pseudo-label", "--model", bundle.folder, "--cohort", table, "--output", out)
    assert code == 0, error
    exchanged = [replace(label, sources=(3 - label.value,)) for label in PLAN.labels]
    plan, rows = replace(PLAN, labels=tuple(exchanged)), cohort.read(out / "cohort.csv")
    drawn, made = (load([row], plan)[0].labels for row in (rows[0], rows[3]))
    assert torch.equal(drawn, torch.tensor([0, 2, 1])[load([rows[0]], PLAN)[0].labels.long()].float())
    assert torch.equal(made, load([rows[3]], PLAN)[0].labels) and set(made.unique().tolist()) == {0, 1, 2}
    by_hand = load([replace(rows[3], labeled_by="generic")], plan)[0].labels  # carried over, from label files
    assert torch.equal(by_hand, torch.tensor([0.0, 2, 1])[made.long()])


def test_what_cannot_be_labeled(bundle, table, cohort_file, shell, refused, tmp_path):
    refused("pseudo-label", "--model", bundle.folder, "--cohort", cohort_file, words=("has labels already",))
    refused("pseudo-label", "--model", "nothing", "--cohort", table, words=("no model 'nothing'",))
    manifest = {k: v for k, v in bundle.manifest.items() if k not in ("sha256", "requires")}
    manifest |= {"name": "mute", "network": "uresnet", "arguments": {"channels": [4, 8], "classes": 0}, "labels": []}
    manifest["domain"] = {**manifest["domain"], "volumes": []}
    mute = models.write_bundle(tmp_path / "mute", manifest, models.NETWORKS["uresnet"](**manifest["arguments"]))
    refused("pseudo-label", "--model", mute.folder, "--cohort", table, words=("'mute' does not segment",))


def test_a_folder_holds_the_labels_of_one_model(bundle, table, shell, tmp_path):
    out = tmp_path / "labeled"
    command = ["pseudo-label", "--cohort", table, "--output", out, "--device", "cpu", "--model"]
    assert shell(*command, bundle.folder)[0] == 0
    manifest = {k: v for k, v in bundle.manifest.items() if k not in ("sha256", "requires")}
    other = models.write_bundle(tmp_path / "other", manifest | {"name": "other"}, models.load(bundle))
    code, _, error = shell(*command, other.folder)
    assert code == 2 and "holds labels of another model or cohort; choose another folder" in error


def test_an_image_that_changed_is_labeled_anew(bundle, table, shell, tmp_path):
    out = tmp_path / "labeled"
    command = ["pseudo-label", "--cohort", table, "--output", out, "--device", "cpu", "--model", bundle.folder]
    assert "2 images labeled, 0 kept" in shell(*command)[1]
    assert "0 images labeled, 2 kept" in shell(*command)[1]
    path = out / "labels" / "straight.nii.gz"
    before = array(sitk.ReadImage(str(path)))
    write(volume(small_scene(30), GRIDS["straight"], motion(shift=(6, 0, 0))), tmp_path / "new" / "straight.nii.gz")
    assert "1 images labeled, 1 kept" in shell(*command)[1]
    assert (array(sitk.ReadImage(str(path))) != before).mean() > 0.01
    assert not [p for p in out.rglob(".*") if p.name != ".lock"]


def test_a_folder_of_somebody_elses_stays_as_it_is(bundle, cohort_folder, shell, tmp_path):
    """A cohort's own folder has labels/ and perhaps cohort.csv: they would be replaced, or taken for a model's."""
    shutil.copytree(cohort_folder, tmp_path / "data")
    command = ["cohort", tmp_path / "data", "--output", tmp_path / "data" / "cohort.csv", "--validation", 2]
    assert shell(*command, "--test", 3, "--labeled", 2)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = ["--cohort", tmp_path / "data" / "cohort.csv", "--output", tmp_path / "data", "--device", "cpu"]
    code, _, error = shell("pseudo-label", "--model", bundle.folder, *command)
    assert code == 2 and "is not empty and holds no labels of a model; name another folder" in error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_people_drew_is_carried_over(table, shell, tmp_path):
    """From a straight grid onto an oblique one, through a known rotation and shift, which have to be found."""
    moved = motion(rotation=(4, -6, 14), shift=(4, -3, 2))
    grids = {
        "drawn": Grid.centered(CENTER, (40, 40, 36), (1.2, 1.2, 1.3), np.eye(3)),
        "bare": tilted(Grid.centered(CENTER, (44, 38, 40), (1.1, 1.4, 1.2), np.eye(3))),
    }
    drawn = label_map(small_scene(30), grids["drawn"])
    rows = [
        cohort.Row(
            write(volume(small_scene(30), grids[name], known), tmp_path / f"{name}.nii.gz"),
            write(drawn, tmp_path / "labels.nii.gz") if known is None else None,
            *(name, "train"),
        )
        for name, known in (("drawn", None), ("bare", moved))
    ]
    cohort.write(table, [*rows, cohort.read(table)[5]])
    out = tmp_path / "carried"
    command = ["pseudo-label", "--model", "generic", "--cohort", table, "--output", out, "--device", "cpu"]
    code, said, error = shell(*command)
    assert code == 0, error
    assert "1 images labeled, 0 kept from before" in said
    atlas, carried, tested = cohort.read(out / "cohort.csv")
    assert atlas == rows[0] and tested.labels is None
    assert carried.labeled_by == "generic" and carried.annotated is None
    true = label_map(small_scene(30), grids["bare"], moved)
    still = sitk.Resample(drawn, true, sitk.Transform(), sitk.sitkNearestNeighbor)
    before, after = (metrics.dice(array(x), array(true), [1, 2]) for x in (still, carried.labels))
    assert max(before.values()) < 0.7 and min(after.values()) > 0.85, (before, after)
    code, _, error = shell(*command, "--atlases", 1)
    assert code == 2 and "holds labels of another model or cohort" in error
    write(label_map(small_scene(31), grids["drawn"]), tmp_path / "labels.nii.gz")  # somebody drew them again
    code, _, error = shell(*command)
    assert code == 2 and "holds labels of another model or cohort" in error


def test_what_cannot_be_carried_over(table, refused):
    rows = cohort.read(table)
    command = ("pseudo-label", "--model", "generic", "--cohort", table)
    cohort.write(table, [replace(rows[0], annotated=("left blob",)), *rows[1:]])
    refused(*command, words=("labels of some structures in one image and of others in another",))
    cohort.write(table, [replace(row, labels=None) for row in rows])
    refused(*command, words=("no training image", "labels that people drew"))


def test_maps_vote():
    grid = Grid.centered(CENTER, (4, 1, 1), (1, 1, 1), np.eye(3))
    maps = [scalar_image(np.array([[row]], np.uint16), grid) for row in ([5, 1, 0, 7], [5, 2, 0, 300], [1, 3, 4, 300])]
    assert array(voted(maps)).ravel().tolist() == [5, 1, 0, 300]  # three votes for three labels: the first map's
    assert array(voted(maps[:1])).ravel().tolist() == [5, 1, 0, 7]
    assert voted(maps).GetOrigin() == maps[0].GetOrigin()
