"""A trained classifier of lung disease: its bundle on disk, and its answer, which is never a bare label."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from .. import __version__, catalog
from ..errors import ModelError, reading
from ..output import complete_or_nothing
from ..pipeline import NOTICE
from .features import REGIONAL, Recipe, prepare, regional
from .likeness import Likeness
from .network import DeformationClassifier
from .occlusion import driving_zones, occlusion, on_lungs
from .pair import BreathingPair

CARD, WEIGHTS = "classifier.json", "weights.safetensors"
#: Percentile of unlikeness above which no answer is given.
STRANGE = 99.0
#: Of an interval, in percent.
COVERAGE = 95.0


@dataclass(frozen=True, eq=False)
class Answer:
    """What the classifier says of one pair.

    Attributes
    ----------
    probability : float
        Of disease, calibrated: mean of the members' own, from 0 to 1.
    interval : (float, float)
        In which 95 % of probabilities lie, over members and resampled calibrations.
    baseline : float
        Probability by the regional measures alone.
    unlike : float
        Percentile, see `Likeness`.
    reasons : list of str
        Why it abstains; empty where it does not.
    zones : list of dict
        Up to three that spoke most for the answer; none where nothing did, see `occlusion.driving_zones`.
    warnings : list of str
        What else speaks against the scans.
    map : ndarray
        (m,) occlusion at the lungs' voxels, in units of the logit, calibrated: above 0 where motion spoke for disease.
    """

    probability: float
    interval: tuple[float, float]
    baseline: float
    unlike: float
    reasons: list[str]
    zones: list[dict[str, float]]
    warnings: list[str]
    map: np.ndarray

    @property
    def abstained(self) -> bool:
        """Whether no answer is given."""
        return bool(self.reasons)

    @property
    def told(self) -> dict[str, Any]:
        """All but the map, for JSON."""
        return {
            "notice": NOTICE,
            "probability": self.probability,
            "interval": list(self.interval),
            "baseline_probability": self.baseline,
            "unlike_percentile": self.unlike,
            "abstained": self.abstained,
            "reasons": self.reasons,
            "zones": self.zones,
            "warnings": self.warnings,
        }

    def line(self, name: str) -> str:
        """One line for a terminal."""
        low, high = self.interval
        said = f"{name}: probability of disease {self.probability:.2f} (95 % interval {low:.2f} to {high:.2f})"
        said += f", by regional measures alone {self.baseline:.2f}"
        said += f", unlike the training cohort: percentile {self.unlike:.1f}"
        said += ", driven by " + (", ".join(entry["zone"] for entry in self.zones) or "no zone of the lungs")
        if self.abstained:
            said = f"{name}: ABSTAINS, for {'; '.join(self.reasons)} ({said.partition(': ')[2]})"
        if self.warnings:
            said += f". Warnings: {'; '.join(self.warnings)}"
        return f"{said}. Research use only."


@dataclass(frozen=True, eq=False)
class Classifier:
    """A bundle: a ``card`` (see ``classifier.schema.json``) and what its weights hold.

    ``members`` are the cross-validated networks, ``usual`` (C, n, n, n) is the mean input of the cohort's healthy.
    """

    card: dict[str, Any]
    members: Sequence[DeformationClassifier]
    usual: torch.Tensor

    @cached_property
    def recipe(self) -> Recipe:
        """How pairs are prepared."""
        return Recipe(**self.card["recipe"])

    @cached_property
    def likeness(self) -> Likeness:
        """The training cohort's."""
        entry = dict(self.card["likeness"])
        arrays = {key: np.array(entry.pop(key)) for key in ("center", "scale", "precision")}
        return Likeness(tuple(entry.pop("names")), **arrays, **entry)

    @torch.inference_mode()
    def logits(self, motion: torch.Tensor) -> torch.Tensor:
        """(N, members) of (N, C, n, n, n), not calibrated."""
        return torch.stack([member(motion) for member in self.members], 1)

    def answer(
        self,
        pair: BreathingPair,
        verdict: str | None = None,
        unfit: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> Answer:
        """Judge a pair.

        Parameters
        ----------
        verdict : str, optional
            Color of its registration's, if that is known.
        unfit, warnings : sequence of str
            Why no answer should be given, and what else speaks against the scans.

        Raises
        ------
        InputError
            If the lungs hardly change their volume.
        """
        motion = torch.from_numpy(prepare(pair, self.recipe)[0])
        measured = regional(pair)
        measures = np.array([measured[name] for name in self.likeness.names])
        calibration = self.card["calibration"]
        slope, intercept = calibration["slope"], calibration["intercept"]
        logits = self.logits(motion[None])[0].double().numpy()
        probability = float(sigmoid(slope * logits + intercept).mean())
        resampled = np.array([(slope, intercept), *calibration["resampled"]])
        spread = sigmoid(resampled[:, :1] * logits + resampled[:, 1:])
        tail = (100 - COVERAGE) / 2
        low, high = (float(x) for x in np.percentile(spread, (tail, 100 - tail)))
        unlike = self.likeness.percentile(measures)
        found = occlusion(lambda x: slope * self.logits(x).mean(1), motion, self.usual)
        on_voxels = on_lungs(found, pair)
        reasons = [*unfit]
        reasons += self._chance()
        if low < 0.5 < high:
            reasons.append(f"the interval {low:.2f} to {high:.2f} holds both answers")
        if unlike > STRANGE:
            reasons.append(f"this patient is unlike the training cohort (percentile {unlike:.1f})")
        if verdict == "red":
            reasons.append("the registration's verdict is red")
        zones = driving_zones(on_voxels, pair, probability - 0.5)
        baseline = self._baseline(measured)
        if (baseline - 0.5) * (probability - 0.5) < 0:
            reasons.append(f"the regional measures say otherwise ({baseline:.2f})")
        return Answer(probability, (low, high), baseline, unlike, reasons, zones, [*warnings], on_voxels)

    def _chance(self) -> list[str]:
        """Whether the networks are worth no more than chance, as far as their own cross-validation can tell."""
        area = self.card["figures"].get("cross_validation", {}).get("network", {}).get("auc")
        if area is None or above_chance(area):
            return []
        low, high = area["score"]
        return [
            "the classifier may be no better than chance (AUC in cross-validation "
            f"{area['value']:.2f}, {low:.2f} to {high:.2f})"
        ]

    def _baseline(self, measured: dict[str, float]) -> float:
        entry = self.card["baseline"]
        x = np.array([measured[name] for name in entry["names"]])
        z = (x - np.array(entry["center"])) / np.array(entry["scale"])
        return float(sigmoid(z @ np.array(entry["coefficients"]) + entry["intercept"]))


def above_chance(area: Mapping[str, Any]) -> bool:
    """Whether an AUC, with its 95 % ``score`` interval, is shown to be better than 0.5."""
    return area["score"][0] > 0.5


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))


