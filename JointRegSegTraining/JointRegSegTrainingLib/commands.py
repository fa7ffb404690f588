"""Subcommands that training adds to `jointregseg`.

What needs torch is imported by the commands themselves, so that `jointregseg --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from JointRegSegLib.device import CHOICES

if TYPE_CHECKING:
    from .plan import Plan

CONFIG = "configuration: a YAML file, or the name of one that comes with JointRegSeg"
COHORT = "CSV: image, subject, split and, where there are any, labels; see the README"
PROGRESS = ("auto", "bar", "slicer", "none")


def whole(least: int) -> Callable[[str], int]:
    """Type of an option that takes a whole number of ``least`` or more."""

    def of(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"takes a whole number of {least} or more, not '{text}'")
        return value

    return of


def minutes(text: str) -> float:
    """Type of an option that takes a time."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"takes a number of 0 or more, not '{text}'")
    return value


def add_cohort(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg cohort``."""
    parser.description = "Write the CSV of a cohort whose images and labels lie in two folders under the same names."
    parser.add_argument("folder", type=Path, help="folder with images/ and, where something was drawn, labels/")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--validation", type=whole(0), default=20, help="subjects to validate on (20)")
    parser.add_argument("--test", type=whole(0), default=30, help="subjects to leave out altogether (30)")
    whose = "regular expression whose first group, at the beginning of a file's name, is whose image it is"
    parser.add_argument("--subject", default="(.*)", metavar="PATTERN", help=whose)
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression that names have to match")
    few = "training subjects whose labels are kept, to try what few labels are worth (default: all)"
    parser.add_argument("--labeled", type=whole(0), metavar="N", help=few)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--fold", type=whole(0), default=0, help="of a cross-validation; each leaves out others (0)")
    parser.set_defaults(run=_cohort)


def _cohort(arguments: argparse.Namespace) -> int:
    from . import cohort

    given = arguments
    rows = cohort.of_folder(
        given.folder, given.validation, given.test, given.subject, given.only, given.seed, given.labeled, given.fold
    )
    cohort.write(given.output, rows)
    counts = {split: len({row.subject for row in rows if row.split == split}) for split in cohort.SPLITS}
    said = ", ".join(f"{count} for {split}" for split, count in counts.items())
    print(f"{given.output}: {len(rows)} images of {said}; without labels: {sum(r.labels is None for r in rows)}")
    return 0


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg train``."""
    parser.description = "Train a network; run again to go on where it stopped."
    parser.add_argument("--config", required=True, help=CONFIG)
    parser.add_argument("--cohort", type=Path, required=True, help=COHORT)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run (checkpoint, log, pictures)")
    change = "change an entry of the configuration, as in --set steps=2000 --set weights.inverse=0.1"
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=change)
    parser.add_argument("--start", help="bundle (name or folder) whose weights to begin with, where shapes agree")
    parser.add_argument("--references", type=Path, help="folder of make-references, for scheme 'references'")
    parser.add_argument("--max-minutes", type=minutes, default=float("inf"), help="stop then; run again to go on")
    parser.add_argument("--every", type=whole(1), default=200, help="steps between validations (200)")
    parser.add_argument("--device", choices=CHOICES, default="auto")
    add_progress(parser)
    parser.set_defaults(run=_train)


def add_progress(parser: argparse.ArgumentParser) -> None:
    """The option that says how a command shows how far it is."""
    parser.add_argument("--progress", choices=PROGRESS, default="auto", help="slicer: tags that Slicer's CLI reads")


def _train(arguments: argparse.Namespace) -> int:
    from JointRegSegLib import device

    from . import plan
    from .runs import alone, settled
    from .trainer import build, check_folder

    source = plan.find(arguments.config)
    entries = plan.read_entries(source, arguments.changes)
    chosen = device.choose(arguments.device)
    made = plan.from_entries(entries, plan.called(source, arguments.changes))
    made = settled(made, arguments.output, chosen)
    # What does not fit is told before all images are read.
    check_folder(arguments.output, made)
    build(made)
    # Of several processes the first one writes; both launchers number them so.
    with alone(arguments.output) if os.environ.get("RANK", "0") == "0" else nullcontext():
        return _train_alone(arguments, made, entries.get("card"), str(chosen))


