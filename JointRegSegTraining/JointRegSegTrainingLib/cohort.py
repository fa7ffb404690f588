"""A cohort: a CSV that names each image, its labels, whose it is, and what it is for."""

from __future__ import annotations

import csv
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.tables import read_table

#: What the subjects of each part of a cohort are there to do.
SPLITS = {"train": "train on", "validation": "validate on", "test": "test on"}
REQUIRED = ("image", "subject", "split")
OPTIONAL = ("labels", "annotated", "labeled_by")
COLUMNS = ("image", "labels", "subject", "split", "annotated", "labeled_by")
IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True)
class Row:
    """One image. ``labels`` is None where nothing was drawn, ``annotated`` None where every structure was.

    ``labeled_by`` is the model whose segmentation the labels are, None where people drew them.
    """

    image: Path
    labels: Path | None
    subject: str
    split: str
    annotated: tuple[str, ...] | None = None
    labeled_by: str | None = None

    @property
    def name(self) -> str:
        """The image's file name without its ending."""
        return stem(self.image)


def stem(path: Path) -> str:
    """File name without the ending of an image."""
    ending = next((e for e in IMAGES if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def read(path: Path) -> list[Row]:
    """Rows of a cohort CSV, as `look` finds them.

    Raises
    ------
    InputError
        If it cannot be read or is inconsistent; all problems are named.
    """
    rows, problems = look(path)
    if problems:
        raise InputError(listed(path, problems))
    return rows


def look(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a cohort CSV, and what is wrong with them; relative paths count from its own folder.

    The columns are image, subject, split and, where there are any, labels; ``annotated`` names, separated by
    semicolons (in quotes where these separate the columns, too), the structures that were drawn in an image where it
    was not all of them; ``labeled_by`` is written by ``jointregseg pseudo-label``.

    Raises
    ------
    InputError
        If it is no such table at all.
    """
    rows, problems = [], []
    for number, entry in read_table(path, REQUIRED, OPTIONAL).items():
        value = dict.fromkeys(COLUMNS, "") | entry
        empty = [key for key in REQUIRED if not value[key]]
        if empty:
            problems.append(f"line {number}: no {' and no '.join(empty)}")
            continue
        rows.append(
            Row(
                path.parent / value["image"],
                path.parent / value["labels"] if value["labels"] else None,
                value["subject"],
                value["split"],
                tuple(n.strip() for n in value["annotated"].split(";")) if value["annotated"] else None,
                value["labeled_by"] or None,
            )
        )
    return rows, problems + check(rows)


def check(rows: Sequence[Row]) -> list[str]:
    """What is wrong with a cohort as a whole, before any image is read."""
    out = []
    parts: dict[str, set[str]] = defaultdict(set)
    seen: dict[Path, int] = defaultdict(int)
    named: dict[str, set[Path]] = defaultdict(set)
    for row in rows:
        if row.split not in SPLITS:
            out.append(f"{row.image}: split '{row.split}' is none of {', '.join(SPLITS)}")
        for kind, path in (("image", row.image), ("labels", row.labels)):
            if path is not None and not path.is_file():
                out.append(f"{path}: no such {kind} file")
        parts[row.subject].add(row.split)
        if row.labeled_by and row.split != "train":
            out.append(f"{row.image}: its labels are those of a model, so that {row.split} would measure nothing")
        place = row.image.resolve()
        seen[place] += 1
        named[row.name].add(place)
    out += [f"{image}: is listed {count} times" for image, count in seen.items() if count > 1]
    for name, places in named.items():
        if len(places) > 1:
            out.append(f"{len(places)} images are named '{name}'; rename them, for figures and files go by that name")
    for subject, found in parts.items():
        if len(found) > 1:
            out.append(
                f"subject '{subject}' is in {' and in '.join(sorted(found))}; a subject belongs to one split only"
            )
    return out


def check_training(rows: Sequence[Row]) -> list[str]:
    """What is wrong with a cohort as one to train and to validate on, beyond `check`."""
    out = [*too_few(rows, "train"), *too_few(rows, "validation")]
    bare = [row for row in rows if row.split == "validation" and row.labels is None]
    return out + [f"{row.image}: has no labels, which validation needs" for row in bare]


def too_few(rows: Sequence[Row], split: str) -> list[str]:
    """What is wrong with a split that has too few subjects, whose images make no pair."""
    count = len({row.subject for row in rows if row.split == split})
    return [f"{count} subject{'s' * (count != 1)} to {SPLITS[split]}; two at least make a pair"] if count < 2 else []


def listed(origin: Path | str, problems: Sequence[str]) -> str:
    """All problems as one message."""
    if len(problems) == 1:
        return f"{origin}: {problems[0]}"
    return f"{origin}: {len(problems)} problems\n" + "\n".join(f"  - {problem}" for problem in problems)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a cohort CSV with absolute paths, in one move, into a folder that is made if there is none.

    Links stay links: what they lead to may have a name that tells nothing, as in data that git-annex or DVC keeps.

    Raises
    ------
    OutputError
        If it cannot be written, or there is a file that is no cohort.
    """
    if path.exists():
        try:
            read_table(path, REQUIRED, OPTIONAL)
        except InputError:
            raise OutputError(
                f"{path}: exists and is no cohort, so that it is not replaced; name another file"
            ) from None
    part = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for row in rows:
                labels = "" if row.labels is None else row.labels.absolute()
                annotated, by = ";".join(row.annotated or ()), row.labeled_by or ""
                table.writerow([row.image.absolute(), labels, row.subject, row.split, annotated, by])
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def require_same(path: Path, rows: Sequence[Row]) -> None:
    """Raise `InputError` if a run's cohort is another one than ``rows``: a run that goes on keeps to its split.

    Where the files lie does not matter.
    """

    def told(rows: Sequence[Row]) -> list[tuple]:
        return [(row.name, row.subject, row.split, row.labels is None, row.annotated, row.labeled_by) for row in rows]

    if path.is_file() and told(look(path)[0]) != told(rows):
        said = "the run was begun with another cohort, or with its lines in another order"
        raise InputError(f"{path}: {said}; choose another folder")


def of_folder(
    folder: Path,
    validation: int,
    test: int,
    subject: str = "(.*)",
    only: str = "",
    seed: int = 0,
    labeled: int | None = None,
    fold: int = 0,
) -> list[Row]:
    """Rows for a folder with ``images/NAME`` and, under the same names, ``labels/NAME``.

    Parameters
    ----------
    validation, test : int
        Number of subjects to validate on and to leave out altogether.
    subject : str
        Regular expression whose first group, at the beginning of NAME, is whose image it is.
    only : str
        Regular expression; images whose NAME it is not found in are left out.
    labeled : int or None
        Number of training subjects whose labels are kept, to try what few labels are worth; None: all. Those of a
        smaller number are among those of a larger one.
    fold : int
        Of a cross-validation, from 0 on: each leaves out others.

    Raises
    ------
    InputError
        If there are too few, or the expressions do not fit.
    """
    try:
        whose, wanted = re.compile(subject), re.compile(only)
    except re.error as error:
        raise InputError(f"'{error.pattern}' is no regular expression ({error}); see --subject and --only") from None
    # Hidden files are those of file managers and archives, which name them after what they are about.
    images = sorted(p for p in (folder / "images").glob("[!.]*") if p.name.lower().endswith(IMAGES))
    images = [p for p in images if wanted.search(stem(p))]
    if not images:
        raise InputError(
            f"{folder}: no images in its folder images/" + (f" with '{only}' in their names" if only else "")
        )
    owners = {}
    for image in images:
        match = whose.match(stem(image))
        if not match or not match.groups():
            raise InputError(f"{image}: '{subject}' does not say whose image it is; it needs a (group)")
        owners[image] = match.group(1)
    parts = split(sorted(set(owners.values())), validation, test, seed, fold)
    part_of = {name: part for part, names in parts.items() for name in names}
    bare: set[str] = set()
    if labeled is not None:
        if not 0 <= labeled <= len(parts["train"]):
            raise InputError(f"{labeled} labeled subjects: there are {len(parts['train'])} to train on")
        bare = set(random.Random(seed).sample(parts["train"], len(parts["train"]))[labeled:])
    rows = []
    for image, owner in owners.items():
        labels = folder / "labels" / image.name
        known = labels.is_file() and owner not in bare
        rows.append(Row(image, labels if known else None, owner, part_of[owner]))
    return rows


def split(names: Sequence[str], validation: int, test: int, seed: int = 0, fold: int = 0) -> dict[str, list[str]]:
    """Divide subjects into 'train', 'validation' and 'test', the same way for the same names and seed.

    The test subjects of no two folds of a seed are the same; where nobody is to test on, those to validate on are not.
    """
    aside, of = (test, "test") if test else (validation, "validation")
    if validation + test >= len(names):
        raise InputError(
            f"{len(names)} subjects are too few for {validation} in validation and {test} in test; ask for fewer "
            "(--validation, --test)"
        )
    if fold and (fold + 1) * aside > len(names):
        count = len(names) // aside if aside else 1
        raise InputError(f"fold {fold}: with {aside} of {len(names)} subjects in {of} there are {count}")
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    shuffled = shuffled[fold * aside :] + shuffled[: fold * aside]
    return {
        "test": sorted(shuffled[:test]),
        "validation": sorted(shuffled[test : test + validation]),
        "train": sorted(shuffled[test + validation :]),
    }


def random_pairs(
    names: Sequence[str], count: int, seed: int = 0, owners: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """``count`` pairs (moving, fixed) of images, spread evenly over them; the same for the same seed.

    No pair comes twice: of few people there may be fewer than were asked for. ``owners`` says whose each image is, each
    its own where it is None; two of one person are never paired.

    Raises
    ------
    InputError
        If all are of one person.
    """
    owner = dict(zip(names, names if owners is None else owners, strict=True))
    if len(set(owner.values())) < 2:
        raise InputError("two subjects at least make a pair")
    order = list(names)
    random.Random(seed).shuffle(order)
    # In a circle, each with the next one, then each with the next but one, and so on: every pair once.
    circles = (zip(order, order[step:] + order[:step], strict=True) for step in range(1, len(order)))
    every = ((a, b) for a, b in itertools.chain.from_iterable(circles) if owner[a] != owner[b])
    return list(itertools.islice(every, count))
