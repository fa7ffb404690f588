"""All pairs of a table, one folder each; goes on where it stopped."""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import cluster, device, files, models, output
from .errors import Canceled, InputError, JointRegSegError, OutputError
from .options import check_options
from .pipeline import register_and_segment
from .progress import Progress, silent
from .tables import read_table

REQUIRED = ("fixed", "moving")
#: That slide along their surroundings.
ORGANS = ("moving_organs", "fixed_organs")
OPTIONAL = ("case", "moving_labels", "fixed_labels", "moving_points", "fixed_points", *ORGANS)
SUMMARY = "summary.csv"
#: Seconds between two writings of the summary: thousands of rows that are kept would each write it anew.
PAUSE = 1.0
#: Of a case, in bytes: file systems take 255, and results are prepared under a longer name.
LONGEST_NAME = 200
#: What Windows calls its devices, whatever ending follows.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@dataclass
class Outcome:
    """``rows`` of the summary (see `summary_row`), and where it was written."""

    rows: list[dict[str, Any]]
    summary: Path

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of cases that did not come to a result."""
        return [row for row in self.rows if row["status"] == "failed"]

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many were done, kept from before, failed."""
        status = [row["status"] for row in self.rows]
        return status.count("done"), status.count("kept"), status.count("failed")


def read_pairs(table: Path) -> list[dict[str, str]]:
    """Rows of a CSV of pairs, with the folder name of each under ``case`` and paths relative to the table resolved.

    A row whose case cannot be a folder of its own is given another name, and has the reason under ``problem``.

    Raises
    ------
    InputError
        If the table cannot be read, lacks a column, has unknown ones, or is empty.
    """
    rows = list(read_table(table, REQUIRED, OPTIONAL).values())
    if not rows:
        raise InputError(f"{table}: holds no pairs")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        row["case"] = row.get("case") or f"{number:04d}"
        if problem := problem_of(row["case"], seen):
            # No folder can have this name, for it has brackets: it is that of no other case.
            row |= {"case": f"{row['case']} (row {number})", "problem": problem}
        seen.add(row["case"].lower())
        for column in (*REQUIRED, *OPTIONAL[1:]):
            if row.get(column):
                # Absolute, so that a second run from elsewhere knows the same files again.
                row[column] = str(table.parent.absolute() / row[column])
    return rows


def problem_of(case: str, taken: set[str]) -> str | None:
    """Why a case cannot have a folder of this name; some file systems know no capitals."""
    if not re.fullmatch(r"\w([\w .+-]*[\w+-])?", case) or case.partition(".")[0].strip().lower() in _RESERVED:
        return f"'{case}' cannot be the name of a folder; name the case otherwise"
    if len(case.encode()) > LONGEST_NAME:
        return f"'{case[:20]}…' is too long for the name of a folder; name the case otherwise"
    if case.lower() == SUMMARY:
        return f"'{case}' is the name of the summary; name the case otherwise"
    return f"an earlier row has the case '{case}' too; name this one otherwise" if case.lower() in taken else None