def _train_alone(arguments: argparse.Namespace, made: Plan, card: dict[str, Any] | None, device: str) -> int:
    """What `train` does once nobody else works in the folder."""
    from JointRegSegLib import models
    from JointRegSegLib.terminal import say

    from . import cohort, subjects
    from .journal import Journal
    from .runs import changed
    from .trainer import Trainer

    start = models.load(models.find(arguments.start)) if arguments.start else None
    rows, problems = cohort.look(arguments.cohort)
    problems += cohort.check_training(rows)
    # Everything is read, and so checked, before the first step: what only a test would find out comes too late.
    loaded = list(zip(rows, subjects.load(rows, made, arguments.cohort, problems), strict=True))
    train, validation = ([s for row, s in loaded if row.split == split] for split in ("train", "validation"))
    del loaded
    if (arguments.output / "state.pt").exists():
        cohort.require_same(arguments.output / "cohort.csv", rows)
    run = Trainer(made, train, arguments.output, device, start, arguments.references)
    if not run.accelerator.is_main_process:
        run.run(arguments.max_minutes, arguments.every)
        run.leave()
        return 0
    if not any(s.known.any() for s in train) and (made.weights.overlap or made.weights.segmentation):
        say("no training image has labels: overlap and segmentation will not be learned")
    if start is not None and run.step == 0:
        say("begins with {} of {} arrays of weights of '{}'".format(*run.taken, arguments.start))
    elif start is not None:
        say(f"{arguments.output}: goes on at step {run.step}; --start counts where a run begins")
    if (left_out := len({row.subject for row in rows if row.split == "test" and row.labels})) < 2:
        count = f"{left_out} labeled subject{'s' * (left_out != 1)}"
        say(f"{count} for test: evaluate and export will have nothing to measure overlap on")
    if others := changed(arguments.output, rows, run.step):
        say(
            f"{len(others)} files are not what they were when the run began ({others[0].name} is one); it goes on with "
            "them, and so is not what an unbroken run would be"
        )
    cohort.write(arguments.output / "cohort.csv", rows)
    if card is None:
        say("the configuration has no card, which says what a model is called and trained on: export will need --card")
    else:
        (arguments.output / "card.yaml").write_text(json.dumps({"card": card}), encoding="utf-8")
    with _progress(arguments.progress, "training") as progress:
        run.run(arguments.max_minutes, arguments.every, Journal(run, validation), progress)
    run.leave()
    after = "complete" if run.step >= made.steps else "run again to go on"
    say(f"{arguments.output}: {run.step} of {made.steps} steps; {after}")
    return 0


