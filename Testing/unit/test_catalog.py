"""Models that a user imports: whole bundles in, the user's own out, what ships stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from JointRegSegLib import catalog
from JointRegSegLib.errors import InputError, ModelError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home" / "Models"


@pytest.fixture
def bundle(tmp_path):
    shipped = Path(next(e["folder"] for e in catalog.entries() if "folder" in e))
    folder = tmp_path / "bundle"
    shutil.copytree(shipped, folder)
    rename(folder, "mine")
    return folder


def change(folder: Path, **entries) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**manifest, **entries}))


def rename(folder: Path, name: str) -> None:
    change(folder, name=name)


def names() -> set[str]:
    return {entry["name"] for entry in catalog.entries()}


def test_a_bundle_comes_in_and_goes_out(home, bundle):
    before = names()
    assert catalog.install(bundle) == "mine" and names() == before | {"mine"}
    assert sorted(p.name for p in home.iterdir()) == ["mine"]
    entry = next(e for e in catalog.entries() if e["name"] == "mine")
    assert catalog.removable(entry) and Path(entry["folder"]) == home / "mine"
    change(bundle, title="Another one")
    with pytest.raises(catalog.NameTaken, match="'mine' is installed already"):
        catalog.install(bundle)
    assert catalog.install(bundle, replace=True) == "mine"
    assert "Another one" in {entry["title"] for entry in catalog.entries()}
    catalog.remove("mine")
    assert names() == before and not (home / "mine").exists()


def test_what_ships_is_neither_replaced_nor_removed(home, bundle):
    shipped = next(e for e in catalog.entries() if "folder" in e)
    assert not catalog.removable(shipped)
    for name in (shipped["name"], catalog.GENERIC):
        rename(bundle, name)
        with pytest.raises(InputError, match="ships with"):
            catalog.install(bundle)
        with pytest.raises(InputError, match="stay"):
            catalog.remove(name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "do not match the checksum"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "for it has no weights.safetensors"),
        (lambda folder: (folder / "model.json").unlink(), "for it has no model.json"),
        (lambda folder: change(folder, requires="99.0.0"), "needs JointRegSeg 99.0.0, this is"),
        (lambda folder: change(folder, requires="soon"), "'soon' is no version"),
        (lambda folder: (folder / "model.json").write_text("{}"), "lacks name"),
        (lambda folder: (folder / "model.json").write_text("["), "model.json is damaged"),
        (lambda folder: rename(folder, "../../evil"), "is not valid"),
        (lambda folder: change(folder, labels=5), "is not valid"),
        (lambda folder: change(folder, domain=None), "is not valid"),
        (lambda folder: change(folder, domain={}), "is not valid"),
        (lambda folder: change(folder, title=7), "is not valid"),
        (lambda folder: change(folder, description=[1]), "is not valid"),
        (lambda folder: change(folder, preprocessing={}), "is not valid"),
        (lambda folder: change(folder, preprocessing={"size": [64, 64, 0]}), "is not valid"),
        (lambda folder: change(folder, preprocessing={"size": [10**6, 64, 64]}), "is not valid"),
        (lambda folder: change(folder, labels=[{"name": "one"}]), "is not valid"),
    ],
)
def test_what_is_no_whole_bundle_is_refused_and_leaves_nothing(home, bundle, spoil, message):
    spoil(bundle)
    with pytest.raises(ModelError, match=message) as refusal:
        catalog.install(bundle)
    assert "Errno" not in str(refusal.value) and not home.exists()


def test_what_lies_in_a_folder_of_models_and_is_none_is_left_out(home, tmp_path, monkeypatch):
    before = names()
    for name, text in (("a", '{"name": "x"}'), ("b", "["), ("c", "7")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.json").write_text(text)
    monkeypatch.setenv(catalog.FOLDERS_VARIABLE, str(tmp_path / "models"))
    assert names() == before
    monkeypatch.setenv(catalog.HOME_VARIABLE, "a" * 5000)
    assert names() == before
