"""What a training run leaves in its folder, read back: plan, cohort, network; and who may write there."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        raise InputError(f"{path}: is damaged ({error})") from None
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
        raise InputError(f"the cohort has {problems[0]}")
    return [row for row in rows if row.split == split]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raise `OutputError` if another process works in a folder: each would replace what the other wrote."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"{folder}: another process works there; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()
