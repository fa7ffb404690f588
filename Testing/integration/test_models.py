"""Installed models: found by name or folder, loaded once, listed; a damaged one does not take the others away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from JointRegSegLib import catalog, listing, models
from JointRegSegLib.errors import ModelError


@pytest.fixture
def second(installed, tmp_path, monkeypatch):
    """Another folder with a copy under another name, searched first."""
    folder = tmp_path / "more" / "copy"
    shutil.copytree(installed.folder, folder)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    manifest |= {"name": "another-one", "title": "Another"}
    (folder / "model.json").write_text(json.dumps(manifest))
    paths = [str(folder.parent), os.environ[catalog.FOLDERS_VARIABLE]]
    monkeypatch.setenv(catalog.FOLDERS_VARIABLE, os.pathsep.join(paths))
    return folder


def test_found_by_name_and_by_folder(installed, second):
    names = [b.name for b in models.installed()]
    assert names == sorted(names) and {"another-one", "tiny-blobs"} <= set(names)
    assert models.find("tiny-blobs").folder == installed.folder
    assert models.find("another-one").folder == second  # whose folder is called otherwise
    assert models.find(second).name == "another-one"
    assert models.find(str(second)).name == "another-one"
    with pytest.raises(ModelError, match="no model ''"):
        models.find("")


def test_of_two_with_one_name_the_first_counts(installed, second):
    manifest = json.loads((second / "model.json").read_text(encoding="utf-8")) | {"name": "tiny-blobs"}
    (second / "model.json").write_text(json.dumps(manifest))
    assert [b.folder for b in models.installed() if b.name == "tiny-blobs"] == [second]
    assert models.find("tiny-blobs").folder == second  # though there is a folder of that name


def test_loaded_once_and_again_when_it_changed(installed, second):
    bundle = models.find("another-one")
    network = models.load(bundle)
    assert models.load(bundle) is network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(p.dtype == torch.float32 for p in network.parameters())
    with (second / "weights.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ModelError, match="does not match the checksum"):
        models.load(bundle)


def test_written_and_read_back(installed, tmp_path):
    network = models.load(installed)
    copy = models.write_bundle(tmp_path / "deep" / "copy", installed.manifest, network)
    assert copy.manifest == installed.manifest
    for name, value in models.load(copy).state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    assert copy.label_values == [1, 2]
    assert copy.preprocessing.size == (16, 16, 16)


def test_preprocessing_that_does_not_exist(installed):
    with pytest.raises(ValueError, match="unknown intensity preprocessing 'window'; known: zscore"):
        replace(installed.preprocessing, intensity="window")
    with pytest.raises(ValueError, match="not 'corner'"):
        replace(installed.preprocessing, alignment="corner")


@pytest.mark.parametrize("refinement", [{"window": 4}, {"similarity": "mi"}])
def test_refinement_that_could_not_be_done(installed, tmp_path, refinement):
    """An even window has no middle, and what is optimized is for the user to say."""
    with pytest.raises(ModelError, match="refinement"):
        models.write_bundle(tmp_path / "b", installed.manifest | {"refinement": refinement}, models.load(installed))


def test_list(installed, shell):
    code, said, error = shell("models")
    assert (code, error) == (0, "")
    entry = said[said.index("tiny-blobs") :]
    for words in (
        "formula, blob; 16 x 16 x 16 voxels of 2 x 2 x 2 mm",
        "left blob, right blob",
        "license: CC0-1.0",
        "of the hardest 30 % of pairs 0.",
        " s\n",
    ):
        assert words in entry
    assert said.startswith("generic\n") and "this computer" not in said


def test_measured(installed, shell):
    code, said, _ = shell("models", "--measure")
    assert code == 0
    line = next(x for x in said[said.index("tiny-blobs") :].splitlines() if "this computer" in x)
    assert float(line.split()[2]) < 30
    assert 0 < listing.seconds(installed) < 30


def test_a_damaged_bundle_is_named_and_left_out(installed, second, shell):
    (second / "model.json").write_text("{}")
    code, said, error = shell("models")
    assert code == 0 and "tiny-blobs" in said and "another-one" not in said
    assert error.count("\n") == 1 and str(second) in error and "not valid" in error
    with pytest.raises(ModelError, match="not valid"):
        models.find(second.name)


def test_the_catalog_says_the_same_without_torch(installed, second, tmp_path, monkeypatch):
    found = catalog.entries()
    assert [e["name"] for e in found] == ["generic", *(b.name for b in models.installed())]
    assert found[1]["folder"] == str(second) and found[1]["title"] == "Another"
    broken = tmp_path / "more" / "broken"
    broken.mkdir()
    for text in ("{", "[]", '{"title": "nameless"}'):
        (broken / "model.json").write_text(text)
        assert [e["name"] for e in catalog.entries()] == [e["name"] for e in found]
    code = "import sys, JointRegSegLib.catalog as c; c.entries(); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "set()\n")
