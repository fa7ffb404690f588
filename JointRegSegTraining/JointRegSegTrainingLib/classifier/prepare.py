"""From a cohort's pairs to what is learned from: registered where nobody did, measured, and kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from JointRegSegLib import __version__, batch, files
from JointRegSegLib.catalog import GENERIC
from JointRegSegLib.errors import InputError, JointRegSegError
from JointRegSegLib.lung.features import Recipe, prepare, regional
from JointRegSegLib.lung.pair import BreathingPair, breathing_pair
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..cohort import listed
from .cohort import Pair

_BATCH = ("case", "fixed", "moving", "fixed_labels", "moving_labels")
#: What is registered, in the folder of the registrations, where no table of a person's can be replaced by it.
TABLE = ".pairs.csv"
#: Lungs slide along the wall, which only `generic` is told to allow for.
_SLIDING = ("fixed_organs", "moving_organs")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A cohort's n people: ``inputs`` (n, C, s, s, s) float32, ``measures`` (n, p) by ``names``, and ``verdicts``.

    A verdict is the color of a registration's, None where a transform was given.
    """

    inputs: np.ndarray
    measures: np.ndarray
    names: tuple[str, ...]
    verdicts: tuple[str | None, ...]


#: Transform and verdict of each case; see `register`.
Registered = dict[str, tuple[Path, str | None]]


def slides(pairs: Sequence[Pair], model: str) -> bool:
    """Whether the lungs of a cohort slide along the wall as they are registered: those of all its pairs, or of none.

    It takes the lungs of both scans. Where only some pairs have them, for instance of the sick, the registration would
    tell the diagnosis.
    """
    return model == GENERIC and all(p.fixed_labels and p.moving_labels for p in pairs if p.transform is None)


def register(
    pairs: Sequence[Pair], folder: Path, model: str, device_name: str, workers: int = 1, sliding: bool = True
) -> tuple[Registered, dict[str, str]]:
    """Transform and verdict of each case; those that the cohort names no transform for are registered in ``folder``.

    The folder is one of `jointregseg batch`: cases that it holds already are kept. The reasons of cases that fail are
    returned beside. With ``sliding`` lungs slide along the wall wherever those of both scans are known.
    """
    found: Registered = {p.case: (p.transform, None) for p in pairs if p.transform}
    missing = [pair for pair in pairs if pair.transform is None]
    if not missing:
        return found, {}
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / TABLE
    with table.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(_BATCH + _SLIDING)
        for pair in missing:
            both = (pair.fixed_labels, pair.moving_labels)
            organs = both if sliding and model == GENERIC and all(both) else ("", "")
            rows.writerow([*(getattr(pair, column) or "" for column in _BATCH), *organs])
    options = {"model": model, "device_name": device_name}
    outcome = batch.run_batch(table, folder, options, finished=_say, workers=workers)
    failed = {row["case"]: row["reason"] for row in outcome.failed}
    verdicts = {row["case"]: row["verdict"] for row in outcome.rows if row["case"] not in failed}
    return found | {case: (folder / case / "transform.h5", color) for case, color in verdicts.items()}, failed


def _say(row: dict) -> None:
    from JointRegSegLib.terminal import say

    if row["status"] != "kept":
        say(f"{row['case']}: registered, {row.get('verdict', row['status'])}")


def measured(pair: Pair, transform: Path) -> BreathingPair:
    """The lungs of a registered pair.

    Raises
    ------
    InputError
        If transform or labels cannot be read or used.
    """
    labels = files.read_labels(pair.fixed_labels, files.read_image(pair.fixed, values=False), "fixed")
    return breathing_pair(files.read_transform(transform), labels)


def gather(
    pairs: Sequence[Pair],
    transforms: Registered,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[float], None] | None = None,
) -> Prepared:
    """Inputs and measures of a cohort, each case's kept in ``folder`` for the next time.

    Raises
    ------
    InputError
        If cases cannot be measured; all of them are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    problems, rows = [], []
    for number, pair in enumerate(pairs):
        transform, verdict = transforms[pair.case]
        try:
            rows.append((*_kept(pair, transform, recipe, folder / f"{pair.case}.safetensors"), verdict))
        except JointRegSegError as error:
            problems.append(f"{pair.case}: {error}")
        if progress:
            progress((number + 1) / len(pairs))
    if problems:
        raise InputError(listed("the cohort", problems))
    inputs, measures, names, verdicts = zip(*rows, strict=True)
    return Prepared(np.stack(inputs), np.stack(measures), names[0], verdicts)


def _kept(pair: Pair, transform: Path, recipe: Recipe, path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    made_of = json.dumps(
        {
            "version": __version__,
            "recipe": asdict(recipe),
            "files": [[str(p), files.stamp(p)] for p in (pair.fixed_labels, transform)],
        }
    )
    # One that is damaged, as by a full disk, is made anew like one of other files.
    with suppress(SafetensorError, OSError, KeyError, TypeError, ValueError), safe_open(path, "np") as kept:
        told = kept.metadata()
        if told["made_of"] == made_of:
            return kept.get_tensor("input"), kept.get_tensor("measures"), tuple(json.loads(told["names"]))
    lungs = measured(pair, transform)
    found = regional(lungs)
    arrays = {"input": prepare(lungs, recipe)[0], "measures": np.array(list(found.values()))}
    save_file(arrays, path, {"made_of": made_of, "names": json.dumps(list(found))})
    return arrays["input"], arrays["measures"], tuple(found)
