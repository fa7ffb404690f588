"""Other people's registration on the same pairs: SimpleITK's demons, and ANTs SyN in an environment of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ANTS = HERE.parents[1] / ".venv-ants"


def demons(table: Path, folder: Path) -> float:
    """SimpleITK's demons; the peak of memory in GB."""
    return peak([sys.executable, HERE / "sitk_demons.py", table, folder, torch.get_num_threads()])


def syn(table: Path, folder: Path) -> float:
    """ANTs SyN in its own environment, which is made if it is missing; the peak of memory in GB."""
    python = ANTS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ANTS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "antspyx"], check=True)
    return peak([python, HERE / "ants_syn.py", table, folder])


def peak(command: Sequence[object]) -> float:
    """Run a command and tell how much memory it had at most, in GB; raise `CalledProcessError` if it fails."""
    words = [str(word) for word in command]
    # ITK and OpenMP start a thread for every core that they see; all here may use as many as torch.
    count = str(torch.get_num_threads())
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": count, "OMP_NUM_THREADS": count}
    process = subprocess.Popen(words, env={**os.environ, **threads}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, words)
    return usage.ru_maxrss / 1e6


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds by case of a method above."""
    with (folder / "seconds.csv").open(newline="") as stream:
        return {row["case"]: float(row["seconds"]) for row in csv.DictReader(stream)}
