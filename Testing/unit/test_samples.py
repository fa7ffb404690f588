"""The sample data: whole, made by the command that says so, and honest about which points belong together."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlretrieve

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib.errors import InputError
from JointRegSegLib.files import grid_of, read_image
from JointRegSegLib.points import read_points
from JointRegSegLib.samples import FOLDER, INDEX, Sample, samples

MAKER = Path(__file__).resolve().parents[2] / "Resources" / "make_sample_data.py"
ROLES = ("fixed", "moving", "fixed_points", "moving_points")


@pytest.fixture(scope="module")
def sample() -> Sample:
    (only,) = samples()
    return only


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("samples")
    runpy.run_path(str(MAKER))["make"](folder)
    (only,) = samples(folder)
    return only


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "copy"))


def test_the_files_are_whole_and_small(sample):
    assert sorted(file.role for file in sample.files) == sorted(ROLES)
    for file in sample.files:
        assert file.verified().stat().st_size < 1_500_000
    assert {path.name for path in FOLDER.iterdir()} == {
        INDEX,
        sample.thumbnail.name,
        *(file.path.name for file in sample.files),
    }


def test_they_are_what_the_command_makes(sample, made):
    """Other versions of the libraries may compress and round in another way; what is said is the same."""
    for role in ("fixed", "moving"):
        ours, theirs = (sitk.ReadImage(str(s[role].path)) for s in (sample, made))
        assert grid_of(ours).matches(grid_of(theirs), tolerance=1e-9)
        assert np.abs(sitk.GetArrayFromImage(ours).astype(int) - sitk.GetArrayFromImage(theirs)).max() <= 1
    for role in ("fixed_points", "moving_points"):
        np.testing.assert_allclose(*(read_points(s[role].path) for s in (sample, made)), atol=1e-6)
    for ours, theirs in zip(sample.files, made.files, strict=True):
        assert (ours.path.name, ours.role, ours.kind, ours.node) == (
            theirs.path.name,
            theirs.role,
            theirs.kind,
            theirs.node,
        )
        assert theirs.verified() == theirs.path


def test_the_command_makes_the_same_bytes_again(made, tmp_path):
    runpy.run_path(str(MAKER))["make"](tmp_path)
    for path in made.thumbnail.parent.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_lattices_are_oblique_anisotropic_and_differ(sample):
    fixed, moving = (grid_of(read_image(sample[role].path)) for role in ("fixed", "moving"))
    assert (fixed.orientation, moving.orientation) == ("LPS", "AIL")
    for grid in (fixed, moving):
        assert grid.spacing.max() > 1.2 * grid.spacing.min()
        assert (np.abs(grid.direction).max(0) < 0.9995).all()


def test_the_points_lie_in_their_volumes_and_have_to_be_registered(sample):
    points = {side: read_points(sample[f"{side}_points"].path) for side in ("fixed", "moving")}
    for side, places in points.items():
        assert grid_of(read_image(sample[side].path)).contains(places).all()
    distances = np.linalg.norm(points["fixed"] - points["moving"], axis=1)
    assert len(distances) >= 40
    assert distances.mean() > 5  # mm


@pytest.mark.parametrize("role", ROLES)
def test_a_damaged_file_is_refused_by_name(copied, role):
    (sample,) = samples(copied)
    path = sample[role].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}: does not match its checksum"):
        sample[role].verified()
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        sample[role].verified()


@pytest.mark.parametrize("text", ["", '{"name": "x"}', '[{"name": "x"}]', "[1]"])
def test_a_damaged_index_is_refused(copied, text):
    (copied / INDEX).write_text(text)
    with pytest.raises(InputError, match=INDEX):
        samples(copied)


def test_no_folder_is_no_samples(tmp_path):
    assert samples(tmp_path) == []


def test_the_sample_data_module_can_fetch_what_it_is_told(sample, tmp_path):
    source = sample.source()
    lists = [source[key] for key in ("uris", "fileNames", "nodeNames", "checksums", "loadFileType")]
    for uri, name, _, checksum, kind in zip(*lists, strict=True):
        fetched, _ = urlretrieve(uri, tmp_path / name)
        (file,) = (f for f in sample.files if f.path.name == name)
        assert Path(fetched).read_bytes() == file.path.read_bytes()
        assert checksum == f"SHA256:{file.sha256}"
        assert kind == {"fixed": "VolumeFile", "moving": "VolumeFile"}.get(file.role, "MarkupsFile")
    assert Path(source["thumbnailFileName"]).read_bytes().startswith(b"\x89PNG")
    assert all(name.startswith("JointRegSeg") for name in source["fileNames"])  # one cache for all modules


def test_reading_the_list_imports_nothing_heavy():
    code = "import json, sys; from JointRegSegLib.samples import samples; samples(); print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "SimpleITK", "scipy"}.isdisjoint(json.loads(done.stdout))
