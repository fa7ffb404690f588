"""What decides the outcome of a training: one YAML file, checked against ``plan.schema.json``, as typed values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from JointRegSegLib import models
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import NETWORKS
from JointRegSegLib.preprocess import Preprocessing

from .augment import Augmentation

_HERE = Path(__file__).resolve().parent
#: The configurations that come with the extension, one or more for each system.
CONFIGURATIONS = _HERE / "configurations"


@dataclass(frozen=True)
class Weights:
    """Weight of each loss term; see ``plan.schema.json`` for what each measures and which paper it comes from."""

    similarity: float = 1.0
    error: float = 0.0
    correlation: float = 0.0
    mutual_information: float = 0.0
    overlap: float = 1.0
    gradient: float = 0.1
    affine: float = 0.1
    inverse: float = 0.05
    smoothness: float = 0.0
    bending: float = 0.0
    folding: float = 10.0
    segmentation: float = 1.0
    velocity: float = 0.0
    displacement: float = 0.0


@dataclass(frozen=True)
class Label:
    """One structure: its ``value`` in the model's segmentations, made of the ``sources`` found in label files."""

    value: int
    name: str
    color: str
    sources: tuple[int, ...] = ()
    code: dict[str, str] | None = None

    @property
    def origins(self) -> tuple[int, ...]:
        """Values in label files that mean this structure; its own value unless ``sources`` says otherwise."""
        return self.sources or (self.value,)


@dataclass(frozen=True)
class Shapes:
    """What ``make-references`` matches: unions of labels, on voxels of ``spacing`` mm along i, j, k.

    Their surfaces have triangles with sides of about ``edge`` mm. How subjects are mirrored and turned first, see
    ``plan.schema.json``.
    """

    structures: tuple[tuple[int, ...], ...]
    spacing: tuple[float, float, float]
    edge: float = 12.0
    sort_slices: bool = False
    turn: bool = False


@dataclass(frozen=True)
class Breaths:
    """How scheme 'breathing' draws a breath, and the rest of a pair; what each key means: ``plan.schema.json``."""

    simulated: float = 0.75
    depth: float = 40.0
    ribs: float = 10.0
    sliding: float = 0.7
    stiffening: float = 1.0
    people: float = 0.4
    wander: float = 8.0
    colors: float = 0.5
    blanked: float = 0.1


