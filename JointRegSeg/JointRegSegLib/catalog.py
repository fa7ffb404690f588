"""What models there are: reads nothing but the standard library can, for a window that must not wait for torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .errors import InputError, ModelError

GENERIC = "generic"
#: Longest side, in voxels, of the images that `generic` compares by default; see `affine.shrink_within`.
WORKING_SIZE = 112
#: What `generic` says about itself, where bundles have a manifest.
GENERIC_ENTRY = {
    "name": GENERIC,
    "title": "Any two volumes",
    "description": "Compares the two images themselves, as wholes first and then place by place; it needs no training",
    "anatomy": "any body part",
    "modality": "any",
    "license": "Apache-2.0",
    "labels": [],
}
#: What a bundle's folder holds.
FILES = ("model.json", "weights.safetensors")
#: Largest side of a model's lattice in voxels, as in ``model.schema.json``.
LARGEST_SIDE = 1024
#: How far beyond the training images' range a length or volume may lie, as a share of the bound.
TOLERANCE = 0.25
_HERE = Path(__file__).resolve().parent
#: Where bundles ship: beside the library once it is installed, in the extension's resources in a checkout or in Slicer.
_SHIPPED = (_HERE / "Models", _HERE.parent / "Resources" / "Models")
#: Names of further folders with bundles, separated as in PATH.
FOLDERS_VARIABLE = "JOINTREGSEG_MODELS"
#: Names the folder where this user's own bundles are kept, in place of the usual one of the operating system.
HOME_VARIABLE = "JOINTREGSEG_HOME"


def folders() -> list[Path]:
    """Folders that are searched for bundles."""
    named = os.environ.get(FOLDERS_VARIABLE, "")
    found = [*(Path(p) for p in named.split(os.pathsep) if p), user_folder(), *_SHIPPED]
    return [path for path in found if _is_folder(path)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file system takes
        return False


def user_folder() -> Path:
    """Where `install` keeps this user's bundles; it need not exist."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).expanduser() / "Models"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "JointRegSeg" / "Models"


def bundles() -> list[Path]:
    """Folders that hold a ``model.json``, in the order in which they count."""
    return [path.parent for folder in folders() for path in sorted(folder.glob("*/model.json"))]


def entries() -> list[dict[str, Any]]:
    """`generic` and the manifests of all bundles, by name: what a list shows of them can be relied on.

    Each has its ``folder`` beside what ``model.schema.json`` describes. Others are left out. `models` checks the whole
    of a manifest when it is used.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in bundles():
        try:
            manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            _check(manifest)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.setdefault(manifest["name"], {**manifest, "folder": str(folder)})
    return [GENERIC_ENTRY, *(found[name] for name in sorted(found))]


def _check(manifest: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError unless all that a list shows is there and of its kind."""
    texts = [manifest[key] for key in ("name", "title", "description", "anatomy", "modality", "license")]
    texts += [label["name"] for label in manifest["labels"]]
    numbers = [*manifest["preprocessing"]["size"], *manifest["domain"]["spacing"], *manifest["domain"]["extent"]]
    if not all(isinstance(text, str) for text in texts) or not isinstance(manifest["labels"], list):
        raise TypeError("a text is none")
    if len(numbers) != 7 or not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("a size is none")
    if not all(isinstance(label["value"], int) for label in manifest["labels"]):
        raise TypeError("a label's value is no number")
    if not all(2 <= side <= LARGEST_SIDE for side in manifest["preprocessing"]["size"]):
        raise ValueError("a lattice that no computer holds")
    if not manifest["name"].replace("-", "").isalnum():
        raise ValueError("a name has other characters than letters, digits and hyphens")


def require_version(manifest: dict[str, Any], folder: Path) -> None:
    """Raise `ModelError` if a bundle needs a newer version of this library, or does not say which."""
    try:
        needed, here = ([int(part) for part in text.split(".")[:3]] for text in (manifest["requires"], __version__))
    except ValueError:
        raise ModelError(f"{folder}: '{manifest['requires']}' is no version to require; get the bundle anew") from None
    if needed > here:
        raise ModelError(f"{folder}: needs JointRegSeg {manifest['requires']}, this is {__version__}; update it")


def is_shipped(name: str) -> bool:
    """Whether a model of this name comes with this version."""
    return name == GENERIC or any((path / name).is_dir() for path in _SHIPPED)


class NameTaken(InputError):
    """The user has a model of this name; it is replaced only if that is wanted."""


def install(folder: Path, replace: bool = False) -> str:
    """Copy a bundle into the user's folder, in one move, and return its name.

    Raises
    ------
    ModelError
        If the folder holds no bundle, its weights are not those of its manifest, or it needs a newer version.
    NameTaken
        If the user has a bundle of this name already, unless it is to be replaced.
    InputError
        If the name is that of a model that ships with this version, or the folder cannot be written.
    """
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"{folder}: is no model bundle, for it has no {absent[0]}; choose a folder with {FILES[0]}")
    try:
        text, weights = ((folder / name).read_bytes() for name in FILES)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror}); check permissions") from None
    try:
        manifest = json.loads(text)
        required = json.loads((_HERE / "model.schema.json").read_text(encoding="utf-8"))["required"]
        missing = [key for key in required if key not in manifest]
    except (ValueError, TypeError):
        raise ModelError(f"{folder}: is no model bundle, for model.json is damaged; get the bundle anew") from None
    if missing:
        raise ModelError(f"{folder}: model.json lacks {', '.join(missing)}; get the bundle anew")
    try:
        _check(manifest)
        require_version(manifest, folder)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{folder}: model.json is not valid; get the bundle anew") from None
    if hashlib.sha256(weights).hexdigest() != manifest["sha256"]:
        raise ModelError(f"{folder}: the weights do not match the checksum in model.json; get the bundle anew")
    name = manifest["name"]
    if is_shipped(name):
        raise InputError(f"'{name}' is the name of a model that ships with JointRegSeg; rename it in its model.json")
    target = user_folder() / name
    if target.exists() and not replace:
        raise NameTaken(f"a model '{name}' is installed already; replace it, or rename this one in its model.json")
    partial = target.with_name(f".{name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "weights.safetensors").write_bytes(weights)
        shutil.copyfile(folder / "model.json", partial / "model.json")
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{target}: cannot be written ({error.strerror}); check space and permissions") from None
    return name


def removable(entry: dict[str, Any]) -> bool:
    """Whether an entry of `entries` is one that the user has installed."""
    return "folder" in entry and Path(entry["folder"]).parent == user_folder()


def remove(name: str) -> None:
    """Take a bundle out of the user's folder again.

    Raises
    ------
    InputError
        If there is none of that name: what ships with this version stays.
    """
    for entry in entries():
        if entry["name"] == name and removable(entry):
            try:
                shutil.rmtree(entry["folder"])
            except OSError as error:
                raise InputError(f"{entry['folder']}: cannot be removed ({error.strerror})") from None
            return
    raise InputError(f"no model '{name}' was imported; models that ship with JointRegSeg stay")
