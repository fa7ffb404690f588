"""Volumes, landmarks and transforms on disk, as other programs write and read them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.points import read_points, write_points
from samples import array, fixed_grid, label_map, moving_grid, thing, volume, write

POINTS = np.array([[1.5, -2.25, 3.0], [-100.125, 40.0, 1200.5]])


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
@pytest.mark.parametrize("grid", [fixed_grid(), moving_grid()], ids=["oblique", "flipped"])
def test_formats_keep_voxels_and_place(tmp_path, ending, grid):
    image = volume(thing(), grid, dtype=np.int16)
    read = files.read_image(write(image, tmp_path / f"image.{ending}"))
    assert np.array_equal(array(read), array(image))
    assert files.grid_of(read).matches(grid, 1e-3)
    files.write_image(read, tmp_path / f"again.{ending}")
    again = sitk.ReadImage(str(tmp_path / f"again.{ending}"))
    assert np.array_equal(array(again), array(image))
    assert files.grid_of(again).matches(grid, 1e-3)


@pytest.mark.parametrize("named", ["hdr", "img"])
def test_header_and_voxels_of_their_own(tmp_path, named):
    """As SPM and older cohorts have them: what is cut off, or has no value, is told; and either file may change."""
    image = volume(thing(), fixed_grid())
    write(image, tmp_path / "two.hdr")
    path, voxels = tmp_path / f"two.{named}", tmp_path / "two.img"
    assert np.array_equal(array(files.read_image(path)), array(image))
    stamp = files.stamp(path)
    os.utime(tmp_path / "two.hdr", ns=(1, 2**62))
    assert files.stamp(path) != stamp
    content = voxels.read_bytes()
    voxels.write_bytes(np.float32(np.nan).tobytes() + content[4:])
    with pytest.raises(InputError, match="1 voxels are NaN"):
        files.read_image(path)
    voxels.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cut off or damaged"):
        files.read_image(path)


def write_series(
    folder: Path, writer: sitk.ImageFileWriter, places: np.ndarray, grid: Grid, values: np.ndarray
) -> None:
    """Slices (n, h, w) whose first voxels lie at ``places`` (n, 3) mm, in the directions of a grid, out of order."""
    series, study = ("1.2.826.0.1.3680043.2.1125." + str(time.time_ns())[-9:] + end for end in (".1", ".2"))
    folder.mkdir(exist_ok=True)
    cosines = "\\".join(f"{x:.10g}" for x in (*grid.direction[:, 0], *grid.direction[:, 1]))
    for name, k in enumerate(np.random.default_rng(0).permutation(len(places)).tolist()):
        slice_ = sitk.GetImageFromArray(values[k])
        tags = {
            "0008|0060": "CT",
            "0020|000e": series,
            "0020|000d": study,
            "0008|0018": f"{series}.{k + 1}",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{x:.8g}" for x in places[k]),
            "0020|0037": cosines,
            "0018|0050": "3.1",
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        slice_.SetSpacing(grid.spacing[:2].tolist())
        writer.SetFileName(str(folder / f"{name:03d}.dcm"))
        writer.Execute(slice_)


def test_dicom_series(dicom_writer, tmp_path):
    """Oblique slices, written out of order, in a folder."""
    grid = fixed_grid()
    image = volume(thing(), grid, dtype=np.int16)
    places = grid.to_world([(0, 0, k) for k in range(grid.size[2])])
    write_series(tmp_path / "slices", dicom_writer, places, grid, array(image))
    read = files.read_image(tmp_path / "slices")
    assert np.array_equal(array(read), array(image))
    assert files.grid_of(read).matches(grid, 0.01)


def test_dicom_slices_that_are_no_lattice(dicom_writer, tmp_path):
    """ITK reads each of them as a lattice of wrong size or shape."""
    grid = fixed_grid()
    values = array(volume(thing(), grid, dtype=np.int16))
    places = grid.to_world([(0, 0, k) for k in range(grid.size[2])])
    step = grid.direction[:, 1] * grid.spacing[2] * np.tan(np.deg2rad(15))
    for name, chosen, moved, words in (
        ("gap", [k for k in range(len(places)) if k not in (3, 4)], 0, "some are missing or unevenly spaced"),
        ("gap at the end", [k for k in range(len(places)) if k != len(places) - 2], 0, "some are missing"),
        ("phases", [0, 0, 1, 1, 2, 2, 3, 3], 0, "at places of others"),
        ("one place", [2, 2, 2], 0, "at places of others"),
        ("tilt", list(range(len(places))), np.arange(len(places))[:, None] * step, "gantry tilt"),
    ):
        write_series(tmp_path / name, dicom_writer, (places + moved)[chosen], grid, values[chosen])
        with pytest.raises(InputError, match=words):
            files.read_image(tmp_path / name)


def test_all_frames_in_one_dicom_file(tmp_path):
    image = sitk.Cast(volume(thing(), fixed_grid(), dtype=np.int16), sitk.sitkUInt16)
    (tmp_path / "frames").mkdir()
    sitk.WriteImage(image, str(tmp_path / "frames" / "all.dcm"))
    alone = files.read_image(tmp_path / "frames" / "all.dcm")
    assert np.array_equal(array(files.read_image(tmp_path / "frames")), array(alone))


def test_label_types(tmp_path):
    labels = label_map(thing(), fixed_grid())
    as_float = write(sitk.Cast(labels, sitk.sitkFloat64), tmp_path / "float.nii.gz")
    read = files.read_image(as_float, labels=True)
    assert read.GetPixelID() == sitk.sitkUInt8 and np.array_equal(array(read), array(labels))
    many = sitk.Cast(labels, sitk.sitkInt32) * 1000
    assert files.read_image(many, labels=True).GetPixelID() == sitk.sitkUInt16
    assert np.array_equal(array(files.read_image(many, labels=True)), array(many))
    with pytest.raises(InputError, match="0 to 140000"):
        files.read_image(many * 70, labels=True)


def test_labels_may_lie_a_hair_off(tmp_path):
    image, labels = volume(thing(), fixed_grid()), label_map(thing(), fixed_grid())
    labels.SetOrigin([x + 0.005 for x in labels.GetOrigin()])  # as rounding in a header does
    assert np.array_equal(array(files.read_labels(labels, image, "fixed")), array(labels))


@pytest.mark.parametrize("name", ["p.csv", "p.mrk.json"])
def test_points_round_trip(tmp_path, name):
    write_points(POINTS, tmp_path / name)
    np.testing.assert_allclose(read_points(tmp_path / name), POINTS)


def markups(system: str | None) -> str:
    markup = {"type": "Fiducial", "controlPoints": [{"position": p} for p in POINTS.tolist()]}
    return json.dumps({"markups": [markup | ({"coordinateSystem": system} if system else {})]})


def fiducials(system: str | None) -> str:
    line = f"# CoordinateSystem = {system}\n" if system else ""
    rows = [f"vtkMRMLMarkupsFiducialNode_{i},{x},{y},{z},0,0,0,1,1,1,0,F-{i},," for i, (x, y, z) in enumerate(POINTS)]
    return "# Markups fiducial file version = 4.11\n" + line + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "system"),
    [
        ("p.csv", "x,y,z\n1.5,-2.25,3\n-100.125,40,1200.5\n", "LPS"),
        ("p.csv", "1.5,-2.25,3\n\n-100.125,40,1200.5\n", "LPS"),
        ("p.csv", "# by hand\nname,Z, X ,Y\na,3,1.5,-2.25\nb,1200.5,-100.125,40\n", "LPS"),
        ("p.csv", "\ufeffx,y,z\r\n1.5,-2.25,3\r\n-100.125,40,1200.5\r\n", "LPS"),
        ("p.mrk.json", markups("LPS"), "LPS"),
        ("p.mrk.json", markups("RAS"), "RAS"),
        ("p.mrk.json", markups(None), "LPS"),
        ("p.fcsv", fiducials("LPS"), "LPS"),
        ("p.fcsv", fiducials("RAS"), "RAS"),
        ("p.fcsv", fiducials("0"), "RAS"),
        ("p.fcsv", fiducials("1"), "LPS"),
        ("p.fcsv", fiducials(None), "RAS"),
        (
            "p.vtk",
            "# vtk\nt. SPACE=RAS\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n1.5 -2.25 3\n-100.125 40 1200.5",
            "RAS",
        ),
        ("p.vtk", "# vtk\nt\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n1.5 -2.25 3 -100.125\n40 1200.5\nLINES 0", "LPS"),
    ],
)
def test_points_as_others_write_them(tmp_path, name, text, system):
    (tmp_path / name).write_text(text, encoding="utf-8")
    np.testing.assert_allclose(read_points(tmp_path / name), POINTS * ([-1, -1, 1] if system == "RAS" else 1))


def test_points_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"\.csv or \.mrk\.json"):
        write_points(POINTS, tmp_path / "p.vtk")
    with pytest.raises(OutputError, match="No such file or directory"):
        write_points(POINTS, tmp_path / "none" / "p.csv")


def test_transform_round_trip(tmp_path):
    field = volume(thing(), fixed_grid(), dtype=np.float64) * 0.01
    bend = sitk.DisplacementFieldTransform(sitk.Compose(field, -field, field * 2))
    transform = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3)), bend])
    points = [tuple(p) for p in thing().centers]
    expected = [transform.TransformPoint(p) for p in points]
    files.write_transform(transform, tmp_path / "t.h5")
    read = files.read_transform(tmp_path / "t.h5")
    np.testing.assert_allclose([read.TransformPoint(p) for p in points], expected)
    assert np.abs(np.array(expected) - points - [1, 2, 3]).max() > 0.1
