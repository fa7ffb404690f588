"""The subcommand ``jointregseg lung``; it imports torch when it runs only."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..text import plain

if TYPE_CHECKING:
    from .reviewing import Review


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes beside the options of a registration."""
    for phase in ("inhale", "exhale"):
        parser.add_argument(f"--{phase}", required=True, metavar="V", help=f"scan at {phase} (file or DICOM folder)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the review")
    for phase in ("inhale", "exhale"):
        parser.add_argument(
            f"--{phase}-labels",
            metavar="L",
            help=f"label map of lungs or lobes at {phase} (default: found in CT by density, else by a model)",
        )
    parser.add_argument("--names", type=names, metavar="N=NAME,…", help='of the labels: "1=right lung,2=left lung"')
    for phase in ("inhale", "exhale"):
        parser.add_argument(
            f"--{phase}-points", metavar="P", help=f"landmarks at {phase} (.csv in LPS mm, .mrk.json, .fcsv, .vtk)"
        )
    parser.add_argument(
        "--reference", choices=("inhale", "exhale"), default="inhale", help="the scan that stays (inhale)"
    )
    parser.add_argument(
        "--transform", metavar="T", help="review this transform from the reference to the other scan; register nothing"
    )
    parser.add_argument(
        "--patient", action="store_true", help="name patient and files in the report, which else names nobody"
    )


def names(text: str) -> dict[int, str]:
    """Names by value, of ``1=right lung,2=left lung``."""
    try:
        pairs = [(int(value), name.strip()) for value, name in (part.split("=", 1) for part in text.split(","))]
        if len(dict(pairs)) < len(pairs):
            raise argparse.ArgumentTypeError(f"'{text}' names a value twice")
        return dict(pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not like '1=right lung,2=left lung'") from None


def run(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    """Review, write and print; ``options`` are those of a registration.

    Raises
    ------
    JointRegSegError
        See `reviewing.review` and `reviewing.Review.save`.
    """
    from ..output import check_free
    from ..terminal import Bar
    from .reviewing import NAMES, REPORT, review

    given = arguments
    inputs = [
        *(given.inhale, given.exhale, given.inhale_labels, given.exhale_labels),
        *(given.inhale_points, given.exhale_points, given.transform),
    ]
    check_free(given.output, given.overwrite, inputs, NAMES, REPORT)
    with Bar() as bar:
        found = review(
            given.inhale,
            given.exhale,
            inhale_lungs=given.inhale_labels,
            exhale_lungs=given.exhale_labels,
            names=given.names,
            inhale_points=given.inhale_points,
            exhale_points=given.exhale_points,
            reference=given.reference,
            transform=given.transform,
            patient=given.patient,
            progress=bar,
            **options,
        )
        folder = found.save(given.output, given.overwrite, bar)
    print(summary(found))
    print(f"report: {folder / 'report.html'}")
    return 0


def summary(review: Review) -> str:
    """Verdict, reasons and a line a region, for the terminal."""
    verdict = review.report["verdict"]
    lines = [f"{verdict['color'].upper()}: {verdict['reasons'][0]}"]
    lines += [f"  {reason}" for reason in verdict["reasons"][1:]]
    lines += [f"  note: {note}" for note in review.report["notes"]]
    lines.append(f"\n{'':<20}{'exhale, ml':>12}{'inhale, ml':>12}{'J - 1':>18}{'motion, mm':>12}")
    for row in review.rows:
        error = row["ventilation_error"]
        known = error is not None and math.isfinite(error)  # not where no lung was carried onto a lung
        change = f"{plain(row['ventilation'], 3)} ± {f'{error:.3f}' if known else 'unknown'}"
        lines.append(
            f"{row['region']:<20}{row['exhale_ml']:>12.0f}{row['inhale_ml']:>12.0f}{change:>18}{row['displacement']:>12.1f}"
        )
    lines.append(f"\n{review.report['seconds']['total']:.1f} s. {review.report['notice']}")
    return "\n".join(lines)
