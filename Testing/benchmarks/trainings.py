"""Trainings by `jointregseg train` that go on where they were, and their figures: what experiments have in common."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from JointRegSegLib import device
from JointRegSegLib.errors import JointRegSegError
from JointRegSegTrainingLib import cohort, evaluation, plan, subjects
from JointRegSegTrainingLib.runs import load_run, part, settled
from JointRegSegTrainingLib.trainer import check_folder, read_state
from revision import revision

Figures = list[dict[str, float | str]]
#: Options that name folders.
PLACES = ("--output", "--data", "--cohort")


class OutOfTime(Exception):
    """The time of `Trainings` is up; called again with the same folder they go on."""


@dataclass(frozen=True)
class Table:
    """What an experiment found.

    Attributes
    ----------
    title, said : str
        Its heading, and what its figures are of.
    columns, rows : sequence
        Names, and as many cells for each row.
    """

    title: str
    said: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def tell(self, path: Path | None, pairs: object = None) -> None:
        """Print it; with ``path`` keep it there for document.py, with the figures of each pair."""
        out = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        out.writerows([self.columns, *self.rows])
        print(self.said)
        if path:
            found = asdict(self) | {"command": _command(), "commit": revision(), "pairs": pairs}
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _command() -> str:
    """This process's, without the folders that it reads and writes."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    places = {n + 1 for n, word in enumerate(words) if word in PLACES}
    return shlex.join(word for n, word in enumerate(words) if n not in places and word not in PLACES)


def parser(text: str, steps: int, meaning: str) -> argparse.ArgumentParser:
    """Options that all experiments have; ``steps`` is the default of --steps, and ``meaning`` its help."""
    out = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    out.add_argument("--steps", type=int, default=steps, help=meaning)
    out.add_argument("--validation", type=int, default=20, help="people to validate on")
    out.add_argument("--test", type=int, default=30, help="people to leave out")
    out.add_argument("--pairs", type=int, default=60, help="random pairs of the people left out")
    out.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of jointregseg train")
    out.add_argument("--output", type=Path, required=True, help="folder of the trainings")
    return out


def call(*words: object) -> None:
    """`jointregseg` in a process of its own.

    Raises
    ------
    SystemExit
        If it fails, with its code; it has said why.
    """
    if code := subprocess.run([sys.executable, "-m", "JointRegSegLib.cli", *map(str, words)], check=False).returncode:
        raise SystemExit(code)


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be used ends an experiment, in one line."""
    try:
        yield
    except JointRegSegError as error:
        raise SystemExit(str(error)) from None


def cohort_of(source: Path, table: Path, *split: int, **options: int | None) -> Path:
    """Table of a folder's cohort, as `cohort.of_folder` divides it; one that is there already has to be the same."""
    with _told():
        rows = cohort.of_folder(source, *split, **options)
        cohort.require_same(table, rows)
        cohort.write(table, rows)
    return table


@dataclass
class Trainings:
    """Runs of one configuration.

    Attributes
    ----------
    config : str or Path
        As of ``--config``.
    changes : sequence of str
        To the configuration, in all runs.
    minutes : float
        For all of them together.
    """

    config: str | Path
    changes: Sequence[str] = ()
    minutes: float = float("inf")

    def __post_init__(self) -> None:
        self._end = time.monotonic() + 60 * self.minutes

    @property
    def left(self) -> float:
        """Minutes that are left."""
        return (self._end - time.monotonic()) / 60

    def train(self, run: Path, table: Path, steps: int, changes: Sequence[str] = (), start: Path | None = None) -> Path:
        """Train on the cohort of that table to the end, unless that is done; returns the run's folder.

        Raises
        ------
        OutOfTime
            If the end is not reached in time.
        SystemExit
            If the training fails, or the folder has a run of another plan or cohort.
        """
        # What a training is about counts more than what is asked for of all of them.
        changes = (f"steps={steps}", *self.changes, *changes)
        if _done(run, steps):
            self._require(run, table, changes)
        else:
            if self.left <= 0:
                raise OutOfTime
            words = ["train", "--config", self.config, "--cohort", table, "--output", run]
            words += ["--max-minutes", self.left]
            words += ["--start", start] if start else []
            for change in changes:
                words += ["--set", change]
            call(*words)
            if not _done(run, steps):
                raise OutOfTime
        return run

    def _require(self, run: Path, table: Path, changes: Sequence[str]) -> None:
        """End with a line unless that is what a complete run was trained for and on."""
        with _told():
            source = plan.find(self.config)
            made = plan.from_entries(plan.read_entries(source, changes), str(source))
            check_folder(run, settled(made, run, device.choose("auto")))
            cohort.require_same(run / "cohort.csv", cohort.read(table))


def _done(run: Path, steps: int) -> bool:
    return (run / "state.pt").is_file() and read_state(run)["step"] >= steps


def bundle(run: Path) -> Path:
    """The run as a model bundle beside it, to begin other runs with."""
    place = run.with_name(f"{run.name} bundle")
    if not (place / "model.json").exists():
        call("export", "--run", run, "--output", place, "--pairs", 2)
    return place


def figures(run: Path, count: int, **changes: object) -> Figures:
    """Of random pairs of the people whom the run's cohort leaves out, each with the name of its ``fixed`` image.

    ``changes`` are arguments of the network in which it differs from the one that was trained.
    """
    made, rows, network = load_run(run)
    for name, value in changes.items():
        setattr(network, name, value)
    held_out = subjects.load(part(rows, "test"), made, run)
    pairs = subjects.pairs_of(held_out, count)
    found = evaluation.each(network, held_out, pairs, made)
    return [{"fixed": fixed, **row} for (_, fixed), row in zip(pairs, found, strict=True)]