def run_batch(
    table: Path,
    folder: Path,
    options: dict[str, Any],
    overwrite: bool = False,
    given_up: dict[str, str] | None = None,
    progress: Callable[[str, float], bool | None] | None = None,
    finished: Callable[[dict[str, Any]], None] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Outcome:
    """Register all pairs of a table.

    A case whose folder holds a result made with the same inputs and settings is kept. A case that fails does not stop
    the others; its reason is in the summary.

    Parameters
    ----------
    options : dict
        Keyword arguments of `register_and_segment`.
    given_up : dict, optional
        Cases that are not to be tried (again), with the reason.
    progress : callable, optional
        ``progress(case, fraction of all cases)``, of the first case that is not finished; returning False cancels.
    finished : callable, optional
        Called with the row of each case (see `summary_row`) when it is finished.
    workers : int
        Cases that are computed at the same time, each in a process of its own (see `cluster.compute`); 1: one after
        another in this process.
    scheduler : str, optional
        Address of a running Dask scheduler, on whose workers the cases are computed instead. They need this library,
        the model, and all files under the same paths.

    Raises
    ------
    InputError, ModelError, OutputError
        If the table, the model, the device, the scheduler or the output folder cannot be used at all.
    """
    pairs = {pair["case"]: pair for pair in read_pairs(table)}
    check_options(**options)
    _check_organs(table, pairs.values(), options)
    if workers < 1:
        raise InputError(f"workers takes a whole number of 1 or more, not {workers}")
    checksum = None
    if str(options.get("model", models.GENERIC)) != models.GENERIC:
        bundle = models.find(options["model"])
        models.load(bundle)  # which compares the weights'
        checksum = bundle.checksum
        if Path(options["model"]).absolute() == bundle.folder.absolute():
            options = {**options, "model": str(bundle.folder.absolute())}  # other processes stand elsewhere
    if scheduler is None:
        device.choose(options.get("device_name", "auto"))
    _check_summary(folder / SUMMARY)
    if not overwrite:
        _check_settings(folder, pairs, options, checksum)
    rows: dict[str, dict[str, Any]] = {}
    written = -math.inf

    def summarize() -> None:
        nonlocal written
        write_summary([rows[case] for case in pairs if case in rows], folder / SUMMARY)
        written = time.monotonic()

    def record(case: str, row: dict[str, Any]) -> None:
        rows[case] = row
        if time.monotonic() > written + PAUSE:
            summarize()
        if finished:
            finished(row)

    refused = {case: pair["problem"] for case, pair in pairs.items() if "problem" in pair}
    refused |= {case: reason for case, reason in (given_up or {}).items() if case in pairs}
    tasks = {
        case: (pair, folder.absolute() / case, options, overwrite)
        for case, pair in pairs.items()
        if case not in refused
    }
    with _results(tasks, workers, scheduler) as results:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
        try:
            for case, reason in refused.items():
                record(case, _failed(case, reason))
            with tqdm(
                total=len(pairs), initial=len(rows), disable=not sys.stderr.isatty(), unit="case", leave=False
            ) as bar:
                waiting = iter(pairs)
                awaited = next(waiting)
                while len(rows) < len(pairs):
                    while awaited in rows:
                        awaited = next(waiting)
                    bar.set_description_str(awaited)
                    if progress and progress(awaited, len(rows) / len(pairs)) is False:
                        raise Canceled
                    record(*next(results))
                    bar.update()
        finally:
            if rows:
                summarize()
    return Outcome([rows[case] for case in pairs], folder / SUMMARY)


def _check_organs(table: Path, pairs: Iterable[dict[str, str]], options: dict[str, Any]) -> None:
    """Refuse options with which every pair that names organs would fail."""
    pair = next((pair for pair in pairs if all(pair.get(column) for column in ORGANS)), None)
    if pair is None:
        return
    try:
        check_options(**options, **{column: pair[column] for column in ORGANS})
    except InputError as error:
        raise InputError(f"{table}: columns {' and '.join(ORGANS)}: {error}", error.option) from None


def _check_summary(path: Path) -> None:
    """Refuse to replace a table of that name that no batch has written."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            columns = next(csv.reader(stream), [])
    except (FileNotFoundError, IsADirectoryError):  # of the latter is told when it is written
        return
    except (OSError, ValueError, csv.Error):
        columns = []
    if not {"case", "status"} <= set(columns):
        raise OutputError(f"{path}: exists and is no summary of a batch; name another folder")


def _check_settings(folder: Path, cases: Iterable[str], options: dict[str, Any], checksum: str | None) -> None:
    """Refuse a folder of other settings before its summary is written anew."""
    for case in cases:
        try:
            report = json.loads((folder / case / output.REPORT).read_text(encoding="utf-8"))
            other = _other_setting(report, options, checksum)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # there is none, or it is damaged, which is told of its case
        if other:
            raise OutputError(
                f"{folder / case}: its result was made with another {other}; redo all, or name another folder",
                "overwrite",
            )


@contextmanager
def _results(
    tasks: dict[str, tuple], workers: int, scheduler: str | None
) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Cases and their rows, as they are ready; those that are not when the context is left are stopped."""
    if not tasks or (scheduler is None and min(workers, len(tasks)) < 2):
        yield ((case, run_case(*task)) for case, task in tasks.items())
        return
    try:
        with cluster.compute(run_case, tasks, min(workers, len(tasks)), scheduler) as answers:
            yield (
                (case, _failed(case, str(answer), answer.option) if isinstance(answer, JointRegSegError) else answer)
                for case, answer in answers
            )
    finally:
        for _, place, *_ in tasks.values():
            output.remove_partial(place)


def run_case(
    pair: dict[str, str],
    folder: Path,
    options: dict[str, Any],
    overwrite: bool,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Register a row of the table (see `read_pairs`) and write its folder; returns its line of the summary."""
    try:
        if not overwrite and (folder / output.REPORT).is_file():
            try:
                report = json.loads((folder / output.REPORT).read_text(encoding="utf-8"))
                difference = _other_input(report, pair)
                row = summary_row(pair["case"], "kept", report)
            except (ValueError, KeyError, TypeError):
                raise OutputError(f"{folder / output.REPORT}: is damaged; redo the case", "overwrite") from None
            if difference:
                raise OutputError(
                    f"its result was made with another {difference}; redo it, or name another folder", "overwrite"
                )
            return row
        for column in REQUIRED:
            if not pair.get(column):
                raise InputError(f"the row names no {column} image")
        extras = {column: pair[column] for column in OPTIONAL[1:] if pair.get(column)}
        output.remove_partial(folder)
        output.check_free(folder, overwrite, [pair["fixed"], pair["moving"], *extras.values()])
        result = register_and_segment(pair["fixed"], pair["moving"], **options, **extras, progress=progress)
        result.save(folder, overwrite, progress)
        return summary_row(pair["case"], "done", result.report)
    except Canceled:
        raise
    except JointRegSegError as error:
        return _failed(pair["case"], str(error), error.option)
    except Exception as error:  # whatever a case does, the others have to run; the reason is kept
        return _failed(pair["case"], f"{type(error).__name__}: {error}")


def _failed(case: str, reason: str, option: str | None = None) -> dict[str, Any]:
    return {"case": case, "status": "failed", "reason": reason} | ({"option": option} if option else {})


def _other_input(report: dict[str, Any], pair: dict[str, str]) -> str | None:
    """Name of an input in which a saved report is not what is asked for now."""
    if "stamps" not in report:  # nobody knows what it was made of
        return "version of this program"
    for column in (*REQUIRED, *OPTIONAL[1:]):
        entry = report["inputs"].get(column)
        file = pair.get(column, "")
        if ((entry or {}).get("file") if column in REQUIRED else entry or "") != file:
            return f"{column} input"
        if file and report["stamps"].get(column) != files.stamp(file):
            return f"{column} input"
    return None


#: By which a result that is kept is what is asked for.
SETTINGS = ("model", "refine", "similarity", "fill", "working_size", "seed")


def _other_setting(report: dict[str, Any], options: dict[str, Any], checksum: str | None) -> str | None:
    """Name of a setting in which a saved report is not what is asked for now, as the command calls it."""
    if report["model"].get("checksum") != checksum:
        return "model"
    settings = report["settings"]
    by_default = inspect.signature(register_and_segment).parameters
    for key in SETTINGS:
        asked = options.get(key, by_default[key].default)
        if settings[key] != (str(asked) if key == "model" else asked):
            return key.replace("_", " ")
    align = options.get("align")
    # Where the images began, or, if nothing is asked for now, whether anything was.
    if align != (settings["align"] if align else settings.get("asked_align")):
        return "align"
    return None


def summary_row(case: str, status: str, report: dict[str, Any]) -> dict[str, Any]:
    """A case's line of the summary."""
    figures = report["quality"]
    labels, landmarks = figures.get("labels"), figures.get("landmarks")
    similar = figures["similarity"]["local_correlation"]
    row = {
        "case": case,
        "status": status,
        "verdict": report["verdict"]["color"],
        "local_correlation_before": similar["before"],
        "local_correlation_after": similar["after"],
        "folded_percent": 100 * figures["regularity"]["folded_share"],
        "log_jacobian_spread": figures["regularity"]["log_jacobian_spread"],
        "inverse_mean_voxels": figures["regularity"]["inverse_consistency_voxels"]["mean"],
        "inverse_max_voxels": figures["regularity"]["inverse_consistency_voxels"]["max"],
        "segmentation_agreement": (figures.get("segmentation_agreement") or {}).get("mean_dice"),
        "estimating_seconds": report["seconds"]["estimating"],
        "seconds": report["seconds"]["total"],
        "reason": "; ".join(report["verdict"]["reasons"]) if report["verdict"]["color"] != "green" else "",
    }
    for moment in ("before", "after"):
        row[f"dice_{moment}"] = labels[moment]["mean_dice"] if labels else None
        row[f"hd95_voxels_{moment}"] = labels[moment]["mean_hd95_voxels"] if labels else None
        row[f"landmarks_mm_{moment}"] = landmarks[f"{moment}_mm"]["mean"] if landmarks else None
    return row


COLUMNS = (
    "case",
    "status",
    "verdict",
    "dice_before",
    "dice_after",
    "hd95_voxels_before",
    "hd95_voxels_after",
    "landmarks_mm_before",
    "landmarks_mm_after",
    "segmentation_agreement",
    "local_correlation_before",
    "local_correlation_after",
    "folded_percent",
    "log_jacobian_spread",
    "inverse_mean_voxels",
    "inverse_max_voxels",
    "estimating_seconds",
    "seconds",
    "reason",
)


def write_summary(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows so far, in one move."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # batches into one folder do not take it from each other
    try:
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None
