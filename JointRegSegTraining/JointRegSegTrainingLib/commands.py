"""Subcommands that training adds to `jointregseg`: train, evaluate, export.

What needs torch is imported by the commands themselves, so that `jointregseg --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from JointRegSegLib.device import CHOICES


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/NAME.nii.gz")


def _object(text: str) -> dict[str, Any]:
    """JSON of an object, for argparse."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _weights(text: str) -> dict[str, float]:
    """JSON of loss weights, for argparse."""
    from .trainer import Weights

    return _numbers_of(Weights, text)


def _augmentation(text: str) -> dict[str, float]:
    """JSON of ranges of augmentation, for argparse."""
    from .augment import Augmentation

    return _numbers_of(Augmentation, text)


def _numbers_of(kind: type, text: str) -> dict[str, float]:
    value, known = _object(text), [f.name for f in fields(kind) if f.type in ("float", float)]
    wrong = [k for k, v in value.items() if k not in known or not isinstance(v, int | float)]
    if wrong:
        raise argparse.ArgumentTypeError(f"'{wrong[0]}' is nothing with a number here; known: {', '.join(known)}")
    return value


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg train``."""
    parser.description = "Train the symmetric network; run again to go on where it stopped."
    _add_data(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run (checkpoint, log)")
    parser.add_argument("--steps", type=int, help="number of batches (default: the plan's)")
    parser.add_argument("--pairs", type=int, help="pairs in a batch (default: the plan's)")
    parser.add_argument("--rate", type=float, help="highest learning rate (default: the plan's)")
    parser.add_argument("--arguments", type=_object, help="JSON of network arguments that differ from the defaults")
    parser.add_argument("--weights", type=_weights, default={}, help="JSON of loss weights that differ")
    parser.add_argument("--augmentation", type=_augmentation, default={}, help="JSON of ranges that differ")
    parser.add_argument("--start", help="bundle (name or folder) whose weights to begin with, where shapes agree")
    parser.add_argument(
        "--freeze", nargs="+", default=[], metavar="PART", help="parts of the network to leave as they are"
    )
    mixed = "convolutions in bfloat16 (default on a GPU; twice as fast on a CPU with AVX-512 BF16)"
    parser.add_argument("--mixed", action=argparse.BooleanOptionalAction, help=mixed)
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="stop then; run again to go on")
    parser.add_argument("--validation", type=int, default=20, help="subjects to validate on")
    parser.add_argument("--test", type=int, default=30, help="subjects to leave out altogether")
    parser.add_argument("--every", type=int, default=200, help="steps between validations")
    parser.add_argument("--device", choices=CHOICES, default="auto")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from JointRegSegLib import device, models

    from . import cohort, trainer
    from .evaluation import validate

    chosen = device.choose(arguments.device)
    plan = replace(trainer.Plan(), mixed=chosen.type == "cuda")
    changes = {
        k: getattr(arguments, k)
        for k in ("steps", "pairs", "rate", "mixed", "arguments")
        if getattr(arguments, k) is not None
    }
    plan = replace(
        plan,
        **changes,
        weights=replace(plan.weights, **arguments.weights),
        frozen=tuple(arguments.freeze),
        augmentation=replace(plan.augmentation, **arguments.augmentation),
    )
    divided = cohort.split(cohort.subjects_in(arguments.data), arguments.validation, arguments.test)
    subjects = cohort.load(arguments.data, divided["train"], plan.preprocessing)
    held_out = cohort.load(arguments.data, divided["validation"], plan.preprocessing)
    pairs = cohort.random_pairs(divided["validation"], len(held_out))
    start = models.load(models.find(arguments.start)) if arguments.start else None
    run = trainer.Trainer(plan, subjects, arguments.output, str(chosen), start)
    (arguments.output / "split.json").write_text(json.dumps(divided, indent=1))
    started = time.monotonic()

    def report(step: int, terms: dict[str, float]) -> None:
        figures = validate(run.averaged_network(), held_out, pairs, plan.labels)
        row = {"step": step, "minutes": (time.monotonic() - started) / 60, "loss": terms, "validation": figures}
        with (arguments.output / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(
            f"step {step}/{plan.steps}, {row['minutes']:.1f} min, loss {sum(terms.values()):.3f}; validation: "
            + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()),
            flush=True,
        )

    run.run(arguments.max_minutes, arguments.every, report)
    return 0


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg evaluate``."""
    parser.description = "Figures of a training run's network alone, on random pairs of held-out subjects."
    _add_data(parser)
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    parser.add_argument("--pairs", type=int, default=60)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    import torch

    from . import cohort
    from .evaluation import validate
    from .export import load_run

    plan, divided, network = load_run(arguments.folder)
    names = divided[arguments.part]
    subjects = cohort.load(arguments.data, names, plan.preprocessing)
    with torch.inference_mode():
        figures = validate(network, subjects, cohort.random_pairs(names, arguments.pairs), plan.labels)
    for key, value in figures.items():
        print(f"{key:<14}{value:.4f}")
    return 0


def add_export(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg export``."""
    parser.description = "Turn a training run into a model bundle, with its figures on the held-out test subjects."
    _add_data(parser)
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--card", type=Path, required=True, help="JSON with name, title, anatomy, labels, license, …")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--pairs", type=int, default=60, help="random test pairs to measure on")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from .export import export_bundle

    bundle = export_bundle(arguments.folder, arguments.data, arguments.card, arguments.output, arguments.pairs)
    print(json.dumps(bundle.manifest["validation"], indent=1))
    print(bundle.folder)
    return 0
