"""Subcommands that training adds to `jointregseg`: train, evaluate, export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from JointRegSegLib.errors import InputError

from . import cohort, trainer


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg train``."""
    parser.description = "Train the symmetric network on images/ and labels/ of a folder; continues where it stopped."
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with images/NAME.nii.gz and labels/NAME.nii.gz"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the run (checkpoint, log)")
    parser.add_argument("--steps", type=int, help="number of batches (default: the plan's)")
    parser.add_argument("--pairs", type=int, help="pairs in a batch (default: the plan's)")
    parser.add_argument(
        "--max-minutes", type=float, default=float("inf"), help="stop after this long; run again to go on"
    )
    parser.add_argument("--validation", type=int, default=20, help="subjects to validate on")
    parser.add_argument("--test", type=int, default=30, help="subjects to leave out altogether")
    parser.add_argument("--every", type=int, default=200, help="steps between validations")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> int:
    """Run ``jointregseg train``."""
    plan = trainer.Plan()
    changes = {k: getattr(arguments, k) for k in ("steps", "pairs") if getattr(arguments, k) is not None}
    plan = replace(plan, **changes)
    divided = cohort.split(cohort.subjects_in(arguments.data), arguments.validation, arguments.test)
    subjects = cohort.load(arguments.data, divided["train"], plan.preprocessing)
    held_out = cohort.load(arguments.data, divided["validation"], plan.preprocessing)
    pairs = cohort.random_pairs(divided["validation"], len(held_out))
    run = trainer.Trainer(plan, subjects, arguments.output, arguments.device)
    (arguments.output / "split.json").write_text(json.dumps(divided, indent=1))
    started = time.monotonic()

    def report(step: int, terms: dict[str, float]) -> None:
        figures = trainer.validate(run.averaged_network(), held_out, pairs, plan.labels)
        row = {"step": step, "minutes": (time.monotonic() - started) / 60, "loss": terms, "validation": figures}
        with open(arguments.output / "log.jsonl", "a") as log:
            log.write(json.dumps(row) + "\n")
        print(
            f"step {step}/{plan.steps}, {row['minutes']:.1f} min, loss {sum(terms.values()):.3f}; validation: "
            + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()),
            flush=True,
        )

    run.run(arguments.max_minutes, arguments.every, report)
    return 0


def main() -> int:
    """``python -m JointRegSegTrainingLib.commands train …``."""
    parser = argparse.ArgumentParser(prog="jointregseg")
    commands = parser.add_subparsers(required=True)
    add_train(commands.add_parser("train"))
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(f"jointregseg: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