@contextmanager
def _progress(kind: str, what: str) -> Iterator[Callable[[float], None] | None]:
    from JointRegSegLib.terminal import Bar

    if kind == "slicer":
        yield lambda share: print(f"<filter-progress>{share:.4f}</filter-progress>", flush=True)
    elif kind == "none" or (kind == "auto" and not sys.stderr.isatty()):
        yield None
    else:
        with Bar() as bar:
            yield lambda share: bar(what, share)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg evaluate``."""
    parser.description = "Figures of a training run's network alone, on random pairs of held-out subjects."
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--part", choices=("validation", "test"), default="test", help="of the cohort (test)")
    parser.add_argument(
        "--pairs", type=whole(1), default=60, help="random pairs to measure on (60; of few subjects all)"
    )
    parser.add_argument("--device", choices=CHOICES, default="auto")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from JointRegSegLib import device

    from . import subjects
    from .evaluation import validate
    from .runs import load_run, part

    plan, rows, network = load_run(arguments.folder)
    network.to(device.choose(arguments.device))
    held_out = subjects.load(part(rows, arguments.part), plan, arguments.folder)
    pairs = subjects.pairs_of(held_out, arguments.pairs)
    print(f"{'pairs':<14}{len(pairs)}")
    _tell(validate(network, held_out, pairs, plan))
    return 0


def _tell(figures: Mapping[str, float]) -> None:
    for key, value in figures.items():
        print(f"{key:<14}{value:.4f}")
    if "dice" not in figures:
        print("warning: in no pair both images are labeled, so that no overlap was measured", file=sys.stderr)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg export``."""
    parser.description = "Turn a training run into a model bundle, with its figures on the held-out test subjects."
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the training run")
    where = "folder of the bundle; without it the user's own models, where Slicer and --model find it"
    parser.add_argument("--output", type=Path, help=where)
    parser.add_argument("--card", type=Path, help="YAML with another 'card' than that of the configuration")
    parser.add_argument("--pairs", type=whole(1), default=60, help="random test pairs to measure on (60)")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from JointRegSegLib import catalog
    from JointRegSegLib.errors import InputError

    from .export import card_of, export_bundle
    from .runs import steps_left

    if arguments.output is None and catalog.is_shipped(name := card_of(arguments.folder, arguments.card)["name"]):
        raise InputError(
            f"'{name}' is the name of a model that ships with JointRegSeg; give this one another name in a YAML with "
            "the entry card (--card), or a folder of its own (--output)"
        )
    if (left := steps_left(arguments.folder)) > 0:
        print(f"warning: {arguments.folder}: {left} steps of its training are left; train to its end", file=sys.stderr)
    with TemporaryDirectory() as folder:
        bundle = export_bundle(arguments.folder, arguments.output or Path(folder), arguments.card, arguments.pairs)
        place = arguments.output
        if place is None:
            there = (catalog.user_folder() / bundle.name).exists()
            place = catalog.user_folder() / catalog.install(Path(folder), replace=True)
            if there:
                print(f"'{bundle.name}' was there before, and is replaced by this one", file=sys.stderr)
    _tell(bundle.manifest["validation"]["figures"])
    said = bundle.manifest["training"]
    print(f"its card says that it was trained on: {said['data']} ({said['license']}); if that is not so, change card.")
    print(place)
    return 0


def add_pseudo_label(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg pseudo-label``."""
    parser.description = (
        "Let a model segment the training images of a cohort that nobody labeled, or carry over to them what people "
        "drew in others, and write the cohort with these labels. Run again to go on where it stopped."
    )
    parser.add_argument("--model", required=True, help="bundle (name or folder) that segments; 'generic' carries over")
    parser.add_argument(
        "--atlases", type=whole(1), default=5, help="labeled images carried to each, which vote, by 'generic' (5)"
    )
    parser.add_argument("--cohort", type=Path, required=True, help=COHORT)
    parser.add_argument("--output", type=Path, required=True, help="folder for cohort.csv and labels/")
    parser.add_argument("--device", choices=CHOICES, default="auto")
    add_progress(parser)
    parser.set_defaults(run=_pseudo_label)


def _pseudo_label(arguments: argparse.Namespace) -> int:
    from JointRegSegLib import device, models

    from . import cohort
    from .pseudo import Carrying, Segmenting, label_cohort

    rows = cohort.read(arguments.cohort)
    if arguments.model == models.GENERIC:
        labeler = Carrying(rows, arguments.atlases, arguments.device)
    else:
        labeler = Segmenting(models.find(arguments.model), device.choose(arguments.device))
    with _progress(arguments.progress, "labeling") as progress:
        outcome = label_cohort(rows, labeler, arguments.output, progress)
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{arguments.output / 'cohort.csv'}: {outcome.done} images labeled, {outcome.kept} kept from before")
    return 0


def add_make_references(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg make-references``."""
    parser.description = (
        "Match the shapes that were segmented in a cohort's training images, as velocities to learn from (SVF-Net). "
        "Run again to go on where it stopped."
    )
    parser.add_argument("--config", required=True, help=CONFIG)
    parser.add_argument("--cohort", type=Path, required=True, help=COHORT)
    parser.add_argument("--output", type=Path, required=True, help="folder of the references")
    changes = "change an entry of the configuration"
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=changes)
    parser.add_argument("--processes", type=whole(1), help="that compute at the same time (default: one a processor)")
    ahead = "random pairs to compute already (0); training makes the rest"
    parser.add_argument("--pairs", type=whole(0), default=0, help=ahead)
    add_progress(parser)
    parser.set_defaults(run=_make_references)


