"""All pairs of a table, one folder each; goes on where it stopped."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import device, models, output
from .errors import Canceled, InputError, JointRegSegError, OutputError
from .pipeline import check_options, register_and_segment

REQUIRED = ("fixed", "moving")
OPTIONAL = ("case", "moving_labels", "fixed_labels", "moving_points", "fixed_points")
SUMMARY = "summary.csv"


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

    Raises
    ------
    InputError
        If the table cannot be read, lacks a column, has unknown ones, or names two cases alike.
    """
    if not table.is_file():
        raise InputError(f"{table}: no such file; give a CSV with columns fixed and moving")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [c.strip() for c in reader.fieldnames or []]
            rows = [{(k or "").strip(): (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    except (csv.Error, UnicodeDecodeError):
        raise InputError(f"{table}: cannot be read as CSV text; save it as comma-separated UTF-8") from None
    missing = [c for c in REQUIRED if c not in columns]
    unknown = [c for c in columns if c not in REQUIRED + OPTIONAL]
    if missing or unknown:
        problem = f"lacks the column {missing[0]}" if missing else f"has an unknown column '{unknown[0]}'"
        raise InputError(f"{table}: {problem}; columns are {', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}")
    if not rows:
        raise InputError(f"{table}: holds no pairs")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        row["case"] = row.get("case") or f"{number:04d}"
        if not re.fullmatch(r"[\w][\w .+-]*", row["case"]):
            raise InputError(f"{table}: row {number}: '{row['case']}' cannot be the name of a folder")
        if row["case"].lower() == SUMMARY:
            raise InputError(
                f"{table}: row {number}: '{row['case']}' is the name of the summary; name the case otherwise"
            )
        if row["case"].lower() in seen:  # some file systems know no capitals
            raise InputError(f"{table}: two rows have the case '{row['case']}'")
        seen.add(row["case"].lower())
        for column in (*REQUIRED, *OPTIONAL[1:]):
            if row.get(column):
                # Absolute, so that a second run from elsewhere knows the same files again.
                row[column] = str(table.parent.absolute() / row[column])
    return rows


def run_batch(
    table: Path,
    folder: Path,
    options: dict[str, Any],
    overwrite: bool = False,
    given_up: dict[str, str] | None = None,
    progress: Callable[[str, float], bool | None] | None = None,
    finished: Callable[[dict[str, Any]], None] | None = None,
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
        ``progress(case, fraction of all cases)``; returning False cancels.
    finished : callable, optional
        Called with the row of each case (see `summary_row`) when it is finished.

    Raises
    ------
    InputError, ModelError, OutputError
        If the table, the model, the device or the output folder cannot be used at all.
    """
    pairs = read_pairs(table)
    check_options(**options)
    if str(options.get("model", models.GENERIC)) != models.GENERIC:
        models.load(models.find(options["model"]))
    device.choose(options.get("device_name", "auto"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    rows: list[dict[str, Any]] = []
    with tqdm(pairs, disable=not sys.stderr.isatty(), unit="case", leave=False) as bar:
        for number, pair in enumerate(bar):
            bar.set_description_str(pair["case"])
            if progress and progress(pair["case"], number / len(pairs)) is False:
                raise Canceled
            if reason := (given_up or {}).get(pair["case"]):
                rows.append({"case": pair["case"], "status": "failed", "reason": reason})
            else:
                rows.append(_run_case(pair, folder / pair["case"], options, overwrite))
            write_summary(rows, folder / SUMMARY)
            if finished:
                finished(rows[-1])
    return Outcome(rows, folder / SUMMARY)


def _run_case(pair: dict[str, str], folder: Path, options: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    try:
        if not overwrite and (folder / output.REPORT).is_file():
            try:
                report = json.loads((folder / output.REPORT).read_text(encoding="utf-8"))
                difference, row = _differs(report, pair, options), summary_row(pair["case"], "kept", report)
            except (ValueError, KeyError, TypeError):
                raise OutputError(f"{folder / output.REPORT}: is damaged; give --overwrite to redo the case") from None
            if difference:
                raise OutputError(
                    f"its result was made with another {difference}; give --overwrite to redo, or another --output"
                )
            return row
        for column in REQUIRED:
            if not pair[column]:
                raise InputError(f"the row names no {column} image")
        extras = {column: pair[column] for column in OPTIONAL[1:] if pair.get(column)}
        output.check_free(folder, overwrite)
        result = register_and_segment(pair["fixed"], pair["moving"], **options, **extras)
        result.save(folder, overwrite)
        return summary_row(pair["case"], "done", result.report)
    except Canceled:
        raise
    except JointRegSegError as error:
        reason = str(error)
    except Exception as error:  # whatever a case does, the others have to run; the reason is kept
        reason = f"{type(error).__name__}: {error}"
    return {"case": pair["case"], "status": "failed", "reason": reason}


def _differs(report: dict[str, Any], pair: dict[str, str], options: dict[str, Any]) -> str | None:
    """Name of an input or setting in which a saved report is not what is asked for now."""
    for column in (*REQUIRED, *OPTIONAL[1:]):
        entry = report["inputs"].get(column)
        if ((entry or {}).get("file") if column in REQUIRED else entry or "") != pair.get(column, ""):
            return f"{column} input"
    settings = report["settings"]
    for key in ("model", "refine", "similarity", "fill", "working_size", "seed"):
        if settings[key] != options.get(key, settings[key]):
            return f"--{key.replace('_', '-')}"
    if options.get("align") not in (None, settings["align"]):
        return "--align"
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
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None
