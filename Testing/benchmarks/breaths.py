"""Real breaths and lungs of different people, beside landmarks and lungs that were drawn: how near each method comes.

Every pair of inhale and exhale of one person in the data, in both directions, and one person's proton MRI with each of
the others'. Landmarks are told in mm, in 4D MRI those of the liver; lungs by their Dice. Folds are counted on the fixed
image's own lattice, and there and back is what transform.h5 and inverse_transform.h5 together leave, in mm. Whom
`lung-breathing` was trained on is said. With --output all results are kept, and figures.json for document.py.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lung_cohort
import numpy as np
import SimpleITK as sitk
import torch
from JointRegSegLib import fields, files, metrics, models
from JointRegSegLib.batch import ORGANS, run_batch
from JointRegSegLib.cli import REFINE_STEPS
from JointRegSegTrainingLib.cohort import Row
from others import demons, seconds_of, syn
from scores import there_and_back
from trainings import Table

MODEL = "lung-breathing"
FIGURES = ("landmarks, mm", "worst, mm", "lungs, Dice", "folded, %", "there and back, mm")
COLUMNS = ("case", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points", *ORGANS)
#: Of this project: options, and whether lungs that were drawn slide along the wall.
RUNS = {
    "generic": ({"model": "generic"}, False),
    "generic, lungs slide": ({"model": "generic"}, True),
    MODEL: ({"model": MODEL}, False),
    f"{MODEL}, --refine": ({"model": MODEL, "refine": REFINE_STEPS}, False),
}


@dataclass(frozen=True)
class Pair:
    """Two images; ``points`` of both in LPS mm, in the same order, where there are any."""

    fixed: Row
    moving: Row
    points: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def name(self) -> str:
        """Of the case."""
        return f"{self.moving.name}-to-{self.fixed.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--output", type=Path, help="keep all results in this folder (default: a temporary one)")
    parser.add_argument("--pairs", default="", help="only those whose name begins like this, such as mri-4d")
    parser.add_argument("--methods", nargs="+", help="only these; see the table")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "lung"
    if not source.is_dir():
        print(f"breaths: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        pairs = [p for p in pairs_of(source, folder / "images") if p.name.startswith(arguments.pairs)]
        measured(pairs, folder, arguments.methods).tell(folder / "figures.json")
    return 0


def pairs_of(source: Path, folder: Path) -> Iterator[Pair]:
    """All pairs of the data, whose volumes are written to ``folder`` with their true axes."""
    for breath in (lung_cohort.ct_4d(source, folder), lung_cohort.ct_large(source, folder)):
        for fixed, moving in (breath, breath[::-1]):
            yield Pair(fixed, moving)
    for person, rows in _people(lung_cohort.liver(source, folder)).items():
        drawn = {row: landmarks(source / "mri_4d" / person.removeprefix("mri-4d-"), row) for row in rows}
        (exhale,) = (row for row in rows if "exhMaster" in row.name)
        for inhale in rows:
            if inhale is not exhale:
                for fixed, moving in ((exhale, inhale), (inhale, exhale)):
                    yield Pair(fixed, moving, (drawn[fixed], drawn[moving]))
    people = lung_cohort.proton(source, folder)
    (left_out,) = (row for row in people if row.split == "test")
    for other in people:
        if other is not left_out:
            yield Pair(left_out, other)


def landmarks(folder: Path, image: Row) -> np.ndarray:
    """Those of the liver, (n, 3), in LPS mm: their files count from the volume's corner along its own axes."""
    phase = image.name.removeprefix(f"{image.subject}-").removesuffix("-unmasked")
    words = (folder / f"{phase.replace('-', '_')}LMliver.vtk").read_text(encoding="ascii").split()
    first, count = words.index("POINTS") + 3, int(words[words.index("POINTS") + 1])
    along = np.array(words[first : first + 3 * count], float).reshape(count, 3)
    return along @ np.reshape(lung_cohort.SAGITTAL, (3, 3)).T


def _people(rows: list[Row]) -> dict[str, list[Row]]:
    return {person: [row for row in rows if row.subject == person] for person in dict.fromkeys(r.subject for r in rows)}


