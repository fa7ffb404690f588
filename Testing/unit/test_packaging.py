"""What Slicer's build and the extension index read: all files are listed, metadata agree, and nothing is too large."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
from JointRegSegTrainingLib.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "JointRegSeg"
TRAINING = ROOT / "JointRegSegTraining"
MB = 1_000_000
#: What the index requires and knows, as far as it concerns an extension without superbuild.
ENTRY = {
    "required": ["$schema", "category", "scm_url", "build_subdirectory", "build_dependencies"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"pattern": r"slicer-extension-catalog-entry-schema-v1\.0\.1\.json#$"},
        "category": {"enum": ["Registration", "Segmentation"]},
        "scm_url": {"pattern": "^https://[^/]+/[^/]+/Slicer[A-Za-z]+$"},
        "scm_revision": {"type": "string", "minLength": 1},
        "scm_type": {"const": "git"},
        "build_dependencies": {"type": "array", "items": {"type": "string"}},
        "build_subdirectory": {"const": "."},
        "tier": {"enum": [1, 3, 5]},
    },
}


def variables(path: Path) -> dict[str, list[str]]:
    """Arguments of the ``set`` commands of a CMake file, by variable; quotes are gone and variables inserted."""
    text = re.sub(r"^\s*#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for name, rest in re.findall(r"\bset\((\w+)\s+(\"[^\"]*\"|[^)]*)\s*\)", text):
        values = [rest.strip('"')] if rest.startswith('"') else rest.split()
        found[name] = [re.sub(r"\$\{(\w+)\}", lambda m: found[m[1]][0], value) for value in values]
    return found


def checkout() -> list[Path]:
    """Files that are, or are about to be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [ROOT / name for name in set(listed.stdout.split("\0")) - {""} if (ROOT / name).is_file()]


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:])


@pytest.fixture(scope="module")
def extension() -> dict[str, str]:
    return {name: " ".join(values) for name, values in variables(ROOT / "CMakeLists.txt").items()}


@pytest.fixture(scope="module")
def entry() -> dict:
    return json.loads((ROOT / "JointRegSeg.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [MODULE, TRAINING], ids=lambda path: path.name)
@pytest.mark.parametrize(("variable", "scripts"), [("MODULE_PYTHON_SCRIPTS", True), ("MODULE_PYTHON_RESOURCES", False)])
def test_every_file_of_the_module_is_listed_once_and_exists(module, variable, scripts):
    listed = variables(module / "CMakeLists.txt")[variable]
    # The build copies these by themselves: its own files, and a command line module's script and description.
    others = {"CMakeLists.txt", *(f"{TRAINING.name}{ending}" for ending in (".py", ".xml"))}
    present = [path.relative_to(module) for path in checkout() if path.is_relative_to(module)]
    present = [path for path in present if path.parts[0] != "Testing" and path.name not in others]
    assert sorted(listed) == sorted(path.as_posix() for path in present if (path.suffix == ".py") is scripts)


def test_both_modules_are_built():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.findall(r"^add_subdirectory\((\w+)\)", text, re.MULTILINE) == [MODULE.name, TRAINING.name]
    text = (TRAINING / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+)\(\n  NAME (\S+)", text, re.MULTILINE) == [
        ("slicerMacroBuildScriptedModule", "${MODULE_NAME}Lib"),
        ("SlicerMacroBuildScriptedCLI", "${MODULE_NAME}"),
    ]
    assert variables(TRAINING / "CMakeLists.txt")["MODULE_NAME"] == [TRAINING.name]
    assert all((TRAINING / f"{TRAINING.name}{ending}").is_file() for ending in (".py", ".xml"))


def test_installed_packages_are_those_of_the_checkout():
    """What setuptools is told, which the checkout's tests do not need."""
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    with (ROOT / "pyproject.toml").open("rb") as file:
        told = tomllib.load(file)
    packages = {name for name in told["tool"]["setuptools"]["packages"] if name.startswith("JointRegSegTrainingLib")}
    files = [
        path.relative_to(TRAINING) for path in checkout() if path.is_relative_to(TRAINING / "JointRegSegTrainingLib")
    ]
    assert packages == {".".join(path.parts[:-1]) for path in files if path.suffix == ".py"}
    patterns = told["tool"]["setuptools"]["package-data"]["JointRegSegTrainingLib"]
    data = {path for path in files if path.suffix != ".py"}
    root = TRAINING / "JointRegSegTrainingLib"
    assert {root.relative_to(TRAINING) / p.relative_to(root) for x in patterns for p in root.glob(x)} == data
    entries = told["project"]["entry-points"]["jointregseg.commands"]
    assert entries == {
        name: f"JointRegSegTrainingLib.commands:{function.__name__}" for name, function in COMMANDS.items()
    }


def test_the_entry_of_the_index_is_one(entry):
    jsonschema.validate(entry, ENTRY)


def test_the_index_and_the_build_say_the_same(extension, entry):
    project = re.search(r"^project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1]
    assert (ROOT / f"{project}.json").is_file()
    assert urlsplit(entry["scm_url"]).path.endswith(f"/Slicer{project}")
    assert extension["EXTENSION_DEPENDS"].split() == entry["build_dependencies"]
    assert extension["EXTENSION_CATEGORY"] == entry["category"]
    assert extension["EXTENSION_HOMEPAGE"] == entry["scm_url"]


def test_what_the_extension_manager_shows_is_there(extension, entry):
    repository = urlsplit(entry["scm_url"]).path
    pictures = [extension["EXTENSION_ICONURL"], *extension["EXTENSION_SCREENSHOTURLS"].split()]
    assert len(pictures) > 1
    for url in pictures:
        assert url.startswith(f"https://raw.githubusercontent.com{repository}/{entry['scm_revision']}/")
        assert (ROOT / url.split(f"{repository}/{entry['scm_revision']}/")[1]).is_file(), url


def test_the_description_is_short_and_says_what_it_has_to(extension):
    description = extension["EXTENSION_DESCRIPTION"]
    assert 1 <= len(re.findall(r"\.(?:\s|$)", description)) <= 2
    assert ";" not in description  # CMake would take it for a list
    assert "patent" in description
    assert "research use only" in description


def test_the_icon_has_the_size_that_slicer_asks_for():
    assert size(MODULE / "Resources" / "Icons" / "JointRegSeg.png") == (128, 128)


def test_the_license_lies_where_the_index_looks_and_the_readme_names_it():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "Apache-2.0" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_checkout_stays_small():
    assert sum(path.stat().st_size for path in checkout()) < 100 * MB


def test_the_models_stay_small():
    sizes = [path.stat().st_size for path in checkout() if path.is_relative_to(MODULE / "Resources" / "Models")]
    assert 0 < sum(sizes) < 40 * MB


def test_no_checkout_changes_files_that_are_checked_by_their_bytes():
    """Git for Windows writes other line ends into text, by default."""
    checked = [*(MODULE / "Resources" / "SampleData").iterdir(), *(MODULE / "Resources" / "Models").rglob("*.*")]
    names = [str(path.relative_to(ROOT)) for path in checked if path.is_file()]
    told = subprocess.run(
        ["git", "check-attr", "text", "--", *names], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(told) == len(names) > 10 and all(line.endswith(": unset") for line in told)
