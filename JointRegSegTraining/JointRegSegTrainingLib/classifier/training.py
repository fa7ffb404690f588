"""From a cohort to a classifier, its figures and a report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from JointRegSegLib.catalog import GENERIC
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.lung.classifier import CARD, WEIGHTS, Classifier, likeness_entry, sigmoid, write_classifier
from JointRegSegLib.lung.features import Recipe
from JointRegSegLib.lung.record import checksum
from JointRegSegLib.output import check_free
from JointRegSegLib.terminal import say

from ..cohort import listed
from . import baseline, figures, networks, prepare, report
from .cohort import Pair
from .likeness import likeness_of
from .networks import Schedule

BUNDLE, FIGURES, PREDICTIONS, REPORT = "bundle", "figures.json", "predictions.csv", "report.html"
REGISTRATIONS, FEATURES = "registrations", "features"
_OWN = (BUNDLE, FIGURES, PREDICTIONS, REPORT, FEATURES)
#: Shares of the progress that preparing, networks and permutations take.
_STAGES = {"prepare": (0.0, 0.4), "train": (0.4, 0.6), "permute": (0.6, 1.0)}


@dataclass(frozen=True)
class Settings:
    """How a classifier is made.

    Attributes
    ----------
    model : str
        That registers pairs for which the cohort names no transform.
    permutations, network_permutations : int
        Shuffled cohorts on which the baseline and the five networks are tried.
    """

    recipe: Recipe = field(default_factory=Recipe)
    schedule: Schedule = field(default_factory=Schedule)
    model: str = "generic"
    device_name: str = "auto"
    workers: int = 1
    permutations: int = 100
    network_permutations: int = 20


@dataclass(frozen=True, eq=False)
class Trained:
    """The classifier, and its ``figures`` as `FIGURES` holds them."""

    classifier: Classifier
    figures: dict[str, Any]


def train_classifier(
    pairs: Sequence[Pair],
    folder: Path,
    settings: Settings,
    progress: Callable[[float], None] | None = None,
    registrations: Path | None = None,
) -> Trained:
    """Train on a cohort's training part, and judge once on its test part.

    Parameters
    ----------
    folder : path
        For registrations and features, which are kept for the next time, and for the results: `BUNDLE`, `FIGURES`,
        `PREDICTIONS` and `REPORT`.
    registrations : path, optional
        Folder of `jointregseg batch` in which pairs are, or will be, registered.

    Raises
    ------
    InputError
        If cases cannot be registered or measured; all of them are named.
    OutputError
        If the folder cannot be written to, or holds files that are not of an earlier training.
    """
    check_free(folder / BUNDLE, True, names=(CARD, WEIGHTS), report=CARD)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in _OWN and not path.name.startswith((".", REGISTRATIONS)):
            raise OutputError(f"{folder}: holds '{path.name}', which is of no training; name another folder")
    if (folder / REPORT).exists() and not (folder / FIGURES).exists():
        raise OutputError(f"{folder / REPORT}: is not of an earlier training; name another folder")

    def stage(name: str) -> Callable[[float], None]:
        first, last = _STAGES[name]
        return lambda share: progress(first + (last - first) * share) if progress else None

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    where = registrations or folder / REGISTRATIONS
    sliding = prepare.slides(pairs, settings.model)
    if not sliding and settings.model == GENERIC and any(p.moving_labels for p in pairs if p.transform is None):
        say("not all pairs have moving_labels, so that the lungs of none slide along the wall as they are registered")
    transforms, failed = prepare.register(pairs, where, settings.model, settings.device_name, settings.workers, sliding)
    if failed:
        raise InputError(listed("the cohort", [f"{case}: {reason}" for case, reason in failed.items()]))
    cohort = prepare.gather(pairs, transforms, settings.recipe, folder / FEATURES, stage("prepare"))
    train = np.array([pair.split == "train" for pair in pairs])
    diseased = np.array([bool(pair.diseased) for pair in pairs])
    schedule, seed = settings.schedule, settings.schedule.seed
    x, m, y = cohort.inputs[train], cohort.measures[train], diseased[train]

    members, logits = networks.cross_validated(x, y, schedule, stage("train"))
    calibration = figures.calibration(logits, y, seed)
    base_logits = baseline.nested(m, y, seed)
    base = baseline.calibrated(baseline.fitted(m, y, cohort.names, seed), *figures.platt(base_logits, y))
    both_logits = {"network": logits, "baseline": base_logits}
    probability = {name: figures.calibrated_apart(raw, y, seed) for name, raw in both_logits.items()}
    found: dict[str, Any] = {"cross_validation": {k: figures.figures(y, p, seed) for k, p in probability.items()}}
    # The AUC of answers as they are: another calibration for each person would put people in another order.
    for name, raw in both_logits.items():
        found["cross_validation"][name]["auc"] = figures.figures(y, sigmoid(raw), seed)["auc"]
    found["reliability"] = {name: figures.reliability(y, p) for name, p in probability.items()}
    found["permutation"] = {
        "baseline": figures.permutation_test(
            lambda shuffled: baseline.nested(m, shuffled, seed),
            y,
            found["cross_validation"]["baseline"]["auc"]["value"],
            settings.permutations,
            seed,
        ),
        "network": figures.permutation_test(
            lambda shuffled: networks.cross_validated(x, shuffled, schedule)[1],
            y,
            found["cross_validation"]["network"]["auc"]["value"],
            settings.network_permutations,
            seed,
            stage("permute"),
        ),
    }
    found["verdicts"] = {color: cohort.verdicts.count(color) for color in ("green", "amber", "red")}
    found["verdicts"]["given transforms"] = cohort.verdicts.count(None)

    card = {
        "name": folder.name or "classifier",
        "recipe": asdict(settings.recipe),
        "network": {"filters": schedule.filters, "hidden": schedule.hidden},
        "calibration": calibration,
        "likeness": likeness_entry(likeness_of(m, cohort.names)),
        "baseline": base,
        "training": {
            "people": int(train.sum()),
            "diseased": int(y.sum()),
            "registration": settings.model,
            "sliding": sliding,
            "given_transforms": sum(bool(pair.transform) for pair in pairs if pair.split == "train"),
            # By which `classify` knows them again, without a name.
            "seen": [checksum(path) for p in pairs if p.split == "train" for path in (p.fixed, p.moving)],
            **{key: getattr(schedule, key) for key in ("epochs", "batch", "rate", "halving", "seed")},
        },
        "figures": {},
    }
    # Of the healthy: most of such a cohort is diseased, and its mean would hide what the disease does.
    usual = torch.from_numpy(x[~y].mean(0))
    rows = [
        {"case": pair.case, "split": "train", "diseased": int(bool(pair.diseased)), "network": p, "baseline": b}
        | {"network_logit": z, "baseline_logit": w}
        for pair, p, b, z, w in zip(
            (p for p in pairs if p.split == "train"), *probability.values(), logits, base_logits, strict=True
        )
    ]
    if not train.all():
        held_out = _test(members, calibration, base, cohort, ~train)
        both = set(diseased[~train]) == {True, False}
        if both:
            found["test"] = {name: figures.figures(diseased[~train], p, seed) for name, p in held_out.items()}
        rows += [
            {"case": pair.case, "split": "test", "diseased": int(bool(pair.diseased)), "network": p, "baseline": b}
            | {"network_logit": _logit(p), "baseline_logit": _logit(b)}
            for pair, p, b in zip((p for p in pairs if p.split == "test"), *held_out.values(), strict=True)
        ]
    card["figures"] = {key: value for key, value in found.items() if key in ("cross_validation", "test")}
    classifier = write_classifier(folder / BUNDLE, card, members, usual)
    _write(folder, found, rows)
    report.write(folder / REPORT, card, found, rows)
    return Trained(classifier, found)


def _test(
    members: Sequence[torch.nn.Module],
    calibration: dict[str, Any],
    base: dict[str, Any],
    cohort: prepare.Prepared,
    held_out: np.ndarray,
) -> dict[str, np.ndarray]:
    """Probabilities of those held out: the five networks' mean, calibrated, and the baseline's."""
    x = torch.from_numpy(cohort.inputs[held_out])
    logits = np.stack([member(x).double().numpy() for member in members], 1)
    z = (cohort.measures[held_out] - np.array(base["center"])) / np.array(base["scale"])
    return {
        "network": sigmoid(calibration["slope"] * logits + calibration["intercept"]).mean(1),
        "baseline": sigmoid(z @ np.array(base["coefficients"]) + base["intercept"]),
    }


def _logit(probability: float) -> float:
    share = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(np.log(share / (1 - share)))


def _write(folder: Path, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    try:
        (folder / FIGURES).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        with (folder / PREDICTIONS).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check space and permissions") from None


def lines(found: dict[str, Any]) -> list[str]:
    """What was measured, for a terminal."""
    out = []
    for part, title in (("cross_validation", "cross-validated"), ("test", "held out")):
        for who, told in found.get(part, {}).items():
            out.append(f"{title}, {who}, {told['people']} people of whom {told['diseased']} diseased:")
            for name in ("accuracy", "sensitivity", "specificity", "auc"):
                entry = told[name]
                out.append(
                    f"  {name:<12}{entry['value']:.2f}   bootstrap {_range(entry['bootstrap'])}, "
                    f"score {_range(entry['score'])}"
                )
            out.append(f"  {'Brier score':<12}{told['brier']:.3f}")
    for who, told in found["permutation"].items():
        if told["count"]:
            least = f"of which p cannot be below {1 / (told['count'] + 1):.3f}"
            out.append(f"permutation test, {who}: p = {told['p']:.3f} (shuffled cohorts: {told['count']}, {least})")
    return [*out, *figures.worth(found), "Intervals hold 95 %. Research use only."]


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
