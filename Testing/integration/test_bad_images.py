"""Images that cannot be registered: one line that names the file and the cure, exit code 2, nothing written."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import files, pipeline, register
from JointRegSegLib.errors import InputError
from samples import array, fixed_grid, thing, volume, write

SIZE = (12, 14, 16)


def plain(size: tuple[int, ...] = SIZE, kind: type = np.float32) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, size[::-1]).astype(kind))
    image.SetSpacing([1.0, 1.5, 2.0, 1.0][: len(size)])
    return image


def header(path: Path, *edits: tuple) -> Path:
    """A NIfTI file with parts of its header replaced: offset, struct format, values."""
    data = path.read_bytes()
    raw = bytearray(gzip.decompress(data) if path.suffix == ".gz" else data)
    for offset, kind, *values in edits:
        struct.pack_into("<" + kind, raw, offset, *values)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def damaged(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def with_value(value: float, folder: Path) -> Path:
    voxels = array(plain())
    voxels[3, 4, 5] = value
    return write(sitk.GetImageFromArray(voxels), folder / "value.nii.gz")


def speckled(count: int, folder: Path) -> Path:
    """An image with so many voxels above its minimum."""
    voxels = np.full(SIZE[::-1], -3, np.float32)
    voxels.flat[5 : 5 + count] = 7
    return write(sitk.GetImageFromArray(voxels), folder / "speckled.nii.gz")


def text(path: Path) -> Path:
    path.write_text("not an image\n" * 50)
    return path


def edited(path: Path, pattern: str, replacement: str) -> Path:
    """A NRRD or MetaImage file with a line of its header replaced."""
    path.write_bytes(re.sub(pattern.encode(), replacement.encode(), path.read_bytes(), count=1))
    return path


SPACING, OFFSET, CODES, SFORM = 76, 108, 252, 280
BAD = {
    "missing": (lambda d: d / "none.nii.gz", ["no such file", "check the path"]),
    "text": (lambda d: text(d / "text.nii.gz"), ["cannot be read"]),
    "text-nrrd": (lambda d: text(d / "text.nrrd"), ["cannot be read"]),
    "no-bytes": (lambda d: cut(write(plain(), d / "a.nii.gz"), 0), ["cannot be read"]),
    "cut-nii": (lambda d: cut(write(plain(), d / "a.nii")), ["cut off or damaged"]),
    "cut-gz": (lambda d: cut(write(plain(), d / "a.nii.gz")), ["cut off or damaged"]),
    "cut-tail": (lambda d: cut(write(plain(), d / "a.nii.gz"), 0.999), ["cut off or damaged"]),
    "damaged-gz": (lambda d: damaged(write(plain(), d / "a.nii.gz")), ["cut off or damaged"]),
    "cut-nrrd": (lambda d: cut(write(plain(), d / "a.nrrd")), ["cannot be read"]),
    "cut-mha": (lambda d: cut(write(plain(), d / "a.mha")), ["cannot be read"]),
    "2D": (lambda d: write(plain((20, 30)), d / "a.nii.gz"), ["2D", "3D volume is needed"]),
    "4D": (lambda d: write(sitk.JoinSeries([plain()] * 3), d / "a.nii.gz"), ["4D", "time series"]),
    "RGB": (
        lambda d: write(sitk.Image(SIZE, sitk.sitkVectorUInt8, 3), d / "a.nrrd"),
        ["3 values a voxel", "scalar volume"],
    ),
    "vector": (lambda d: write(sitk.Image(SIZE, sitk.sitkVectorFloat32, 2), d / "a.nii.gz"), ["2 values a voxel"]),
    "complex": (lambda d: write(sitk.Image(SIZE, sitk.sitkComplexFloat32), d / "a.nii"), ["complex", "magnitude"]),
    "one-slice": (lambda d: write(plain((20, 30, 1)), d / "a.nii.gz"), ["one slice", "20 x 30 x 1"]),
    "empty": (lambda d: write(sitk.Image(SIZE, sitk.sitkInt16), d / "a.nii.gz"), ["every voxel is 0"]),
    "constant": (lambda d: write(sitk.Image(SIZE, sitk.sitkInt16) + 7, d / "a.nii.gz"), ["every voxel is 7"]),
    "NaN": (lambda d: with_value(np.nan, d), ["1 voxels are NaN", "(5, 4, 3)", "--fill"]),
    "infinite": (lambda d: with_value(-np.inf, d), ["1 voxels are NaN or infinite", "(5, 4, 3)", "--fill"]),
    "spacing-0": (lambda d: header(write(plain(), d / "a.nii"), (SPACING + 4, "f", 0)), ["0 x 1.5 x 2", "header"]),
    "spacing-negative": (
        lambda d: header(write(plain(), d / "a.nii.gz"), (SPACING + 8, "f", -1.5)),
        ["1 x -1.5 x 2", "header"],
    ),
    "spacing-nan": (lambda d: header(write(plain(), d / "a.nii"), (SPACING + 12, "f", np.nan)), ["nan", "header"]),
    "spacing-huge": (lambda d: header(write(plain(), d / "a.nii"), (SPACING + 4, "f", 1e30)), ["1e+30 mm", "header"]),
    "direction-mha": (
        lambda d: edited(write(plain(), d / "a.mha"), "(TransformMatrix = ).*", r"\g<1>1 0 0 1 0 0 0 0 1"),
        ["not orthonormal"],
    ),
    "shades": (
        lambda d: write(sitk.Cast(plain(), sitk.sitkFloat64) * 1e-3 + 1e9, d / "a.nrrd"),
        ["around 1e+09", "subtract"],
    ),
    "spacing-0-mha": (lambda d: edited(write(plain(), d / "a.mha"), "(ElementSpacing = ).*", r"\1 0 1 2"), ["spacing"]),
    "spacing-negative-mha": (
        lambda d: edited(write(plain(), d / "a.mha"), "(ElementSpacing = ).*", r"\1 1 -1.5 2"),
        ["spacing", "header"],
    ),
    "spacing-words-mha": (
        lambda d: edited(write(plain(), d / "a.mha"), "(ElementSpacing = ).*", r"\1one one one"),
        ["header is damaged", "'one one one'"],
    ),
    "spacing-pieces-mha": (
        lambda d: edited(write(plain(), d / "a.mha"), "(ElementSpacing = ).*", r"\g<1>1 e 1"),
        ["header is damaged", "'1 e 1'"],
    ),
    "offset-nan": (lambda d: header(write(plain(), d / "a.nii"), (OFFSET, "f", np.nan)), ["header is damaged", "nan"]),
    "offset-inf": (lambda d: header(write(plain(), d / "a.nii.gz"), (OFFSET, "f", np.inf)), ["header is damaged"]),
    "offset-huge": (lambda d: header(write(plain(), d / "a.nii"), (OFFSET, "f", 1e30)), ["header is damaged"]),
    "offset-negative": (lambda d: header(write(plain(), d / "a.nii"), (OFFSET, "f", -100)), ["header is damaged"]),
    "nearly-empty": (lambda d: speckled(9, d), ["is empty but for 9 voxels", "right file"]),
    "too-large": (lambda d: write(plain() * 1e35, d / "a.nii.gz"), ["values beyond 1e+35", "rescale"]),
    "sheared-nii": (
        lambda d: header(
            write(plain(), d / "a.nii.gz"),
            (CODES, "hh", 0, 1),
            (SFORM, "12f", 1, 0.5, 0, 0, 0, 1.5, 0, 0, 0, 0, 2, 0),
        ),
        ["not orthonormal", "resample"],
    ),
    "sheared-nrrd": (
        lambda d: edited(write(plain(), d / "a.nrrd"), r"(space directions: ).*", r"\1(1,0,0) (0.6,1.5,0) (0,0,2)"),
        ["not orthonormal", "resample"],
    ),
    "empty-folder": (lambda d: d, ["no DICOM series"]),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_refused(kind, side, refused, pair, tmp_path):
    make, words = BAD[kind]
    (tmp_path / "bad").mkdir()
    bad = make(tmp_path / "bad")
    other = {"fixed": "moving", "moving": "fixed"}[side]
    refused("register", f"--{side}", bad, f"--{other}", pair[other], words=(str(bad), *words))


def test_the_same_files_undamaged_are_read(tmp_path):
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha"):
        assert np.array_equal(array(files.read_image(write(plain(), tmp_path / name))), array(plain()))


def test_big_endian_and_unpacked_and_second_version(tmp_path):
    raw = bytearray(write(plain(kind=np.int16), tmp_path / "a.nii").read_bytes())
    (tmp_path / "unpacked.nii.gz").write_bytes(raw)  # in spite of its name; ITK reads it
    assert np.array_equal(array(files.read_image(tmp_path / "unpacked.nii.gz")), array(plain()))
    swapped = bytearray(len(raw))
    swapped[:] = raw
    for offset, kind in ((0, "i"), (40, "8h"), (70, "hhh"), (76, "8f"), (108, "fff"), (252, "hh"), (256, "18f")):
        struct.pack_into(">" + kind, swapped, offset, *struct.unpack_from("<" + kind, raw, offset))
    swapped[352:] = array(plain(kind=np.int16)).astype(">i2").tobytes()
    (tmp_path / "big.nii").write_bytes(swapped)
    assert np.array_equal(array(files.read_image(tmp_path / "big.nii")), array(plain()))
    with pytest.raises(InputError, match="cut off"):
        files.read_image(cut(tmp_path / "big.nii", 0.8))
    second = bytearray(540 + 4) + raw[352:]
    struct.pack_into("<i8s2h", second, 0, 540, b"n+2\0\r\n\032\n", 4, 16)
    struct.pack_into("<8q", second, 16, 3, *SIZE, 1, 1, 1, 1)
    struct.pack_into("<8d", second, 104, 1, 1, 0, 2, 0, 0, 0, 0)
    struct.pack_into("<q", second, 168, 544)
    (tmp_path / "second.nii").write_bytes(second)
    with pytest.raises(InputError, match="1 x 0 x 2 mm"):
        files.read_image(tmp_path / "second.nii")


def test_fill_replaces_what_is_no_number(installed, shell, pair, tmp_path):
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(pair["moving"])))
    voxels[2, 3, 4], voxels[5, 5, 5] = np.nan, np.inf
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(sitk.ReadImage(str(pair["moving"])))
    bad = write(image, tmp_path / "bad.nii.gz")
    filled = files.read_image(bad, fill=-3.5)
    assert array(filled)[2, 3, 4] == array(filled)[5, 5, 5] == -3.5
    assert (array(filled) != voxels).sum() == 2
    assert files.grid_of(filled).matches(files.grid_of(image), 1e-6)
    arguments = ["--fixed", pair["fixed"], "--moving", bad, "--model", "tiny-blobs", "--fill", "-3.5"]
    assert shell("register", *arguments, "--output", tmp_path / "out")[0] == 0
    assert np.isfinite(array(tmp_path / "out" / "warped.nii.gz")).all()


def test_a_value_that_does_not_fit_is_refused_without_further_ado(tmp_path):
    """Warnings are errors here."""
    with pytest.raises(InputError, match=r"1e[+]300 does not fit into its float32 voxels"):
        files.read_image(with_value(np.nan, tmp_path), fill=1e300)


def test_ten_voxels_are_something_and_one_label_is_a_label(tmp_path):
    assert files.read_image(speckled(10, tmp_path)).GetSize() == SIZE
    one = sitk.Image(SIZE, sitk.sitkUInt8)
    one[3, 4, 5] = 1
    assert array(files.read_image(one, labels=True)).sum() == 1


@pytest.mark.parametrize("unit", [1e-12, 1e30])
def test_the_unit_of_intensities_does_not_matter(pair, unit):
    fixed, moving = (sitk.ReadImage(str(pair[side]), sitk.sitkFloat64) for side in ("fixed", "moving"))
    found = [
        register(sitk.Cast(fixed * factor, sitk.sitkFloat32), moving, align="center", working_size=16)
        for factor in (1.0, unit)
    ]
    once, again = (array(result.displacement) for result in found)
    assert np.abs(once).max() > 1
    # The last bits of the intensities differ, and an optimization passes that on.
    assert np.abs(once - again).mean() < 0.05
    once, again = (result.report["quality"]["similarity"]["correlation"] for result in found)
    assert once["before"] == pytest.approx(again["before"], abs=1e-4)
    assert once["after"] == pytest.approx(again["after"], abs=1e-2)


def test_a_deformation_that_is_no_number_goes_no_further(installed, pair, monkeypatch):
    real = pipeline.by_model

    def breaks(*arguments, **options):
        estimate = real(*arguments, **options)
        estimate.deformation.displacement[0, 0, 3, 4, 5] = float("nan")
        return estimate

    monkeypatch.setattr(pipeline, "by_model", breaks)
    with pytest.raises(InputError, match="no finite deformation"):
        register(pair["fixed"], pair["moving"], "tiny-blobs")


def test_several_dicom_series(dicom_writer, refused, pair, tmp_path):
    folder = tmp_path / "dicom"
    folder.mkdir()
    for series in "12":
        for i in range(3):
            image = sitk.GetImageFromArray(np.full((1, 8, 8), i, np.int16))
            image.SetMetaData("0008|0060", "CT")
            image.SetMetaData("0020|000e", f"1.2.3.{series}")
            image.SetMetaData("0020|0013", str(i))
            dicom_writer.SetFileName(str(folder / f"{series}{i}.dcm"))
            dicom_writer.Execute(image)
    refused("register", "--fixed", folder, "--moving", pair["moving"], words=(str(folder), "2 DICOM series", "one"))


def test_images_in_memory_are_named(pair):
    good = volume(thing(), fixed_grid())
    with pytest.raises(InputError, match="moving image: is empty"):
        register(good, good * 0)
    with pytest.raises(InputError, match=r"fixed image: .* NaN"):
        register(sitk.Sqrt(good * 0 - 1), good)
    with pytest.raises(InputError, match=r"moving label map: .*fractions"):
        register(good, good, moving_labels=good)
    with pytest.raises(InputError, match="fixed image: is a NoneType; give a path"):
        register(None, good)
    with pytest.raises(InputError, match="moving image: is a SimpleITK label map"):
        register(good, sitk.Cast(sitk.Cast(good, sitk.sitkUInt8), sitk.sitkLabelUInt8))
    with pytest.raises(InputError, match="fixed image: its path is empty"):
        register("", good)