@dataclass(frozen=True)
class Plan:
    """All that decides the outcome of a training; what each key means is told in ``plan.schema.json``.

    Attributes
    ----------
    segments : tuple of str or None
        Names of the labels that the network segments, all if None; the others guide the registration only, since a
        small network cannot tell all structures apart.
    pairs : int
        Pairs in a batch, over all processes together.
    rate, schedule : float, str
        Highest learning rate and its course: 'cosine' to zero, 'constant', or 'halving' every ``halving`` steps.
    mixed : bool or None
        Convolutions in bfloat16: half the time on a GPU, and on a CPU that knows it (AVX-512 BF16). None: on a GPU.
    alternate : dict
        Steps that each part of the network is trained for, in turn (Xu & Niethammer 2019); empty: all parts at once.
    both_ways : bool
        Count both directions of a network that answers in both; without, moving to fixed alone.
    complete : bool
        What no one has annotated is taken from the network's own segmentation (the same paper, equation 2).
    unannotated : bool
        So, too, in pairs of two images without annotations, which the paper leaves out, wherever the segmentation rests
        and teaches the registration; trained by them itself it could answer anything that agrees with itself.
    """

    network: str
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    segments: tuple[str, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    center: str = "image"
    other_labels: str = "refuse"
    scheme: str = "pairs"
    references: Shapes | None = None
    breaths: Breaths = field(default_factory=Breaths)
    weights: Weights = field(default_factory=Weights)
    augmentation: Augmentation = field(default_factory=Augmentation)
    steps: int = 4000
    pairs: int = 2
    rate: float = 1e-3
    schedule: str = "cosine"
    halving: int = 1000
    average: float = 0.998
    mixed: bool | None = None
    frozen: tuple[str, ...] = ()
    alternate: dict[str, int] = field(default_factory=dict)
    both_ways: bool = True
    complete: bool = False
    unannotated: bool = False
    annotated_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InputError(f"network: unknown '{self.network}'; known: {', '.join(NETWORKS)}")
        for what, found in (
            ("value", [label.value for label in self.labels]),
            ("name", [label.name for label in self.labels]),
            ("source", [origin for label in self.labels for origin in label.origins]),
        ):
            twice = [str(x) for x in dict.fromkeys(found) if found.count(x) > 1]
            if twice:
                raise InputError(f"labels: two of them have the {what} {', '.join(twice)}")
        names = [label.name for label in self.labels]
        if strange := [name for name in self.segments or () if name not in names]:
            raise InputError(f"segments: '{strange[0]}' is none of the labels ({', '.join(names)})")
        if not any(asdict(self.weights).values()):
            raise InputError("weights: all are 0, so that nothing would be learned")
        if self.scheme == "references" and self.references is None:
            raise InputError("references: scheme 'references' needs this entry, which says what shapes were matched")

    @property
    def values(self) -> tuple[int, ...]:
        """Values of all labels, in their order."""
        return tuple(label.value for label in self.labels)

    @property
    def segmented(self) -> tuple[int, ...]:
        """Places among the labels of those that the network segments, in the order of its channels."""
        chosen = self.segments
        return tuple(i for i, label in enumerate(self.labels) if chosen is None or label.name in chosen)


def from_entries(entries: dict[str, Any], origin: str) -> Plan:
    """A plan from what a YAML or ``plan.json`` holds; a card in it is checked and left out.

    Raises
    ------
    InputError
        If it breaks the schema, every wrong key being named, or contradicts itself.
    """
    import jsonschema

    kind = jsonschema.Draft202012Validator
    # By itself a schema takes 2.0 for a whole number, which torch and Python do not.
    strict = kind.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    checked = jsonschema.validators.extend(kind, type_checker=strict)(schema())
    errors = sorted(checked.iter_errors(entries), key=lambda e: list(e.path))
    problems = [_told(error) for error in errors] + [f"{key}: is no finite number" for key in _infinite(entries)]
    if problems:
        raise InputError(f"{origin}: " + "; ".join(problems))
    known = {key: value for key, value in entries.items() if key != "card"}
    known["labels"] = tuple(Label(**_tuples(label)) for label in known["labels"])
    kinds = {"preprocessing": Preprocessing, "weights": Weights, "augmentation": Augmentation, "breaths": Breaths}
    for key, kind in kinds.items():
        if key in known:
            try:
                known[key] = kind(**_tuples(known[key]))
            except ValueError as error:
                raise InputError(f"{origin}: {key}: {error}") from None
    if known.get("references"):
        shapes = _tuples(known["references"])
        known["references"] = Shapes(**shapes | {"structures": tuple(tuple(s) for s in shapes["structures"])})
    for key in ("frozen", "segments"):
        if known.get(key) is not None:
            known[key] = tuple(known[key])
    try:
        return Plan(**known)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of a plan, with a description of each key."""
    out = json.loads((_HERE / "plan.schema.json").read_text(encoding="utf-8"))
    out["properties"]["card"]["properties"]["refinement"] = models.schema()["properties"]["refinement"]
    return out


def find(name: str | Path) -> Path:
    """A YAML file, or the shipped configuration of that name.

    Raises
    ------
    InputError
        If there is neither.
    """
    for path in (Path(name), CONFIGURATIONS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in CONFIGURATIONS.glob("*.yaml")))
    raise InputError(f"{name}: neither a YAML file nor a configuration that comes with JointRegSeg ({known})")


def _infinite(entries: Any, key: str = "") -> list[str]:
    """Keys of numbers that are not finite, which YAML can hold and a schema does not see."""
    if isinstance(entries, dict):
        return [found for name, value in entries.items() for found in _infinite(value, f"{key}.{name}".strip("."))]
    if isinstance(entries, list):
        return [found for value in entries for found in _infinite(value, key)]
    return [key] if isinstance(entries, float) and not math.isfinite(entries) else []


def called(path: Path, changes: Sequence[str]) -> str:
    """How errors call a configuration with changes made to it."""
    return f"{path} with --set {' --set '.join(changes)}" if changes else str(path)


def read_entries(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """What a YAML configuration says, with ``changes`` like 'weights.inverse=0.1' made to it.

    Its entry ``base`` names another configuration, beside it or shipped, whose entries hold where it says nothing.

    Raises
    ------
    InputError
        If the file is no YAML mapping, or a change is not of that form.
    """
    import yaml

    entries = _with_base(path, ())
    for change in changes:
        key, sign, text = change.partition("=")
        try:
            value = yaml.load(text, _loader())
        except yaml.YAMLError:
            sign = ""
        if not sign or not key:
            raise InputError(f"'{change}' is not KEY=VALUE, as in weights.inverse=0.1")
        *path_to, last = key.split(".")
        place = entries
        for part in path_to:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise InputError(f"'{change}': {'.'.join(path_to)} has no entries with names")
        place[last] = value
    return entries


def _with_base(path: Path, above: Sequence[Path]) -> dict[str, Any]:
    """What a file says over what its ``base`` says; ``above`` are those that it is itself the base of."""
    import yaml

    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not in UTF-8; save it in that encoding") from None
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: has to be a mapping, like the configurations that come with JointRegSeg")
    if (base := entries.pop("base", None)) is None:
        return entries
    beside, above = path.parent / f"{base}.yaml", (*above, path.resolve())
    source = beside if beside.is_file() else find(str(base))
    if source.resolve() in above:
        raise InputError(f"{path}: base: '{base}' leads back to {above[0].name}")
    return _merged(_with_base(source, above), entries)


@cache
def _loader() -> type:
    """Of YAML, but that 1e-3 is a number, as in later versions and for every user, and no key counts twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"'{twice[0]}' is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``; mappings with fixed keys are merged, what has free keys is replaced."""
    free = ("arguments", "alternate")
    out = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key not in free
        out[key] = _merged(out[key], value) if both else value
    return out


def _told(error: Any) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "the plan"
    if error.validator != "additionalProperties":
        return f"{key}: {error.message}"
    known = error.schema["properties"]
    near = [name for wrong in error.instance if wrong not in known for name in get_close_matches(wrong, known, 1)]
    meant = f"did you mean {' and '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"{key}: {error.message}; {meant}"


def _tuples(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()}
