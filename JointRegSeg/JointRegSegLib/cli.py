"""The command ``jointregseg``."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .device import CHOICES
from .errors import Canceled, JointRegSegError, lacks_memory
from .lung import command

if TYPE_CHECKING:
    from .result import Registration

#: Subcommands from elsewhere (training) register here, so that this library need not know them.
PLUGINS = "jointregseg.commands"
REFINE_STEPS = 40
DEVICE = "where to compute; auto: on a GPU if there is one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that `register` and `batch` share."""
    parser.add_argument("--model", default="generic", help="a name from 'jointregseg models', or a bundle's folder")
    parser.add_argument(
        "--refine",
        type=int,
        nargs="?",
        const=REFINE_STEPS,
        default=0,
        metavar="N",
        help=f"optimize N more steps on the pair itself ({REFINE_STEPS} if no number is given)",
    )
    parser.add_argument("--similarity", choices=("lncc", "mse", "mi"), default="lncc", help="mi for two modalities")
    parser.add_argument("--align", choices=("world", "center"), help="begin as they lie in space, or middle on middle")
    parser.add_argument("--fill", type=float, metavar="VALUE", help="value for NaN and infinite voxels")
    parser.add_argument("--working-size", type=int, metavar="N", help="longest side of generic's lattice, in voxels")
    parser.add_argument("--device", choices=CHOICES, default="auto", help=DEVICE)
    parser.add_argument("--seed", type=int, default=0, help="of random numbers: the same one gives the same result")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The shared options as `register` takes them."""
    return {
        "model": arguments.model,
        "refine": arguments.refine,
        "similarity": arguments.similarity,
        "align": arguments.align,
        "fill": arguments.fill,
        "working_size": arguments.working_size,
        "device_name": arguments.device,
        "seed": arguments.seed,
    }


#: How the command names what helps, by the `option` of an error.
CURES = {
    "align": "--align center",
    "data": "--data",
    "device_name": "--device cpu, or auto",
    "fill": "--fill VALUE",
    "lungs": "--inhale-labels and --exhale-labels",
    "names": "--names",
    "organs": "--fixed-organs and --moving-organs",
    "model": "the folder of a bundle will do, too",
    "overwrite": "--overwrite",
    "reference": "--reference",
}


def with_cure(text: str, option: str | None, arguments: argparse.Namespace) -> str:
    """What is wrong, and the option that helps, where the command of these ``arguments`` has it."""
    cure = CURES.get(option, "")
    has = all(hasattr(arguments, flag.replace("-", "_")) for flag in re.findall(r"--([\w-]+)", cure))
    return f"{text} ({cure})" if cure and has else text


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with the options in one line, as all errors are told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="jointregseg", description="Register and segment two volumes at once. For research use only.")
    parser.add_argument("--version", action="version", version=f"jointregseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("register", help="register and segment one pair")
    one.add_argument("--fixed", required=True, metavar="F", help="volume that stays (NIfTI, NRRD, … or DICOM folder)")
    one.add_argument("--moving", required=True, metavar="M", help="volume that is brought onto it")
    one.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the result")
    for side in ("moving", "fixed"):
        one.add_argument(f"--{side}-labels", metavar="L", help=f"label map of the {side} volume, to score")
    for side in ("moving", "fixed"):
        one.add_argument(
            f"--{side}-points",
            metavar="P",
            help=f"landmarks of the {side} volume (.csv in LPS mm, .mrk.json, .fcsv, .vtk)",
        )
    for side in ("moving", "fixed"):
        text = f"label map of organs of the {side} volume that slide along their surroundings, as lungs do (generic)"
        one.add_argument(f"--{side}-organs", metavar="L", help=text)
    add_options(one)
    one.set_defaults(run=_register)

    many = commands.add_parser("batch", help="register and segment all pairs of a CSV")
    many.add_argument("pairs", type=Path, help="CSV with columns fixed, moving and optionally case, moving_labels, …")
    many.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for one folder a case")
    add_options(many)
    where = many.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="cases at the same time on this computer")
    where.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers compute the cases")
    many.set_defaults(run=_batch)

    listing = commands.add_parser("models", help="list the installed models")
    listing.add_argument("--measure", action="store_true", help="run each once and print its time on this computer")
    listing.set_defaults(run=_models)

    apply = commands.add_parser("apply", help="apply a saved transform to an image, labels or points")
    apply.add_argument("--transform", required=True, type=Path, help="transform.h5 or inverse_transform.h5 of a result")
    apply.add_argument("--input", required=True, type=Path, help="image, label map or landmarks")
    apply.add_argument("--output", required=True, type=Path, help="file to write")
    apply.add_argument("--reference", type=Path, help="image whose grid the output gets (images and labels)")
    kind = apply.add_mutually_exclusive_group()
    kind.add_argument("--labels", action="store_true", help="the input is a label map: no values are mixed")
    kind.add_argument("--points", action="store_true", help="the input is landmarks")
    apply.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    apply.description = (
        "Images and labels: transform.h5 brings the moving image to the fixed one (reference: fixed), "
        "inverse_transform.h5 the other way. Points go the opposite way: transform.h5 takes fixed points to the moving "
        "image, inverse_transform.h5 takes moving points to the fixed one."
    )
    apply.set_defaults(run=_apply)

    lung = commands.add_parser("lung", help="review how lungs move and expand between inhale and exhale")
    command.add_arguments(lung)
    add_options(lung)
    lung.set_defaults(run=_lung)

    demo = commands.add_parser("demo", help="simulate a breathing thorax (or take a real pair) and register it")
    demo.add_argument("--data", type=Path, metavar="DIR", help="take a real pair from this folder of data")
    demo.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="folder for the result (demo)")
    demo.add_argument("--device", choices=CHOICES, default="auto", help=DEVICE)
    demo.set_defaults(run=_demo)

    for entry in sorted(entry_points(group=PLUGINS), key=lambda e: e.name):
        plugin = argparse.ArgumentParser(add_help=False)
        entry.load()(plugin)
        told = plugin.description.partition(". ")[0].rstrip(".")
        told = f"training: {told[0].lower()}{told[1:]}"
        commands.add_parser(entry.name, help=told, description=plugin.description, parents=[plugin])
    return parser


def _register(arguments: argparse.Namespace) -> int:
    from . import output
    from .pipeline import register_and_segment
    from .terminal import Bar

    given = arguments
    inputs = (
        given.fixed,
        given.moving,
        given.fixed_labels,
        given.moving_labels,
        given.fixed_points,
        given.moving_points,
        given.fixed_organs,
        given.moving_organs,
    )
    output.check_free(given.output, given.overwrite, inputs)
    with Bar() as bar:
        result = register_and_segment(
            arguments.fixed,
            arguments.moving,
            **options_of(arguments),
            fixed_labels=arguments.fixed_labels,
            moving_labels=arguments.moving_labels,
            fixed_points=arguments.fixed_points,
            moving_points=arguments.moving_points,
            fixed_organs=arguments.fixed_organs,
            moving_organs=arguments.moving_organs,
            progress=bar,
        )
        folder = result.save(arguments.output, arguments.overwrite, bar)
    print(summary(result))
    print(f"report: {folder / 'report.html'}")
    return 0


def summary(result: Registration) -> str:
    """The verdict and its reasons, for the terminal."""
    verdict = result.report["verdict"]
    lines = [f"{verdict['color'].upper()}: {verdict['reasons'][0]}"]
    lines += [f"  {reason}" for reason in verdict["reasons"][1:]]
    if verdict["color"] != "green":
        lines += [f"  passed: {reason}" for reason in verdict["checks_passed"]]
    lines += [f"  note: {note}" for note in result.report["notes"]]
    lines.append(f"{result.report['seconds']['total']:.1f} s on {result.report['device']}. {result.report['notice']}")
    return "\n".join(lines)


def _batch(arguments: argparse.Namespace) -> int:
    from .batch import run_batch
    from .cluster import suitable_workers
    from .terminal import say

    def finished(row: dict[str, Any]) -> None:
        seconds = f" in {row['seconds']:.1f} s" if row["status"] == "done" else ""
        say(f"{row['case']}: {row['status']}{seconds}{', ' + row['verdict'] if 'verdict' in row else ''}")

    workers = arguments.workers
    if workers is None:
        workers = 1 if arguments.scheduler else suitable_workers(arguments.device)
    outcome = run_batch(
        arguments.pairs,
        arguments.output,
        options_of(arguments),
        arguments.overwrite,
        finished=finished,
        workers=workers,
        scheduler=arguments.scheduler,
    )
    for row in outcome.failed:
        print(f"{row['case']}: {with_cure(row['reason'], row.get('option'), arguments)}", file=sys.stderr)
    done, kept, failed = outcome.counts
    print(f"{done} done, {kept} kept from before, {failed} failed; summary: {outcome.summary}")
    return 1 if failed else 0


def _models(arguments: argparse.Namespace) -> int:
    from .listing import print_models

    print_models(arguments.measure)
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from .apply import apply_transform

    apply_transform(
        arguments.transform,
        arguments.input,
        arguments.output,
        arguments.reference,
        "points" if arguments.points else "labels" if arguments.labels else "image",
        arguments.overwrite,
    )
    print(arguments.output)
    return 0


def _lung(arguments: argparse.Namespace) -> int:
    return command.run(arguments, options_of(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run_demo

    run_demo(arguments.output, arguments.data, arguments.device)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: 0 when all went well, 1 when cases of a batch failed, 2 for bad input, 130 when interrupted."""
    # A terminated run cleans up after itself like an interrupted one.
    for name in ("SIGTERM", "SIGHUP"):  # the second, a closed terminal, is unknown on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    # The reasons of a verdict hold signs that not every terminal has.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = argparse.Namespace()

    def work() -> int:
        return _parser().parse_args(argv, given).run(given)

    return guarded("jointregseg", work, lambda error: with_cure(str(error), error.option, given))


def guarded(name: str, work: Callable[[], int], told: Callable[[JointRegSegError], str] = str) -> int:
    """Exit code of ``work``; what kept it from its end is one line on stderr, after the ``name`` of the command."""
    try:
        return work()
    except (KeyboardInterrupt, Canceled):
        print(f"{name}: interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    except JointRegSegError as error:
        print(f"{name}: {told(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(f"{name}: not enough memory; close other programs or use smaller volumes", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full, a folder that went away
        print(f"{name}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