def measured(pairs: list[Pair], folder: Path, wanted: list[str] | None = None) -> Table:
    """Register with all methods, or those ``wanted``, and tell the figures of each pair."""
    found = {}
    table = write(pairs, folder / "pairs.csv")
    for name, method in {"SimpleITK demons": demons, "ANTs SyN": syn}.items():
        if wanted is None or name in wanted:
            place = folder / method.__name__
            method(table, place)
            found[name] = place, seconds_of(place)
    for name, (options, slide) in RUNS.items():
        those = [p for p in pairs if not slide or (p.fixed.labels and p.fixed.subject == p.moving.subject)]
        if those and (wanted is None or name in wanted):
            place = folder / name.replace(", --", "-").replace(", ", "-")
            table = write(those, folder / f"{place.name}.csv", slide)
            rows = run_batch(table, place, options, overwrite=True).rows
            found[name] = place, {row["case"]: row["estimating_seconds"] for row in rows if row["status"] == "done"}
    held_out = models.find(MODEL).manifest["training"]["held_out"]
    lines = []
    for pair in pairs:
        seen = [row.subject for row in (pair.fixed, pair.moving) if row.name not in held_out]
        title = f"{pair.moving.name} to {pair.fixed.name}" + (", trained on" if len(seen) == 2 else "")
        lines.append([title, "none", *figures(pair, None), ""])
        for name, (place, seconds) in found.items():
            if pair.name in seconds:
                lines.append(["", name, *figures(pair, place / pair.name), f"{seconds[pair.name]:.1f}"])
    said = f"landmarks and lungs of {len(pairs)} pairs; seconds are the estimation's, on {torch.get_num_threads()} CPU "
    said += "threads, or, of the others, the whole registration's"
    title = "Lungs and livers that breathe" + (f": {' and '.join(wanted)}" if wanted else "")
    return Table(title, said, ["pair", "method", *FIGURES, "seconds"], lines)


def write(pairs: list[Pair], path: Path, slide: bool = False) -> Path:
    """Table of the pairs for `jointregseg batch`; the lungs ``slide`` where that is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for pair in pairs:
            row = {"case": pair.name}
            for side in ("fixed", "moving"):
                image = getattr(pair, side)
                row[side] = image.image.resolve()
                if image.labels:
                    row[f"{side}_labels"] = image.labels.resolve()
                if slide:
                    row[f"{side}_organs"] = image.labels.resolve()
            writer.writerow(row)
    return path


def figures(pair: Pair, case: Path | None) -> list[str]:
    """`FIGURES`; of no registration if ``case`` is None."""
    field = None if case is None else sitk.ReadImage(str(case / "displacement.nii.gz"))
    out = ["", "", "", "", ""]
    if pair.points is not None:
        there, true = pair.points
        if field is not None:
            there = there + moved(field, there)
        missed = np.linalg.norm(there - true, axis=1)
        out[:2] = f"{missed.mean():.2f}", f"{missed.max():.1f}"
    if pair.fixed.labels:
        drawn = sitk.ReadImage(str(pair.fixed.labels))
        if case is None:
            carried = sitk.ReadImage(str(pair.moving.labels))
            carried = sitk.Resample(carried, drawn, sitk.Transform(), sitk.sitkNearestNeighbor)
        else:
            carried = sitk.ReadImage(str(case / "warped_labels.nii.gz"))
        out[2] = f"{metrics.dice(*(sitk.GetArrayFromImage(x) > 0 for x in (carried, drawn)), [1])[1]:.3f}"
    if field is not None:
        grid = files.grid_of(field)
        vectors = torch.from_numpy(np.moveaxis(sitk.GetArrayFromImage(field), -1, 0).astype(np.float32))
        out[3] = f"{100 * metrics.folded_share(fields.to_voxel(vectors[None], grid)[0].numpy()):.4f}"
        if (case / "inverse_transform.h5").exists():
            moving = files.grid_of(sitk.ReadImage(str(pair.moving.image)))
            out[4] = f"{np.linalg.norm(there_and_back(case, grid, moving), axis=1).mean():.3f}"
    return out


def moved(field: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Displacement at points (n, 3) within the fixed image, both in LPS mm; it leads to the moving image."""
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return np.array([transform.TransformPoint(point) for point in points.tolist()]) - points


if __name__ == "__main__":
    sys.exit(main())