def _make_references(arguments: argparse.Namespace) -> int:
    from . import cohort, plan, subjects
    from .references import PairVelocities, make_points, shapes

    source = plan.find(arguments.config)
    made = plan.from_entries(plan.read_entries(source, arguments.changes), plan.called(source, arguments.changes))
    settings = shapes.settings_of(made)
    rows, problems = cohort.look(arguments.cohort)
    problems += cohort.too_few(rows, "train")
    learned = subjects.load([row for row in rows if row.split == "train"], made, arguments.cohort, problems)
    toward = shapes.mean_direction(learned, made)
    drawn = [s for s in shapes.prepared(learned, made, toward) if s.known.all()]
    labels = {s.name: shapes.label_map(s) for s in drawn}
    with _progress(arguments.progress, "matching") as progress:
        told = (lambda _, share: progress(share)) if progress else (lambda *_: None)
        origin = shapes.origin_of(made) | {shapes.TOWARD: toward}
        template = make_points(labels, settings, arguments.output, arguments.processes, told, origin)
        if arguments.pairs:
            pairs = cohort.random_pairs(list(labels), arguments.pairs, owners=[s.owner for s in drawn])
            PairVelocities(arguments.output).make(pairs, arguments.processes, told)
    if bare := len(learned) - len(drawn):
        print(
            f"{bare} training image{'s' * (bare != 1)} without all labels left out, here and in training",
            file=sys.stderr,
        )
    print(f"{arguments.output}: {len(labels)} images matched to {template}")
    return 0


