"""Labels, landmarks, models and places that cannot be used: one line with the cure, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import files, models
from JointRegSegLib.errors import ModelError, OutputError
from JointRegSegLib.models import Bundle
from safetensors.torch import load_file, save_file
from samples import array, write


@pytest.fixture
def volumes(pair) -> list[object]:
    return ["--fixed", pair["fixed"], "--moving", pair["moving"]]


def shifted(path: Path, folder: Path) -> Path:
    image = sitk.ReadImage(str(path))
    image.SetOrigin([x + 1 for x in image.GetOrigin()])
    return write(image, folder / "shifted.nii.gz")


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_labels(side, refused, pair, volumes, tmp_path):
    option, other = f"--{side}-labels", {"fixed": "moving", "moving": "fixed"}[side]
    away = shifted(pair[f"{side}_labels"], tmp_path)
    words = (str(away), "another grid", f"the {side} image", "resample", "nearest")
    refused("register", *volumes, option, away, words=words)
    other_size = pair[f"{other}_labels"]
    refused("register", *volumes, option, other_size, words=(str(other_size), "20 x 18 x 12", "18 x 20 x 14"))
    halves = write(sitk.ReadImage(str(pair[side])) * 0.01, tmp_path / "halves.nii.gz")
    refused("register", *volumes, option, halves, words=(str(halves), "fractions", "whole-numbered"))
    labels = sitk.ReadImage(str(pair[f"{side}_labels"]))
    negative = write(sitk.Cast(labels, sitk.sitkInt16) - 1, tmp_path / "negative.nii.gz")
    refused("register", *volumes, option, negative, words=(str(negative), "between 0 and 65535", "-1 to 1"))
    refused("register", *volumes, option, tmp_path / "none.nii.gz", words=("none.nii.gz", "no such file"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "x,y,z\n1,2\n", ["cannot be read as landmarks", "columns x, y, z in LPS mm"]),
        ("p.csv", "x,y,z\n1,2,three\n", ["cannot be read as landmarks"]),
        ("p.csv", "x,y,z\n1,2,nan\n", ["not finite"]),
        ("p.csv", "x,y,z\n", ["no landmarks"]),
        ("p.csv", "", ["cannot be read as landmarks"]),
        ("p.mrk.json", "{", ["cannot be read as landmarks"]),
        ("p.mrk.json", '{"markups": []}', ["cannot be read as landmarks"]),
        ("p.mrk.json", '{"markups": [{"controlPoints": []}]}', ["no landmarks"]),
        ("p.fcsv", "# Markups fiducial file\n1,a,b,c\n", ["cannot be read as landmarks"]),
        ("p.vtk", "# vtk DataFile Version 3.0\nhello\n", ["cannot be read as landmarks"]),
        ("p.vtk", "POINTS 2 float\n1 2 3\n", ["cannot be read as landmarks"]),
    ],
)
def test_points(refused, volumes, tmp_path, name, text, words):
    path, good = tmp_path / name, tmp_path / "good.csv"
    path.write_text(text)
    good.write_text("x,y,z\n1,2,3\n")
    options = ["--fixed-points", good, "--moving-points", path]
    refused("register", *volumes, *options, words=(str(path), *words))


def test_points_that_do_not_correspond(refused, volumes, tmp_path):
    for name, count in (("two", 2), ("three", 3)):
        (tmp_path / f"{name}.csv").write_text("x,y,z\n" + "1,2,3\n" * count)
    two, three = ("--fixed-points", tmp_path / "two.csv"), ("--moving-points", tmp_path / "three.csv")
    refused("register", *volumes, *two, *three, words=("2 fixed and 3 moving landmarks", "as many each"))
    refused("register", *volumes, *two, words=("both images", "the other one"))
    missing = ("--moving-points", tmp_path / "none.csv")
    refused("register", *volumes, *two, *missing, words=("none.csv", "no such file"))


@pytest.fixture
def damaged(bundle: Bundle, tmp_path: Path):
    """A copy of the tiny model with changes to its manifest or weights."""

    def make(change=None, weights=None, text: str | None = None, checksum: bool = True) -> Path:
        folder = tmp_path / "models" / "tiny-blobs"
        shutil.copytree(bundle.folder, folder)
        manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if weights:
            tensors = load_file(folder / "weights.safetensors")
            save_file(weights(tensors), folder / "weights.safetensors")
            if checksum:
                manifest["sha256"] = models.sha256(folder / "weights.safetensors")
        if change:
            change(manifest)
        (folder / "model.json").write_text(json.dumps(manifest) if text is None else text)
        return folder

    return make


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[: max(1, len(value) // 2)].contiguous() for name, value in tensors.items()}


BUNDLES = {
    "json": ({"text": "{"}, ["model.json cannot be read", "get the bundle anew"]),
    "schema": ({"change": lambda m: m["preprocessing"].update(size=[16, 16])}, ["not valid at preprocessing/size"]),
    "extra": ({"change": lambda m: m.update(pickle="x")}, ["not valid at top level", "pickle"]),
    "network": ({"change": lambda m: m.update(network="transformer")}, ["'transformer'", "does not have"]),
    "newer": ({"change": lambda m: m.update(requires="99.0.0")}, ["needs JointRegSeg 99.0.0", "update"]),
    "checksum": ({"change": lambda m: m.update(sha256="0" * 64)}, ["does not match the checksum", "anew"]),
    "weights": ({"weights": lambda t: {k: v + 1 for k, v in t.items()}, "checksum": False}, ["checksum"]),
    "shapes": ({"weights": halved}, ["does not fit the network"]),
    "names": ({"weights": lambda t: {f"x.{k}": v for k, v in t.items()}}, ["does not fit the network"]),
    "arguments": ({"change": lambda m: m["arguments"].update(channels=[4, 8, 16])}, ["does not fit the network"]),
    "size": ({"change": lambda m: m["preprocessing"].update(size=[16, 15, 16])}, ["size that its network cannot take"]),
    "labels": ({"change": lambda m: m["labels"].pop()}, ["contradicts itself", "labels"]),
    "volumes": ({"change": lambda m: m["domain"]["volumes"].pop()}, ["contradicts itself", "labels"]),
    "refinement": ({"change": lambda m: m["refinement"].update(magic=1)}, ["not valid at refinement", "'magic'"]),
    "unknown": ({"change": lambda m: m["arguments"].update(width=4)}, ["does not fit the network", "width"]),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_bundles(kind, refused, volumes, damaged):
    changes, words = BUNDLES[kind]
    folder = damaged(**changes)
    refused("register", *volumes, "--model", folder, words=(str(folder), *words))


def test_bundle_without_weights(refused, volumes, damaged):
    folder = damaged()
    (folder / "weights.safetensors").write_bytes(b"")
    refused("register", *volumes, "--model", folder, words=(str(folder), "checksum"))
    (folder / "weights.safetensors").unlink()
    refused("register", *volumes, "--model", folder, words=(str(folder), "weights.safetensors is missing"))


def test_unknown_model(installed, refused, volumes):
    words = ("no model 'brains'", "generic", "tiny-blobs", "folder")
    refused("register", *volumes, "--model", "brains", words=words)


def test_schema_is_kept_when_writing(bundle, tmp_path):
    manifest = {**bundle.manifest, "name": "Not A Name"}
    with pytest.raises(ModelError, match="not valid at name"):
        models.write_bundle(tmp_path / "x", manifest, models.load(bundle))


def test_output_that_exists(installed, refused, shell, volumes, tmp_path):
    output = tmp_path / "out"
    command = ["register", *volumes, "--model", "tiny-blobs"]
    output.write_text("a file")
    refused(*command, output=output, words=(str(output), "is a file"))
    output.unlink()
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    refused(*command, output=output, words=(str(output), "exists already", "--overwrite"))
    refused(*command, "--overwrite", output=output, words=(str(output), "not the folder of a result"))
    assert (output / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    (output / "thesis.txt").unlink()
    assert shell(*command, "--output", output)[0] == 0  # an empty folder is free
    refused(*command, output=output, words=("--overwrite",))
    (output / "old").write_text("from before")
    assert shell(*command, "--output", output, "--overwrite")[0] == 0
    assert (output / "report.json").is_file() and not (output / "old").exists()


@pytest.mark.parametrize("place", ["/proc/out", "/dev/null/out", "/proc/deep/er/out"])
def test_places_that_cannot_be_written_to(refused, volumes, place):
    refused("register", *volumes, output=Path(place), words=(place, "cannot be created", "name another"))


@pytest.fixture
def full_disk(tmp_path: Path):
    """A disk of 96 kB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(installed, shell, volumes, full_disk):
    output = full_disk / "results" / "out"
    code, _, error = shell("register", *volumes, "--model", "tiny-blobs", "--output", output)
    assert code == 2
    assert error.count("\n") == 1 and "cannot be written" in error and "space" in error
    assert list((full_disk / "results").iterdir()) == []


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_full_disk_whatever_the_format(full_disk, name):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).random((32, 32, 64), np.float32))
    with pytest.raises(OutputError, match=r"a\.\w+(\.gz)?: cannot be written \(No space left on device\)"):
        files.write_image(noise, full_disk / name)
    assert list(full_disk.iterdir()) == []
    files.write_image(noise[:8], full_disk / name)  # this much fits
    assert np.array_equal(array(full_disk / name), array(noise[:8]))


def test_full_disk_transform(full_disk):
    field = sitk.DisplacementFieldTransform(sitk.Image(32, 32, 32, sitk.sitkVectorFloat64))
    with pytest.raises(OutputError, match=r"t\.h5: cannot be written \(No space left on device\)"):
        files.write_transform(sitk.CompositeTransform([field]), full_disk / "t.h5")
    assert list(full_disk.iterdir()) == []
