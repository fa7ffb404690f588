"""`jointregseg apply`: a saved transform carries images, labels and landmarks, there and back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import small_scene
from JointRegSegLib import files, register
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.points import read_points, write_points
from samples import array, body, through, voxel_centers, write


@pytest.fixture
def done(installed, pair, tmp_path) -> Path:
    result = register(pair["fixed"], pair["moving"], "tiny-blobs", moving_labels=pair["moving_labels"])
    return result.save(tmp_path / "r")


def test_image(done, pair, shell, tmp_path):
    output = tmp_path / "again.nii.gz"
    command = ["apply", "--transform", done / "transform.h5", "--input", pair["moving"], "--reference", pair["fixed"]]
    assert shell(*command, "--output", output) == (0, f"{output}\n", "")
    np.testing.assert_allclose(array(output), array(done / "warped.nii.gz"), atol=1e-3)
    code, _, error = shell(*command, "--output", output)
    assert code == 2 and "--overwrite" in error and str(output) in error
    assert shell(*command, "--output", output, "--overwrite")[0] == 0
    assert output.stat().st_mode & 0o777 == 0o644


def test_whole_numbers_are_rounded(pair, shell, tmp_path):
    """On an oblique lattice a voxel is read at 0.99999 of its place: of -1000 that is -999 if fractions are cut off."""
    image = sitk.Cast(sitk.ReadImage(str(pair["moving"])) * 10 - 500, sitk.sitkInt16)
    write(image, tmp_path / "whole.nii.gz")
    grid = files.grid_of(image)
    for name, shift in (("still", 0.0), ("part", 0.6)):
        moved = Deformation.identity(grid, np.array([[1, 0, 0, shift], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        files.write_transform(moved.to_itk(), tmp_path / f"{name}.h5")
        command = ["apply", "--transform", tmp_path / f"{name}.h5", "--input", tmp_path / "whole.nii.gz"]
        command += ["--reference", tmp_path / "whole.nii.gz", "--output", tmp_path / f"{name}.nii.gz"]
        assert shell(*command)[0] == 0
    np.testing.assert_array_equal(array(tmp_path / "still.nii.gz"), array(image))
    exact = array(sitk.Resample(sitk.Cast(image, sitk.sitkFloat64), image, moved.to_itk(), sitk.sitkLinear, -500.0))
    np.testing.assert_allclose(array(tmp_path / "part.nii.gz"), exact, atol=0.501)


def test_formats_of_two_files_and_permissions(done, pair, shell, tmp_path):
    command = ["apply", "--transform", done / "transform.h5", "--input", pair["moving"], "--reference", pair["fixed"]]
    before = os.umask(0o077)
    try:
        for ending in ("mhd", "nhdr", "img"):
            out = tmp_path / ending / f"out.{ending}"
            out.parent.mkdir()
            for more in ([], ["--overwrite"]):
                assert shell(*command, "--output", out, *more)[0] == 0
            there = sorted(out.parent.iterdir())
            assert len(there) == 2 and all(path.name.startswith("out.") for path in there)
            assert all(path.stat().st_mode & 0o777 == 0o600 for path in there)
            moved = shutil.move(out.parent, tmp_path / f"moved {ending}")
            np.testing.assert_allclose(array(Path(moved) / out.name), array(done / "warped.nii.gz"), atol=1e-3)
    finally:
        os.umask(before)


def test_labels(done, pair, shell, tmp_path):
    output = tmp_path / "labels.nrrd"
    command = ["apply", "--transform", done / "transform.h5", "--input", pair["moving_labels"], "--labels"]
    assert shell(*command, "--reference", pair["fixed"], "--output", output)[0] == 0
    assert (array(output) != array(done / "warped_labels.nii.gz")).mean() < 1e-3
    assert set(np.unique(array(output))) == {0, 1, 2}


def test_an_image_that_the_transform_does_not_reach(done, pair, refused, tmp_path):
    """Of another place: an image of nothing would be written without a word."""
    away = sitk.ReadImage(str(pair["moving"]))
    away.SetOrigin([value + 900 for value in away.GetOrigin()])
    far = write(away, tmp_path / "far.nii.gz")
    command = ["apply", "--transform", done / "transform.h5", "--reference", pair["fixed"], "--input", far]
    refused(*command, words=("the transform leads no voxel of", "into it"))


def test_the_other_way(done, pair, shell, tmp_path):
    """The fixed image on the moving one: the inverse of the transform."""
    output = tmp_path / "back.mha"
    command = ["apply", "--transform", done / "inverse_transform.h5", "--input", pair["fixed"]]
    assert shell(*command, "--reference", pair["moving"], "--output", output)[0] == 0
    moving = sitk.ReadImage(str(pair["moving"]))
    assert sitk.ReadImage(str(output)).GetSize() == moving.GetSize()
    points = voxel_centers(files.grid_of(moving)).reshape(-1, 3)
    transform = sitk.ReadTransform(str(done / "inverse_transform.h5"))
    scene = small_scene(20)
    expected = scene.intensity(through(transform, points))
    seen = scene.inside(through(transform, points))[0] > 0.9
    found = array(output).reshape(-1)
    assert np.corrcoef(found[seen], expected[seen])[0, 1] > 0.95


FORMATS = {
    "csv": lambda p: "x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in p),
    "fcsv": lambda p: (
        "# CoordinateSystem = LPS\n# columns = id,x,y,z\n"
        + "".join(f"n{i},{x},{y},{z},0,0,0,1\n" for i, (x, y, z) in enumerate(p))
    ),
    "vtk": lambda p: (
        f"# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\nPOINTS {len(p)} float\n"
        + "\n".join(f"{x} {y} {z}" for x, y, z in p)
    ),
}


@pytest.mark.parametrize("kind", ["csv", "fcsv", "vtk", "mrk.json"])
def test_points(done, pair, shell, tmp_path, kind):
    fixed = sitk.ReadImage(str(pair["fixed"]))
    points = body(fixed, small_scene(20))[::40]
    source = tmp_path / f"points.{kind}"
    if kind == "mrk.json":
        write_points(points, source)
    else:
        source.write_text(FORMATS[kind](points.tolist()))
    there, back = tmp_path / "there.csv", tmp_path / "back.mrk.json"
    command = ["apply", "--points", "--transform", done / "transform.h5", "--input", source]
    assert shell(*command, "--output", there)[0] == 0
    expected = through(sitk.ReadTransform(str(done / "transform.h5")), points)
    np.testing.assert_allclose(read_points(there), expected, atol=1e-4)
    assert np.linalg.norm(expected - points, axis=1).max() > 1
    command = ["apply", "--points", "--transform", done / "inverse_transform.h5", "--input", there]
    assert shell(*command, "--output", back)[0] == 0
    miss = np.linalg.norm(read_points(back) - points, axis=1) / 2.3
    assert miss.mean() <= 0.1 and miss.max() <= 0.5


def test_refused(done, pair, refused, shell, tmp_path):
    image = ["--input", pair["moving"], "--reference", pair["fixed"]]
    transform = ["--transform", done / "transform.h5"]
    refused("apply", *transform, *image[:2], words=("--reference",), output=tmp_path / "a.nii")
    none = tmp_path / "none.h5"
    refused("apply", "--transform", none, *image, words=(str(none), "transform.h5"), output=tmp_path / "a.nii")
    for output, words in (
        (tmp_path / "x" / "a.nii", ("no such folder", "create it")),
        (Path("/proc/a.nii"), ("/proc/a.nii", "cannot be written")),
        (tmp_path / "a.xyz", (str(tmp_path / "a.xyz"), "cannot be written", "'.xyz'", ".nii.gz")),
        (tmp_path / "a.png", (str(tmp_path / "a.png"), "cannot be written", "'.png'", ".nii.gz")),
        (tmp_path / "a", (f"{tmp_path / 'a'}: cannot be written", "ending ''", ".nii.gz")),
    ):
        refused("apply", *transform, *image, words=words, output=output)
    points = tmp_path / "p.csv"
    points.write_text("1,2,3\n")
    wrong = tmp_path / "p.txt"
    refused("apply", *transform, "--input", points, "--points", words=(str(wrong), ".csv or .mrk.json"), output=wrong)
    nothing = write(sitk.ReadImage(str(pair["moving"]), sitk.sitkFloat32) * np.nan, tmp_path / "nothing.nii.gz")
    arguments = [*transform, "--input", nothing, "--reference", pair["fixed"]]
    refused("apply", *arguments, words=(str(nothing), "no voxel with a finite value"), output=tmp_path / "b.nii")
    halves = write(sitk.ReadImage(str(pair["moving"])) * 0.01, tmp_path / "halves.nii.gz")
    arguments = [*transform, "--input", halves, "--labels", "--reference", pair["fixed"]]
    refused("apply", *arguments, words=(str(halves), "fractions"), output=tmp_path / "a.nii")
    code, _, error = shell("apply", *transform, *image, "--labels", "--points", "--output", tmp_path / "a.nii")
    assert code == 2 and "not allowed with" in error


@pytest.mark.parametrize("kind", ["cut", "text", "flat"])
def test_bad_transforms(done, pair, refused, tmp_path, kind):
    bad = tmp_path / "bad.h5"
    if kind == "cut":
        data = (done / "transform.h5").read_bytes()
        bad.write_bytes(data[: len(data) // 2])
    elif kind == "text":
        bad.write_text("hello")
    else:
        sitk.WriteTransform(sitk.TranslationTransform(2, (1, 2)), str(bad))
    for extra in (["--points"], ["--reference", pair["fixed"]]):
        source = pair["moving"] if extra[0] == "--reference" else tmp_path / "p.csv"
        (tmp_path / "p.csv").write_text("1,2,3\n")
        words = (str(bad), "name the transform.h5 or inverse_transform.h5 of a result")
        refused("apply", "--transform", bad, "--input", source, *extra, words=words, output=tmp_path / "o.csv")
