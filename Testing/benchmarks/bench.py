"""Figures on held-out people: this project's models beside SimpleITK's demons and ANTs SyN, in one run.

Pairs are different people whom the system's model was not trained on (its bundle names them), prepared as its paper has
them. Everything goes through the public batch command and is scored from the files that it wrote. With --output the
figures of each pair are kept in figures.json, which document.py makes tables and plots of.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from cohorts import COHORTS, Cohort, prepare, read
from JointRegSegLib import metrics, models
from JointRegSegLib.batch import run_batch
from JointRegSegLib.cli import REFINE_STEPS
from JointRegSegLib.pipeline import register_and_segment
from others import demons, peak, seconds_of, syn
from revision import revision
from scores import Row, score

FIRST = ("", "Dice", "Dice30", "HD95", "fixed", "folded", "SDlogJ", "std", "there and back", "sec")
SECOND = ("", "", "", "vox", "seg.", "%", "L2R", "logJ", "mean, max vox", "")
WIDTHS = (-42, 7, 8, 7, 7, 9, 8, 7, 17, 7)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--system", choices=COHORTS, default="hippocampus")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--output", type=Path, help="keep all results in this folder (default: a temporary one)")
    parser.add_argument("--no-ants", action="store_true", help="leave ANTs out")
    parser.add_argument("--list", action="store_true", help="print the systems that can be measured, and do nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(name for name, cohort in COHORTS.items() if cohort.models))
        return 0
    cohort = COHORTS[arguments.system]
    if not cohort.models:
        print(
            f"bench: none of {', '.join(cohort.names)} is installed; train one, or choose another --system",
            file=sys.stderr,
        )
        return 2
    source = Path(arguments.data) / cohort.folder
    if not source.is_dir():
        print(f"bench: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = bench(cohort, source, folder, arguments.pairs, not arguments.no_ants)
        figures = {"system": arguments.system, "commit": revision(), **figures}
        (folder / "figures.json").write_text(json.dumps(figures, indent=1))
    return 0


def bench(cohort: Cohort, source: Path, folder: Path, count: int, with_ants: bool) -> dict:
    """Run all methods and print a line for each; their figures by method and pair."""
    pairs, people = cohort.chosen(count)
    table = prepare(cohort, source, folder, pairs)
    whom = f"{people} people who were" if people > 1 else "one person who was"
    said = f"{len(pairs)} pairs of {whom} not trained on; {torch.get_num_threads()} CPU threads"
    print(f"{said}\n")
    for titles in (FIRST, SECOND):
        print("".join(f"{t:>{w}}" if w > 0 else f"{t:<{-w}}" for t, w in zip(titles, WIDTHS, strict=True)))
    labels, out, memory = cohort.labels, {}, {}

    def keep(name: str, rows: list[Row]) -> None:
        out[name] = rows
        show(name, rows)

    keep("none", score(table, None, labels))
    others = {"SimpleITK demons": demons} | ({"ANTs SyN": syn} if with_ants else {})
    for name, method in others.items():
        found = folder / method.__name__
        memory[name] = method(table, found)
        keep(name, score(table, found, labels, seconds_of(found)))
    runs = {"generic": {"model": "generic"}}
    for model in cohort.models:
        runs |= {model: {"model": model}, f"{model}, --refine": {"model": model, "refine": REFINE_STEPS}}
    for name, options in runs.items():
        pair = [next(read(table))[key] for key in ("fixed", "moving")]
        memory[name] = _memory(pair, options)
        # Loading is not part of a pair's time: the first pair of a process would carry it alone.
        register_and_segment(*pair, options["model"], device_name="cpu")
        place = folder / name.replace(", --", "-")
        times = _times(table, place, options, "cpu")
        if torch.cuda.is_available():
            register_and_segment(*pair, options["model"], device_name="cuda")
            on_gpu = _times(table, place.with_name(f"{place.name} on a GPU"), options, "cuda")
            times = {case: [*found, on_gpu[case][0]] for case, found in times.items()}
        segmented = () if name == "generic" else {*models.find(options["model"]).label_values} & {*labels}
        rows = score(table, place, labels, {case: found[0] for case, found in times.items()}, segmented)
        for row, found in zip(rows, times.values(), strict=True):
            row |= dict(zip(("all_seconds", "gpu_seconds"), found[1:], strict=False))
        keep(name, rows)
    names = {label.value: label.name for label in cohort.plan.labels if label.value in labels}
    return {"said": said, "machine": platform.machine(), "labels": names, "memory": memory, "methods": out}


def _times(table: Path, folder: Path, options: dict, device: str) -> dict[str, list[float]]:
    """Seconds of each pair by the batch command, in the table's order: of the estimation, and of everything."""
    outcome = run_batch(table, folder, {**options, "device_name": device}, overwrite=True)
    for row in outcome.failed:
        print(f"{row['case']}: {row['reason']}", file=sys.stderr)
    return {row["case"]: [row["estimating_seconds"], row["seconds"]] for row in outcome.rows}


def _memory(pair: Sequence[str], options: dict) -> float:
    """Peak in GB of a process that registers one pair, as from a shell."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "JointRegSegLib.cli", "register", "--fixed", pair[0], "--moving", pair[1]]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        return peak([*command, "--device", "cpu", "--output", Path(temporary) / "out"])


def show(name: str, rows: list[Row]) -> None:
    """Print a method's line."""

    def mean(key: str, width: int, digits: int, factor: float = 1.0) -> str:
        values = [row[key] for row in rows if key in row]
        return f"{factor * np.mean(values):>{width}.{digits}f}" if values else " " * width

    hardest = metrics.hardest_mean([row["dice"] for row in rows], [row["before"] for row in rows])
    worst = max((row.get("max_error", np.nan) for row in rows), default=np.nan)
    trip = f"{mean('mean_error', 0, 3)}, {worst:.2f}" if "mean_error" in rows[0] else ""
    print(
        f"{name:<42}{mean('dice', 7, 3)}{hardest:>8.3f}{mean('hd95', 7, 2)}{mean('segmentation', 7, 3)}"
        f"{mean('folded', 9, 4, 100)}{mean('sdlogj', 8, 3)}{mean('spread', 7, 3)}{trip:>17}{mean('seconds', 7, 2)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
