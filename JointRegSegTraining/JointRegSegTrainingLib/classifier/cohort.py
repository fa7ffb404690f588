"""A cohort of breathing pairs with a diagnosis: a CSV with a line for each person."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from JointRegSegLib import batch
from JointRegSegLib.errors import InputError

from ..cohort import entries, listed

DIAGNOSES = ("healthy", "diseased")
SPLITS = ("train", "test")
FILES = ("fixed", "moving", "fixed_labels", "moving_labels", "transform")
REQUIRED = ("case", "fixed", "moving", "fixed_labels")
COLUMNS = (*REQUIRED, "moving_labels", "subject", "diagnosis", "split", "transform")
#: People of each diagnosis that cross-validation needs.
FOLDS = 5


@dataclass(frozen=True)
class Pair:
    """One person: two phases of breathing, the fixed image's lungs, and what is known of them.

    ``transform`` maps fixed to moving points; None where the pair has to be registered. ``diseased`` is None where no
    diagnosis is given.
    """

    case: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path | None = None
    subject: str = ""
    diseased: bool | None = None
    split: str = "train"
    transform: Path | None = None


def read(path: Path, training: bool = True) -> list[Pair]:
    """Pairs of a CSV; relative paths count from its own folder.

    Parameters
    ----------
    training : bool
        Whether diagnoses are needed, and people enough of both to cross-validate.

    Raises
    ------
    InputError
        If anything is wrong; all problems are named.
    """
    pairs, problems = [], []
    for number, row in enumerate(entries(path, (*REQUIRED, "diagnosis") if training else REQUIRED, COLUMNS), 2):
        needed = (*REQUIRED, "diagnosis") if training else REQUIRED
        if empty := [key for key in needed if not row[key]]:
            problems.append(f"line {number}: no {' and no '.join(empty)}")
            continue
        if problem := batch.problem_of(row["case"], set()):
            problems.append(f"line {number}: {problem}")
        diagnosis, split = row.get("diagnosis", ""), row.get("split") or "train"
        if diagnosis and diagnosis not in DIAGNOSES:
            problems.append(f"line {number}: diagnosis '{diagnosis}' is none of {', '.join(DIAGNOSES)}")
        if split not in SPLITS:
            problems.append(f"line {number}: split '{split}' is none of {', '.join(SPLITS)}")
        places = {key: path.parent.absolute() / row[key] if row.get(key) else None for key in FILES}
        problems += [f"line {number}: {p}: no such {k} file" for k, p in places.items() if p and not p.exists()]
        sick = diagnosis == DIAGNOSES[1] if diagnosis else None
        pairs.append(Pair(row["case"], subject=row.get("subject") or row["case"], diseased=sick, split=split, **places))
    for what in ("case", "subject"):
        counts = Counter(getattr(pair, what) for pair in pairs)
        problems += [f"{what} '{name}' is listed {n} times; keep one pair" for name, n in counts.items() if n > 1]
    if training and not problems:
        for name, sick in zip(DIAGNOSES, (False, True), strict=True):
            count = sum(pair.diseased is sick for pair in pairs if pair.split == "train")
            if count < FOLDS:
                problems.append(f"{count} {name} people to train on; {FOLDS} at least of each diagnosis are needed")
    if not pairs and not problems:
        problems.append("holds no pairs")
    if problems:
        raise InputError(listed(path, problems))
    return pairs
