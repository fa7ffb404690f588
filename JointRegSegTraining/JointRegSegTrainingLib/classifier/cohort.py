"""A cohort of breathing pairs with a diagnosis: a CSV with a line for each person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from JointRegSegLib import batch
from JointRegSegLib.errors import InputError
from JointRegSegLib.tables import read_table

from ..cohort import listed

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


@dataclass(frozen=True)
class Refused:
    """A row that cannot be used: its line in the table, its case, and what is wrong with it."""

    line: int
    case: str
    problems: list[str]

    @property
    def name(self) -> str:
        """What to call it where others are called by their cases."""
        return f"{self.case} (line {self.line})" if self.case else f"line {self.line}"


def read(path: Path) -> list[Pair]:
    """Pairs of a CSV to train on, as `look` finds them.

    Raises
    ------
    InputError
        If anything is wrong, or people are too few to cross-validate; all problems are named.
    """
    pairs, refused = look(path, (*REQUIRED, "diagnosis"))
    problems = [f"line {row.line}: {problem}" for row in refused for problem in row.problems]
    counts = Counter(pair.subject for pair in pairs)
    problems += [f"subject '{name}' is listed {n} times; keep one pair" for name, n in counts.items() if n > 1]
    problems += _shared(pairs)
    if not problems:
        problems = too_few(*(sum(p.diseased is sick for p in pairs if p.split == "train") for sick in (False, True)))
    if problems:
        raise InputError(listed(path, problems))
    return pairs


def _shared(pairs: Sequence[Pair]) -> list[str]:
    """Images that are those of two cases: the same person, whatever the table says, would be in training and test."""
    owners: dict[Path, str] = {}
    problems = []
    for pair in pairs:
        for path in (pair.fixed.resolve(), pair.moving.resolve()):
            other = owners.setdefault(path, pair.case)
            if other != pair.case:
                problems.append(f"{path}: is an image of case '{other}' and of case '{pair.case}'; keep one")
    return problems


def look(path: Path, needed: Sequence[str] = REQUIRED) -> tuple[list[Pair], list[Refused]]:
    """Pairs of a CSV, and the rows that are none; relative paths count from its own folder.

    Raises
    ------
    InputError
        If it is no such table at all, or holds no row.
    """
    pairs, refused, taken = [], [], set()
    for number, row in read_table(path, needed, [name for name in COLUMNS if name not in needed]).items():
        case, diagnosis, split = row["case"], row.get("diagnosis"), row.get("split") or "train"
        places = {key: path.parent.absolute() / row[key] if row.get(key) else None for key in FILES}
        problems = [f"no {' and no '.join(empty)}"] if (empty := [key for key in needed if not row[key]]) else []
        if case and (problem := batch.problem_of(case, taken)):
            problems.append(problem)
        if diagnosis and diagnosis not in DIAGNOSES:
            problems.append(f"diagnosis '{diagnosis}' is none of {', '.join(DIAGNOSES)}")
        if split not in SPLITS:
            problems.append(f"split '{split}' is none of {', '.join(SPLITS)}")
        problems += [f"{place}: no such {key} file" for key, place in places.items() if place and not place.exists()]
        if places["fixed"] and places["moving"] and places["fixed"].resolve() == places["moving"].resolve():
            problems.append(f"{places['fixed']}: is both the fixed and the moving image; give two phases of breathing")
        taken.add(case.lower())
        if problems:
            refused.append(Refused(number, case, problems))
            continue
        sick = diagnosis == DIAGNOSES[1] if diagnosis else None
        pairs.append(Pair(case, subject=row.get("subject") or case, diseased=sick, split=split, **places))
    if not pairs and not refused:
        raise InputError(f"{path}: holds no pairs")
    return pairs, refused


def too_few(healthy: int, diseased: int) -> list[str]:
    """What is wrong with so many people to train on."""
    return [
        f"{count} {name} people to train on; {FOLDS} at least of each diagnosis are needed"
        for name, count in zip(DIAGNOSES, (healthy, diseased), strict=True)
        if count < FOLDS
    ]