def write_classifier(
    folder: Path, card: dict[str, Any], members: Sequence[DeformationClassifier], usual: torch.Tensor
) -> Classifier:
    """Save a bundle; the card's checksum, needed version and network are filled in.

    Raises
    ------
    ModelError
        If the card breaks the schema; nothing is written then.
    OutputError
        If the place cannot be written to.
    """
    tensors = {f"{n}.{k}": v.contiguous() for n, m in enumerate(members) for k, v in m.state_dict().items()}
    weights = save({**tensors, "usual": usual.contiguous()})
    card = card | {
        "notice": NOTICE,
        "members": len(members),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "requires": __version__,
    }
    card = json.loads(json.dumps(card))
    _check(card, folder)
    with complete_or_nothing(folder) as partial:
        (partial / WEIGHTS).write_bytes(weights)
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return Classifier(card, members, usual)


def open_classifier(folder: Path) -> Classifier:
    """Read a bundle.

    Raises
    ------
    ModelError
        If it is missing, damaged, or made for another version.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        said = f"{folder}: {CARD} cannot be read ({error.strerror})"
        raise ModelError(f"{said}; name the bundle of train-classifier") from None
    except ValueError:
        raise ModelError(f"{folder}: {CARD} is damaged; name another bundle of train-classifier") from None
    _check(card, folder)
    catalog.require_version(card, folder)
    with reading(folder / WEIGHTS, ModelError):
        weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise ModelError(f"{folder / WEIGHTS}: does not match the checksum in {CARD}; get the bundle anew")
    recipe, tensors = Recipe(**card["recipe"]), load(weights)
    try:
        members = []
        for n in range(card["members"]):
            own = {key.partition(".")[2]: v for key, v in tensors.items() if key.startswith(f"{n}.")}
            member = DeformationClassifier(recipe.channels, recipe.size, **card["network"])
            member.load_state_dict(own)
            members.append(member.eval().requires_grad_(False))
        usual = tensors["usual"]
        if usual.shape != (recipe.channels, *[recipe.size] * 3):
            raise RuntimeError(f"the mean input has the shape {tuple(usual.shape)}")
    except (KeyError, RuntimeError) as error:
        text = str(error).splitlines()[0]
        raise ModelError(f"{folder / WEIGHTS}: does not fit the networks of {CARD} ({text})") from None
    return Classifier(card, members, usual)


def likeness_entry(likeness: Likeness) -> dict[str, Any]:
    """As a card holds it."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(likeness).items()}


def _check(card: dict[str, Any], folder: Path) -> None:
    """Raise `ModelError` if a card breaks the schema, or contradicts itself, which no schema tells."""
    import jsonschema

    try:
        jsonschema.validate(card, schema())
    except jsonschema.ValidationError as error:
        place = "/".join(map(str, error.absolute_path)) or "top level"
        raise ModelError(f"{folder}: {CARD} is not valid at {place}: {error.message}") from None
    try:
        json.dumps([card[entry] for entry in ("calibration", "likeness", "baseline")], allow_nan=False)
    except ValueError:
        raise ModelError(f"{folder}: {CARD} holds numbers that are not finite; get the bundle anew") from None
    for entry, columns in (
        ("likeness", ("center", "scale", "precision")),
        ("baseline", ("center", "scale", "coefficients")),
    ):
        told = card[entry]
        count = len(told["names"])
        lengths = [len(told[column]) for column in columns] + [len(row) for row in told.get("precision", ())]
        if set(lengths) != {count} or min(told["scale"]) <= 0:
            raise ModelError(
                f"{folder}: {CARD} is not valid at {entry}: {count} measures need as many numbers each, and scales "
                "above 0; get the bundle anew"
            )
        if strange := set(told["names"]) - set(REGIONAL):
            raise ModelError(
                f"{folder}: {CARD} is not valid at {entry}: '{min(strange)}' is no measure; get the bundle anew"
            )


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON schema of ``classifier.json``."""
    path = Path(__file__).resolve().with_name("classifier.schema.json")
    return json.loads(path.read_text(encoding="utf-8"))
