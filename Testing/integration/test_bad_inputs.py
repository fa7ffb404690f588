"""Labels, landmarks, models and places that cannot be used: one line with the cure, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import files, models
from JointRegSegLib.cli import main
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
    voxels = array(pair[f"{side}_labels"]).astype(np.float32)
    voxels[1, 2, 3] = np.nan
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(labels)
    unknown = write(image, tmp_path / "unknown.nii.gz")
    words = (str(unknown), "1 voxels are NaN", "(3, 2, 1)", "whole-numbered")
    assert "--fill" not in refused("register", *volumes, "--fill", "0", option, unknown, words=words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "x,y,z\n1,2\n", ["cannot be read as landmarks", "columns x, y, z in LPS mm"]),
        ("p.csv", "x,y,z\n1,2,3\n1,2,3,4,5,6\n", ["cannot be read as landmarks", "point 2 has 6 values for 3 columns"]),
        ("p.csv", "1,2,3,4\n", ["point 1 has 4 values for 3 columns"]),
        ("p.csv", "name,x,y,z\na,1,2,3\n1,2,3\n", ["point 2 has 3 values for 4 columns"]),
        ("p.csv", "x,y,z,x,y,z\n1,2,3,4,5,6\n", ["a column is there twice"]),
        ("p.csv", "x,y,z\n1e30,2,3\n", ["landmark 1 at (1e+30, 2, 3)", "far outside the moving image"]),
        ("p.csv", "x,y,z\n" + "1" * 140_000 + ",2,3\n", ["cannot be read as landmarks"]),
        ("p.mrk.json", "[" * 100_000, ["cannot be read as landmarks"]),
        ("p.mrk.json", '{"markups": [{"controlPoints": [[1, 2, 3]]}]}', ["cannot be read as landmarks"]),
        (
            "p.mrk.json",
            '{"markups": [{"controlPoints": [{"position": [1, 2, 3]}, '
            '{"position": [0, 0, 0], "label": "apex", "positionStatus": "undefined"}]}]}',
            ["point 2, 'apex', was not placed"],
        ),
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
    good.write_text("x,y,z\n-110,75,210\n")  # the middle of the images
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
    folder = ("--moving-points", tmp_path)
    refused("register", *volumes, *two, *folder, words=(str(tmp_path), "is a folder"))


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
    "json": ({"text": "{"}, ["model.json is damaged", "get the bundle anew"]),
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
    "resolution": ({"change": lambda m: m["refinement"].update(factors=[0])}, ["at refinement", "minimum of 1"]),
    "step": ({"change": lambda m: m["refinement"].update(rate=-1)}, ["not valid at refinement", "minimum of 0"]),
    "round trip": ({"change": lambda m: m.update(round_trip=0)}, ["not valid at round_trip"]),
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


def test_a_model_is_a_name_or_a_folder():
    with pytest.raises(ModelError, match="a model is a name or a folder, not a NoneType"):
        models.find(None)


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
    for words in (command, [*command, "--overwrite"]):
        refused(*words, output=output, words=(str(output), "not the folder of a result"))
    assert (output / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    (output / "thesis.txt").unlink()
    assert shell(*command, "--output", output)[0] == 0  # an empty folder is free
    refused(*command, output=output, words=("--overwrite",))
    (output / "warped_labels.nii.gz").write_text("from before")
    assert shell(*command, "--output", output, "--overwrite")[0] == 0
    assert (output / "report.json").is_file() and not (output / "warped_labels.nii.gz").exists()
    (output / "thesis.txt").write_text("years of work")
    words = (str(output), "not the folder of a result", "'thesis.txt'")
    refused(*command, "--overwrite", output=output, words=words)
    assert {p.name for p in output.iterdir()} >= {"thesis.txt", "report.json"}


@pytest.mark.parametrize("option", ["--fixed", "--moving", "--moving-labels", "--fixed-points"])
def test_inputs_in_the_output_folder(refused, pair, volumes, tmp_path, option):
    """Under a name that results have, too: replacing the folder would delete them."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "report.json").write_text("{}")
    inside = shutil.copy(pair["moving"], output / "warped.nii.gz")
    refused("register", *volumes, option, inside, "--overwrite", output=output, words=("holds the input", str(inside)))


def test_names_that_no_file_system_takes(installed, refused, volumes, pair, tmp_path):
    long = tmp_path / ("x" * 300)
    words = (str(long), "File name too long")
    refused("register", "--fixed", long, "--moving", pair["moving"], words=words)
    refused("register", *volumes, "--model", long, words=words)
    refused("register", *volumes, "--fixed-points", long, "--moving-points", long, words=words)
    refused("batch", long, words=words)
    (tmp_path / "t.h5").write_text("")
    refused("apply", "--transform", tmp_path / "t.h5", "--input", long, "--points", words=words, output=long)


def test_files_that_may_not_be_read(bundle, pair, tmp_path):
    """Each in one line, in a process that lacks root's right to read everything."""
    hidden = [tmp_path / name for name in ("i.mha", "i.mhd", "i.nrrd", "i.nii.gz", "p.csv", "t.csv", "t.h5")]
    weights = Path(shutil.copytree(bundle.folder, tmp_path / "model")) / "weights.safetensors"
    for path in (*hidden, weights):
        path.touch()
        path.chmod(0)
    *images, points, table, transform = hidden
    good = ["--fixed", str(pair["fixed"]), "--moving", str(pair["moving"]), "--output", "out"]
    commands = [["register", *good, "--fixed", str(path)] for path in images]
    commands += [
        ["register", *good, "--fixed-points", str(points), "--moving-points", str(points)],
        ["batch", str(table), "--output", "out"],
        ["apply", "--transform", str(transform), "--input", str(points), "--points", "--output", "o.csv"],
        ["register", *good, "--model", str(weights.parent)],
    ]
    code = "import json, sys\nfrom JointRegSegLib import cli\nprint([cli.main(c) for c in json.loads(sys.argv[1])])"
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("needs setpriv to run as somebody with fewer rights")
    command = [*drop, sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"{[2] * len(commands)}\n", done.stderr
    lines = done.stderr.splitlines()
    for path, line in zip((*images, points, table, transform, weights), lines, strict=True):
        assert line.startswith(f"jointregseg: {path}: cannot be read (Permission denied); check")


def test_the_root_is_no_place(refused, volumes):
    refused("register", *volumes, output=Path("/"), words=("root of the file system", "name another"))


def test_wrong_options_are_one_line(volumes, tmp_path, capsys):
    for options in (("--refine", "abc"), ("--device", "tpu"), ("--bogus",)):
        with pytest.raises(SystemExit, match="2"):
            main(["register", *map(str, volumes), "--output", str(tmp_path / "out"), *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert options[0] in line and line.startswith("jointregseg") and line.endswith("--help")


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
    assert error.startswith(f"jointregseg: {output}{os.sep}")


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
