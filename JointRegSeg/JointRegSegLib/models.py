"""Model bundles: a folder with ``model.json`` and ``weights.safetensors``; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from . import __version__, catalog
from .catalog import GENERIC
from .errors import ModelError, OutputError, reading
from .networks import NETWORKS, RegistrationNetwork
from .preprocess import Preprocessing
from .regularize import LIMIT

_HERE = Path(__file__).resolve().parent
#: Keys of a manifest on which results depend; the others describe the model.
DECISIVE = ("sha256", "network", "arguments", "preprocessing", "labels", "refinement", "round_trip")


@dataclass(frozen=True)
class Bundle:
    """A model on disk: its ``folder`` and ``manifest`` (see ``model.schema.json`` for the keys)."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Short name, as in ``--model``."""
        return self.manifest["name"]

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's working space."""
        entry = self.manifest["preprocessing"]
        return Preprocessing(**{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})

    @property
    def label_values(self) -> list[int]:
        """Values of the segmentation's labels, in the order of the network's channels, without the background."""
        return [label["value"] for label in self.manifest["labels"]]

    @property
    def round_trip(self) -> float:
        """Voxels by which there and back of an answer that is not refined may miss the start."""
        return self.manifest.get("round_trip", LIMIT)

    @property
    def checksum(self) -> str:
        """SHA-256 of all that decides what the model computes: the weights, and what the manifest says of their use."""
        parts = {key: self.manifest.get(key) for key in DECISIVE}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def installed() -> list[Bundle]:
    """All readable bundles, by name; of two with one name the first in the order of `catalog.folders` counts.

    A damaged bundle is left out with a line on stderr, so that it does not take the others away.
    """
    found: dict[str, Bundle] = {}
    for folder in catalog.bundles():
        try:
            bundle = open_bundle(folder)
        except ModelError as error:
            print(f"jointregseg: {error}", file=sys.stderr)
            continue
        found.setdefault(bundle.name, bundle)
    return [found[name] for name in sorted(found)]


def find(name: str | Path) -> Bundle:
    """A bundle by its folder or by its name, which means the same one as in `installed`.

    Raises
    ------
    ModelError
        If there is none, or it is damaged.
    """
    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"a model is a name or a folder, not a {type(name).__name__}", "model")
    name = str(name)
    if name == GENERIC:
        raise ModelError(f"'{GENERIC}' has no weights, for it compares the images themselves; name a trained model")
    known: dict[str, Bundle] = {}
    with reading(name, ModelError):
        if name and (Path(name) / "model.json").is_file():
            return open_bundle(Path(name))
        known = {bundle.name: bundle for bundle in installed()}
        if name in known:
            return known[name]
        # A damaged one is not among the others, but says what is wrong with it.
        for folder in catalog.folders():
            if name and (folder / name / "model.json").is_file():
                return open_bundle(folder / name)
    raise ModelError(f"no model '{name}'; known: {', '.join([GENERIC, *known])}", "model")


def open_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's manifest (not yet its weights).

    Raises
    ------
    ModelError
        If the manifest is unreadable, breaks the schema, or needs a newer library.
    """
    try:
        manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder}: model.json cannot be read ({error.strerror}); get the bundle anew") from None
    except ValueError as error:
        raise ModelError(f"{folder}: model.json is damaged ({error}); get the bundle anew") from None
    _check(manifest, folder)
    return Bundle(folder, manifest)


def _check(manifest: dict[str, Any], folder: Path) -> None:
    import jsonschema

    try:
        jsonschema.validate(manifest, schema())
    except jsonschema.ValidationError as error:
        place = "/".join(map(str, error.absolute_path)) or "top level"
        raise ModelError(f"{folder}: model.json is not valid at {place}: {error.message}") from None
    if manifest["network"] not in NETWORKS:
        raise ModelError(f"{folder}: needs the network '{manifest['network']}', which this version does not have")
    catalog.require_version(manifest, folder)
    labels, classes = len(manifest["labels"]), manifest["arguments"].get("classes", 0)
    if len(manifest["domain"]["volumes"]) != labels or classes not in (0, labels + 1):
        raise ModelError(f"{folder}: model.json contradicts itself in its number of labels; get the bundle anew")


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON schema of ``model.json``."""
    return json.loads((_HERE / "model.schema.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def _loaded(folder: Path, stamps: tuple[int, ...]) -> RegistrationNetwork:
    from safetensors.torch import load_file

    bundle = open_bundle(folder)
    weights = folder / "weights.safetensors"
    with reading(weights, ModelError):
        checksum = sha256(weights)
    if checksum != bundle.manifest["sha256"]:
        raise ModelError(f"{weights}: does not match the checksum in model.json; get the bundle anew")
    try:
        network = NETWORKS[bundle.manifest["network"]](**bundle.manifest["arguments"])
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    except Exception as error:  # wrong arguments, file, shapes or names: torch and safetensors raise different types
        raise ModelError(f"{weights}: does not fit the network of model.json ({str(error).splitlines()[0]})") from None
    if network.inputs != bundle.preprocessing.channels:
        raise ModelError(f"{folder}: model.json contradicts itself in its number of channels; get the bundle anew")
    if any(n % network.divisor for n in bundle.preprocessing.size):
        raise ModelError(f"{folder}: model.json has a size that its network cannot take; get the bundle anew")
    # As in training: convolutions are faster that way.
    return network.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)


def load(bundle: Bundle) -> RegistrationNetwork:
    """The bundle's network, on the CPU and ready to run; kept in memory for the next call.

    Raises
    ------
    ModelError
        If the weights are missing, do not match their checksum, or do not fit the network.
    """
    weights = bundle.folder / "weights.safetensors"
    with reading(weights, ModelError):
        if not weights.is_file():
            raise ModelError(f"{bundle.folder}: weights.safetensors is missing; get the bundle anew")
        found = [path.stat() for path in (weights, bundle.folder / "model.json")]
    return _loaded(bundle.folder, tuple(n for status in found for n in (status.st_mtime_ns, status.st_size)))


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_bundle(folder: Path, manifest: dict[str, Any], network: RegistrationNetwork) -> Bundle:
    """Save a network with its manifest, in half precision; checksum and needed version are filled in.

    Raises
    ------
    ModelError
        If the manifest breaks the schema; nothing is written then.
    OutputError
        If the folder cannot be written to; a bundle that is there stays as it was.
    """
    from safetensors.torch import save

    weights = save({name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()})
    manifest = {**manifest, "sha256": hashlib.sha256(weights).hexdigest(), "requires": __version__}
    manifest = json.loads(json.dumps(manifest))  # tuples become lists, which the schema knows
    _check(manifest, folder)
    told = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    written = {"weights.safetensors": weights, "model.json": told.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in written.items():  # in full, before anything takes its place
            (folder / f".{name}").write_bytes(content)
        for name in written:
            (folder / f".{name}").replace(folder / name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    return open_bundle(folder)
