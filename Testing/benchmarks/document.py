"""Tables and plots of what was measured: bench.py, breaths.py and the experiments.

Figures are kept in OUTPUT/figures, in the place of older ones of the same system or experiment; OUTPUT/README.md and
its pictures are written from all that are there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from JointRegSegLib import metrics, models
from JointRegSegLib.errors import ModelError
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from per_person import each, holm, signed_rank

COLUMNS = (
    ("Dice", "dice", 3, 1),
    ("HD95, voxels", "hd95", 2, 1),
    ("fixed segmentation, Dice", "segmentation", 3, 1),
    ("folded, %", "folded", 4, 100),
    ("spread of log J", "spread", 3, 1),
    ("there and back, voxels", "mean_error", 3, 1),
    ("seconds", "seconds", 2, 1),
    ("in all", "all_seconds", 2, 1),
    ("on a GPU", "gpu_seconds", 2, 1),
)
#: What the others are compared with: the first of these that was measured.
REFERENCES = ("ANTs SyN", "generic")
#: Beside which each structure is counted, pair by pair.
RIVAL = "SimpleITK demons"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="OUTPUT")
    parser.add_argument("figures", type=Path, nargs="*", help="as bench.py, breaths.py and the experiments write them")
    given = parser.parse_args()
    try:
        measured = [json.loads(path.read_text(encoding="utf-8")) for path in given.figures]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    folder, kept = given.folder, given.folder / "figures"
    kept.mkdir(parents=True, exist_ok=True)
    for found in measured:
        (kept / f"{_name(found)}.json").write_text(json.dumps(_rounded(found)) + "\n", encoding="utf-8")
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(kept.glob("*.json"))]
    parts = [
        "# Benchmarks",
        "",
        "Written by `document.py`; do not edit. Means over people not trained on, unless a line says so;",
        "Dice30 is that of the 30 % of pairs that were hardest before. Seconds of our methods",
        "are those of the estimation; 'in all', where it is told, is with reading, exact inverse, resampling, checks.",
        "Every map of ours is made one that can be undone before it is measured; what a network folds by itself is",
        "told by the experiments on training, and by `jointregseg evaluate`.",
        "",
    ]
    for found in sorted(every, key=lambda found: "columns" in found):
        parts += chapter(found, folder)
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    return 0


def _name(found: dict) -> str:
    """Of the file that figures are kept in."""
    return re.sub(r"\W+", "-", found.get("system") or found["title"]).strip("-").lower()


def _rounded(found: Any) -> Any:
    """Numbers with the digits that mean anything, for they are kept in the repository; what is none is left out."""
    if isinstance(found, float):
        return float(f"{found:.5g}")
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items() if value == value}  # JSON has no NaN
    return [_rounded(value) for value in found] if isinstance(found, list) else found


def chapter(found: dict, folder: Path) -> list[str]:
    """One system: its table, its structures, its plot; or the table of an experiment."""
    if "columns" in found:
        table = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
        origin = f"`{found['command']}`, commit {found['commit']}"
        return [f"## {found['title']}", "", *map(_line, table), "", f"{found['said']}; {origin}.", ""]
    system, methods, names = found["system"], found["methods"], found["labels"]
    out = [f"## {system.capitalize()}", "", f"{found['said']}, {found['machine']}; commit {found['commit']}.", ""]
    columns = [column for column in COLUMNS if any(column[1] in row for rows in methods.values() for row in rows)]
    titles = ["method", "parameters", "memory, GB", "Dice30", *(title for title, *_ in columns)]
    out += [_line(titles), _line(["---"] * len(titles))]
    for name, rows in methods.items():
        hardest = metrics.hardest_mean([row["dice"] for row in rows], [row["before"] for row in rows])
        memory = f"{found['memory'][name]:.2f}" if name in found["memory"] else ""
        figures = [_mean(rows, *column[1:]) for column in columns]
        out.append(_line([name, _parameters(name), memory, f"{hardest:.3f}", *figures]))
    out += ["", "Dice of each structure:", ""]
    out += _by_structure(names, methods, lambda value, rows: _mean(rows, f"dice {value}", 3, 1))
    segmenting = {name: rows for name, rows in methods.items() if "segmentation" in rows[0]}
    if segmenting:
        out += ["", "Dice of each structure as segmented in the fixed image:", ""]
        out += _by_structure(names, segmenting, lambda value, rows: _mean(rows, f"segmentation {value}", 3, 1))
    if RIVAL in methods:
        others = {name: rows for name, rows in methods.items() if name not in ("none", RIVAL)}
        out += ["", f"Pairs in which a structure's Dice is better than that of {RIVAL}:", ""]
        out += _by_structure(names, others, lambda value, rows: _wins(rows, methods[RIVAL], f"dice {value}"))
    reference = next(name for name in REFERENCES if name in methods)
    told = "of each person the mean over the pairs onto them; p of Wilcoxon's signed-rank test, corrected after Holm"
    out += ["", f"Difference of Dice from {reference}, {told}:", ""]
    out += _compared(methods, reference)
    plot(methods, folder / f"{system}.png")
    return [*out, "", f"![Dice of each pair by method]({system}.png)", ""]


def _by_structure(
    names: dict[str, str], methods: dict[str, list[dict]], cell: Callable[[str, list[dict]], str]
) -> list[str]:
    """Table with a line for each structure that any method has a figure of, made by ``cell`` of label and rows."""
    lines = [[label, *(cell(value, rows) for rows in methods.values())] for value, label in names.items()]
    lines = [line for line in lines if any(line[1:])]
    return [_line(["structure", *methods]), _line(["---"] * (len(methods) + 1)), *map(_line, lines)]


def _wins(rows: list[dict], others: list[dict], key: str) -> str:
    better = [row[key] > other[key] for row, other in zip(rows, others, strict=True) if key in row and key in other]
    return f"{100 * np.mean(better):.0f} %" if better else ""


def _compared(methods: dict[str, list[dict]], reference: str) -> list[str]:
    base = each(methods[reference], "dice")
    values = {name: each(rows, "dice") for name, rows in methods.items()}
    values = {name: own for name, own in values.items() if (own != base).any()}
    out = [_line(["method", "mean difference", "people who are better", "p"]), _line(["---"] * 4)]
    for name, p in holm({name: signed_rank(own, base) for name, own in values.items()}).items():
        own = values[name]
        out.append(_line([name, f"{(own - base).mean():+.3f}", f"{100 * (own > base).mean():.0f} %", f"{p:.2g}"]))
    return out


def plot(methods: dict[str, list[dict]], path: Path) -> None:
    """Dice of all pairs, a box for each method."""
    figure = Figure(figsize=(8, 0.5 + 0.45 * len(methods)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.boxplot([[row["dice"] for row in rows] for rows in methods.values()], orientation="horizontal", widths=0.6)
    axes.set_yticks(range(1, len(methods) + 1), list(methods))
    axes.invert_yaxis()
    axes.set_xlabel("Dice, mean over structures; one value a pair")
    axes.grid(axis="x", alpha=0.4)
    figure.savefig(path)


def _parameters(name: str) -> str:
    try:
        network = models.load(models.find(name.partition(",")[0]))
    except ModelError:
        return ""
    return f"{sum(p.numel() for p in network.parameters()):,}"


def _mean(rows: list[dict], key: str, digits: int, factor: float) -> str:
    values = [factor * row[key] for row in rows if key in row]
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}" if values else ""


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