def add_simulate_cohort(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg simulate-cohort``."""
    parser.description = (
        "Simulate a cohort of breathing lungs, healthy and with basal and peripheral stiffness of a known degree. "
        "Run again to go on where it stopped."
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the cohort")
    parser.add_argument("--patients", type=int, default=41, help="all people (41)")
    parser.add_argument("--healthy", type=int, default=12, help="those of them who are healthy (12)")
    parser.add_argument("--severity", type=float, default=0.6, help="mean degree of disease, 0 to 1 (0.6)")
    parser.add_argument("--test", type=int, help="people to leave out of training (13 of 41)")
    source = "CSV with columns image and labels, or folder of images/ and labels/, of CT volumes (default: phantoms)"
    parser.add_argument("--data", default="", help=source)
    parser.add_argument("--spacing", type=float, default=4.0, help="mean distance of voxels in mm (4)")
    parser.add_argument("--seed", type=int, default=0)
    add_progress(parser)
    parser.set_defaults(run=_simulate_cohort)


def _simulate_cohort(arguments: argparse.Namespace) -> int:
    from .classifier import cohort, simulate

    given = arguments
    asked = simulate.Simulation(
        given.patients, given.healthy, given.severity, given.test, given.data, given.spacing, given.seed
    )
    with _progress(given.progress, "simulating") as progress:
        made = simulate.simulate(asked, given.output, progress)
    print(f"{given.output / simulate.PAIRS}: {asked.patients} people, {asked.healthy} healthy; {made} were new")
    for problem in cohort.too_few(*asked.to_train):
        print(f"train-classifier will refuse them: {problem}; simulate more, or leave fewer out", file=sys.stderr)
    return 0


def add_train_classifier(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg train-classifier``."""
    parser.description = (
        "Train a classifier of lung disease on a cohort of breathing pairs, with its honest baseline and intervals. "
        "Pairs that were registered and measured are not done again. For research use only."
    )
    columns = (
        "CSV: case, fixed, moving, fixed_labels, diagnosis, and optionally split, subject, transform, moving_labels"
    )
    parser.add_argument("--cohort", type=Path, required=True, help=columns)
    parser.add_argument("--output", type=Path, required=True, help="folder for registrations, bundle and report")
    parser.add_argument("--model", default="generic", help="that registers pairs without a transform (generic)")
    parser.add_argument("--registrations", type=Path, help="folder of jointregseg batch to take them from, or put in")
    parser.add_argument("--motion", choices=("residual", "whole"), default="residual", help="without the affine part")
    parser.add_argument("--undivided", action="store_true", help="do not divide the motion by the depth of the breath")
    parser.add_argument("--ventilation", action="store_true", help="show the network the ventilation, too")
    parser.add_argument("--size", type=int, default=16, help="nodes along each side of the network's input (16)")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--permutations", type=int, default=100, help="shuffled cohorts for the baseline (100)")
    parser.add_argument("--network-permutations", type=int, default=20, help="and for the networks (20)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="pairs registered at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=CHOICES, default="auto", help="of the registration")
    add_progress(parser)
    parser.set_defaults(run=_train_classifier)


def _train_classifier(arguments: argparse.Namespace) -> int:
    from JointRegSegLib.errors import InputError
    from JointRegSegLib.lung.features import Recipe

    from .classifier import cohort, networks, training

    given = arguments
    for name, least in (("size", 4), ("epochs", 1), ("permutations", 0), ("network_permutations", 0), ("seed", 0)):
        if getattr(given, name) < least:
            raise InputError(f"--{name.replace('_', '-')} takes a whole number of {least} or more")
    settings = training.Settings(
        Recipe(given.size, motion=given.motion, ventilation=given.ventilation, by_depth=not given.undivided),
        networks.Schedule(epochs=given.epochs, seed=given.seed),
        given.model,
        given.device,
        given.workers,
        given.permutations,
        given.network_permutations,
    )
    pairs = cohort.read(given.cohort)
    with _progress(given.progress, "training") as progress:
        trained = training.train_classifier(pairs, given.output, settings, progress, given.registrations)
    print("\n".join(training.lines(trained.figures)))
    print(f"bundle: {given.output / training.BUNDLE}\nreport: {given.output / training.REPORT}")
    return 0


def add_classify(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``jointregseg classify``."""
    parser.description = (
        "Judge breathing pairs by a trained classifier: probability with interval, the map that drove it, how unlike "
        "the training cohort a patient is; it abstains when unsure. For research use only."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="bundle of train-classifier")
    parser.add_argument("--cohort", type=Path, required=True, help="CSV: case, fixed, moving, fixed_labels")
    parser.add_argument("--output", type=Path, required=True, help="folder for a folder a case")
    parser.add_argument("--registrations", type=Path, help="folder of jointregseg batch to take them from, or put in")
    parser.add_argument("--device", choices=CHOICES, default="auto", help="of the registration")
    add_progress(parser)
    parser.set_defaults(run=_classify)


def _classify(arguments: argparse.Namespace) -> int:
    from JointRegSegLib.lung.classifier import open_classifier

    from .classifier import cohort
    from .classifier.classify import classify

    given = arguments
    classifier = open_classifier(given.bundle)
    pairs, refused = cohort.look(given.cohort)
    with _progress(given.progress, "classifying") as progress:
        outcome = classify(classifier, pairs, given.output, given.device, given.registrations, progress)
    for case, answer in outcome.answers.items():
        print(answer.line(case))
    failed = {row.name: "; ".join(row.problems) for row in refused} | outcome.failed
    for case, reason in failed.items():
        print(f"{case}: {reason}", file=sys.stderr)
    return 1 if failed else 0


#: The subcommands by name; where the package is installed `jointregseg` finds them as entry points.
COMMANDS = {
    "classify": add_classify,
    "cohort": add_cohort,
    "evaluate": add_evaluate,
    "make-references": add_make_references,
    "export": add_export,
    "pseudo-label": add_pseudo_label,
    "simulate-cohort": add_simulate_cohort,
    "train": add_train,
    "train-classifier": add_train_classifier,
}
