"""What a training run leaves in its folder, read back: plan, cohort, network; and who may write there."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.networks import RegistrationNetwork

from . import cohort
from .plan import Plan, from_entries
from .trainer import build, read_state

#: Checksums of the cohort's files as they were when the run began; and what says that a process works in the folder.
CONTENTS, LOCK = "contents.json", ".lock"


def load_run(folder: Path) -> tuple[Plan, list[cohort.Row], RegistrationNetwork]:
    """Plan, cohort and averaged network of a training run.

    Raises
    ------
    InputError
        If the folder holds no run, or the cohort's files are no longer where they were.
    """
    plan = _plan_of(folder)
    rows = cohort.read(folder / "cohort.csv")
    network = build(plan)
    try:
        network.load_state_dict(read_state(folder)["average"])
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(f"{folder / 'state.pt'}: is of another network than {folder / 'plan.json'}") from None
    return plan, rows, network.eval()


def _plan_of(folder: Path) -> Plan:
    path = folder / "plan.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: no such file; name the folder of a training run") from None
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); train anew in another folder") from None
    return from_entries(entries, str(path))


def settled(plan: Plan, folder: Path, device: torch.device) -> Plan:
    """The plan with its ``mixed`` as the run in a folder has it, else as suits the device, if nothing is said of it."""
    if plan.mixed is not None:
        return plan
    mixed = _plan_of(folder).mixed if (folder / "plan.json").is_file() else None
    return replace(plan, mixed=device.type == "cuda" if mixed is None else mixed)


def steps_left(folder: Path) -> int:
    """Steps that a training run has still to go; raises as `load_run` does."""
    return _plan_of(folder).steps - read_state(folder)["step"]


def part(rows: list[cohort.Row], split: str) -> list[cohort.Row]:
    """The rows of one split.

    Raises
    ------
    InputError
        If there are fewer than two subjects, which make no pair.
    """
    if problems := cohort.too_few(rows, split):
        raise InputError(
            f"the run's cohort has {problems[0]}; train anew, in another folder, with a cohort that has them"
        )
    return [row for row in rows if row.split == split]


def changed(folder: Path, rows: Sequence[cohort.Row], step: int) -> list[Path]:
    """Files of a run's cohort that are not what they were when it began; at its first step they are noted."""
    now = {f"{row.name} {kind}": path for row in rows for kind in ("image", "labels") if (path := getattr(row, kind))}
    sums, noted = {key: zlib.crc32(path.read_bytes()) for key, path in now.items()}, folder / CONTENTS
    if step == 0 or not noted.is_file():
        noted.write_text(json.dumps(sums), encoding="utf-8")
        return []
    before = json.loads(noted.read_text(encoding="utf-8"))
    return [path for key, path in now.items() if before.get(key) != sums[key]]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder, which is made, or else removed again if nothing comes to lie in it.

    Raises
    ------
    OutputError
        If another process works there, for each would replace what the other wrote, or it cannot be written to.
    """
    fresh, lock = not folder.exists(), FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"{folder}: another process works there; wait for it, or name another folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        lock.release()
        if fresh and folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
