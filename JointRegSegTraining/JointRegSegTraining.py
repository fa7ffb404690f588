#!/usr/bin/env python-real
"""The headless module: trains JointRegSeg's networks, and its classifier, from the panel, `slicer.cli.run` or a shell.

It hands its parameters to the subcommands of ``jointregseg`` and tells Slicer how far they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# What is imported lies beside this file in a checkout, and in the folder of scripted modules once Slicer installed it.
sys.path[:0] = [str(_HERE), str(_HERE.parent / "JointRegSeg"), str(_HERE.parent / "qt-scripted-modules")]

NAME = "JointRegSegTraining"
TASKS = (
    "train",
    "evaluate",
    "make-references",
    "pseudo-label",
    "export",
    "simulate-cohort",
    "train-classifier",
    "classify",
)
#: Which parameters each task takes, and as which option of its subcommand; those with ! cannot be left out.
OPTIONS = {
    "train": {
        "configuration": "--config!",
        "cohort": "--cohort!",
        "run": "--output!",
        "references": "--references",
        "start": "--start",
        "changes": "--set",
        "minutes": "--max-minutes",
        "device": "--device",
    },
    "evaluate": {"run": "--run!", "device": "--device"},
    "make-references": {
        "configuration": "--config!",
        "cohort": "--cohort!",
        "references": "--output!",
        "changes": "--set",
    },
    "pseudo-label": {"start": "--model!", "cohort": "--cohort!", "run": "--output!", "device": "--device"},
    "export": {"run": "--run!", "bundle": "--output"},
    "simulate-cohort": {
        "run": "--output!",
        "patients": "--patients",
        "healthy": "--healthy",
        "severity": "--severity",
        "data": "--data",
    },
    "train-classifier": {"cohort": "--cohort!", "run": "--output!", "start": "--model", "device": "--device"},
    "classify": {"bundle": "--bundle!", "cohort": "--cohort!", "run": "--output!", "device": "--device"},
}
#: Tasks that say themselves how far they are.
WITH_PROGRESS = ("train", "make-references", "pseudo-label", "simulate-cohort", "train-classifier", "classify")
#: What the library needs beyond what Slicer brings, by the name under which it is imported.
PACKAGES = {
    "torch": "torch",
    "accelerate": "accelerate",
    "jsonschema": "jsonschema",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "surface_distance": "surface-distance",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
}


def parser() -> argparse.ArgumentParser:
    """One option for each parameter of the XML; Slicer leaves out what is empty."""
    out = argparse.ArgumentParser(prog=NAME, description="Train JointRegSeg's networks. For research use only.")
    out.add_argument("--task", choices=TASKS, default=TASKS[0])
    for name in ("cohort", "configuration", "run", "references", "start", "changes", "bundle", "data"):
        out.add_argument(f"--{name}", default="")
    for name, default in (("patients", 41), ("healthy", 12)):
        out.add_argument(f"--{name}", type=int, default=default)
    out.add_argument("--severity", type=float, default=0.6)
    out.add_argument("--minutes", type=float, default=0.0)
    out.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return out


def command(given: argparse.Namespace) -> list[str]:
    """The words of the subcommand that does the task.

    Raises
    ------
    ValueError
        If a parameter that the task needs is empty.
    """
    words = []
    for name, option in OPTIONS[given.task].items():
        value = getattr(given, name)
        if value == "" or (value == 0 and name == "minutes"):
            if option.endswith("!"):
                raise ValueError(f"the task '{given.task}' needs a value for '{name}' (--{name})")
            continue
        values = [part.strip() for part in value.split(";")] if name == "changes" else [value]
        for part in (part for part in values if part != ""):
            words += [option.rstrip("!"), str(part)]
    return [*words, "--progress", "slicer"] if given.task in WITH_PROGRESS else words


def run(task: str, words: Sequence[str]) -> int:
    """A subcommand in this process; its errors are lines on stderr, and its exit code is ours.

    `jointregseg` itself finds its subcommands for training by the metadata of an installed package, which Slicer's
    Python does not have.
    """
    from JointRegSegLib.cli import Parser, guarded
    from JointRegSegTrainingLib.commands import COMMANDS

    options = Parser(prog=f"jointregseg {task}")
    COMMANDS[task](options)
    try:
        arguments = options.parse_args(words)
    except SystemExit as error:  # argparse has said why
        return int(error.code or 0)
    return guarded(NAME, lambda: arguments.run(arguments))


def tell(tag: str, content: str) -> None:
    """What Slicer reads on stdout and takes out of the log."""
    print(f"<filter-{tag}>{content}</filter-{tag}>", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the task: 0 when all went well, 2 for bad input."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # names of files may hold signs that the terminal has not
    given = parser().parse_args(argv)
    missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        how = "run slicer.util.pip_install in Slicer's Python console; torch comes with the extension PyTorch"
        print(f"{NAME}: Python packages are missing: {', '.join(missing)}; {how}", file=sys.stderr)
        return 2
    try:
        words = command(given)
    except ValueError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    print(f"<filter-start><filter-name>{given.task}</filter-name>", end="")
    print("<filter-comment>JointRegSeg, for research use only</filter-comment></filter-start>", flush=True)
    tell("progress", "0")
    code = run(given.task, words)
    if code == 0:
        tell("progress", "1")
    print(f"<filter-end><filter-name>{given.task}</filter-name>", end="")
    print(f"<filter-time>{time.monotonic() - began:.1f}</filter-time></filter-end>", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
