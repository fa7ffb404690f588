"""Figures on held-out hippocampus pairs: this project's models beside SimpleITK's demons and ANTs SyN, in one run.

Pairs are different people whom `symmetric-hippocampus` was not trained on (its bundle names them), each volume padded
about its center to 64³, as in Learn2Reg task 4. Everything goes through the public batch command and is scored from the
files that it wrote.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from JointRegSegLib import fields, files, metrics, models
from JointRegSegLib.batch import run_batch
from JointRegSegLib.cli import REFINE_STEPS
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import resample
from JointRegSegLib.pipeline import register_and_segment
from JointRegSegTrainingLib.cohort import random_pairs

SIDE = 64
LABELS = (1, 2)
MODEL = "symmetric-hippocampus"
WIDTHS = (-34, 7, 8, 7, 7, 9, 8, 7, 17, 7)
ANTS = Path(__file__).resolve().parents[2] / ".venv-ants"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--output", type=Path, help="keep all results in this folder (default: a temporary one)")
    parser.add_argument("--no-ants", action="store_true", help="leave ANTs out")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "hippocampus"
    if not source.is_dir():
        print(f"bench: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        return bench(source, arguments.output or Path(temporary), arguments.pairs, not arguments.no_ants)


def bench(source: Path, folder: Path, count: int, with_ants: bool) -> int:
    held_out = models.find(MODEL).manifest["training"]["held_out"]
    table = prepare(source, folder, random_pairs(held_out, count, seed=1))
    print(f"{count} pairs of {len(held_out)} people who were not trained on; {torch.get_num_threads()} CPU threads\n")
    first = ("", "Dice", "Dice30", "HD95", "fixed", "folded", "SDlogJ", "std", "there and back", "sec")
    second = ("", "", "", "vox", "seg.", "%", "L2R", "logJ", "mean, max vox", "")
    for titles in (first, second):
        print("".join(f"{t:>{w}}" if w > 0 else f"{t:<{-w}}" for t, w in zip(titles, WIDTHS, strict=True)))
    before = [row["before"] for row in score(table, None)]
    show("none", score(table, None), before)
    show("SimpleITK demons", score(table, demons(table, folder / "demons")), before)
    if with_ants:
        show("ANTs SyN", score(table, syn(table, folder / "syn")), before)
    runs = {
        "generic": {"model": "generic"},
        "network": {"model": MODEL},
        "refined": {"model": MODEL, "refine": REFINE_STEPS},
    }
    for name, options in runs.items():
        # Loading is not part of a pair's time: the first pair of a process would carry it alone.
        register_and_segment(*(next(read(table))[key] for key in ("fixed", "moving")), options["model"])
        outcome = run_batch(table, folder / name, options)
        seconds = {row["case"]: row["estimating_seconds"] for row in outcome.rows}
        show(
            f"{options['model']}{', --refine' if 'refine' in options else ''}",
            score(table, folder / name, seconds),
            before,
        )
    return 0


def prepare(source: Path, folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """Write padded volumes and the table of pairs."""
    padded = folder / "padded"
    for kind in ("images", "labels"):
        (padded / kind).mkdir(parents=True, exist_ok=True)
        for name in {name for pair in pairs for name in pair}:
            values, grid = files.to_tensor(files.read_image(source / kind / f"{name}.nii.gz"))
            target = grid.fitted([SIDE] * 3)
            # Everybody's first voxel, and so the middle too, lies at the same point, as in the challenge.
            image = scalar_image(resample(values, grid, target, fill=0), target)
            image.SetOrigin([0, 0, 0])
            files.write_image(
                sitk.Cast(image, sitk.sitkUInt8) if kind == "labels" else image, padded / kind / f"{name}.nii.gz"
            )
    table = folder / "pairs.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "fixed", "moving", "fixed_labels", "moving_labels"])
        for moving, fixed in pairs:
            paths = [
                (padded / kind / f"{name}.nii.gz").resolve()
                for kind in ("images", "labels")
                for name in (fixed, moving)
            ]
            writer.writerow([f"{moving}-to-{fixed}", *paths])
    return table


def read(table: Path):
    with table.open(newline="") as stream:
        yield from csv.DictReader(stream)


def demons(table: Path, folder: Path) -> Path:
    """SimpleITK's symmetric-forces demons on three resolutions, after matching histograms."""
    rows = []
    for pair in read(table):
        fixed, moving = (sitk.ReadImage(pair[key], sitk.sitkFloat32) for key in ("fixed", "moving"))
        began = time.perf_counter()
        moving = sitk.HistogramMatching(moving, fixed, 256, 7, True)
        field = None
        for factor, steps in ((4, 50), (2, 50), (1, 30)):
            small = [sitk.BinShrink(image, [factor] * 3) for image in (fixed, moving)]
            demon = sitk.FastSymmetricForcesDemonsRegistrationFilter()
            demon.SetNumberOfIterations(steps)
            demon.SetSmoothDisplacementField(True)
            demon.SetStandardDeviations(1.5)
            if field is None:
                field = demon.Execute(*small)
            else:
                field = demon.Execute(*small, sitk.Resample(field, small[0], sitk.Transform(3, sitk.sitkIdentity)))
        seconds = time.perf_counter() - began
        out = folder / pair["case"]
        out.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(field, str(out / "displacement.nii.gz"))
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        labels = sitk.ReadImage(pair["moving_labels"])
        sitk.WriteImage(
            sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor), str(out / "warped_labels.nii.gz")
        )
        rows.append([pair["case"], f"{seconds:.3f}", out / "displacement.nii.gz"])
    with (folder / "seconds.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", "seconds", "displacement"], *rows])
    return folder


def syn(table: Path, folder: Path) -> Path:
    """ANTs SyN in its own environment, which is made if it is missing."""
    python = ANTS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ANTS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "antspyx"], check=True)
    # ITK starts a thread for every core it sees; the others here may use as many as torch.
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(torch.get_num_threads())}
    script = Path(__file__).with_name("ants_syn.py")
    subprocess.run([str(python), str(script), str(table), str(folder)], check=True, env={**os.environ, **threads})
    return folder


def score(table: Path, folder: Path | None, seconds: dict[str, float] | None = None) -> list[dict[str, float]]:
    """Figures of each pair from the files of a method; ``None`` for no registration."""
    if folder is not None and seconds is None:
        with (folder / "seconds.csv").open(newline="") as stream:
            seconds = {row["case"]: float(row["seconds"]) for row in csv.DictReader(stream)}
    rows = []
    for pair in read(table):
        truth, start = (sitk.GetArrayFromImage(sitk.ReadImage(pair[key])) for key in ("fixed_labels", "moving_labels"))
        case = None if folder is None else folder / pair["case"]
        carried = start if case is None else sitk.GetArrayFromImage(sitk.ReadImage(str(case / "warped_labels.nii.gz")))
        row = {
            "before": np.mean(list(metrics.dice(start, truth, LABELS).values())),
            "dice": np.mean(list(metrics.dice(carried, truth, LABELS).values())),
            "hd95": np.mean(list(metrics.hausdorff95(carried, truth, LABELS).values())),
        }
        if case is not None:
            image = sitk.ReadImage(str(case / "displacement.nii.gz"))
            vectors = torch.from_numpy(np.moveaxis(sitk.GetArrayFromImage(image), -1, 0).astype(np.float32))
            field = fields.to_voxel(vectors[None], files.grid_of(image))[0].numpy()
            row |= {
                "folded": metrics.folded_share(field),
                "sdlogj": metrics.sdlogj(field),
                "spread": metrics.log_jacobian_spread(field),
                "seconds": seconds[pair["case"]],
            }
            if (case / "inverse_transform.h5").exists():
                row["mean_error"], row["max_error"] = there_and_back(case)
            if (case / "fixed_segmentation.nii.gz").exists():
                found = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "fixed_segmentation.nii.gz")))
                row["segmentation"] = np.mean(list(metrics.dice(found, truth, LABELS).values()))
        rows.append(row)
    return rows


def there_and_back(case: Path) -> tuple[float, float]:
    """Mean and largest distance in voxels of transform.h5 followed by inverse_transform.h5, inside the image."""
    forward, backward = (sitk.ReadTransform(str(case / f"{name}.h5")) for name in ("transform", "inverse_transform"))
    grid = files.grid_of(sitk.ReadImage(str(case / "warped.nii.gz")))
    axis = np.arange(2, SIDE - 2, 4, dtype=float)
    errors = []
    for point in grid.to_world(np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)).tolist():
        there = forward.TransformPoint(point)
        if grid.contains(there):  # 1 mm voxels: millimeters are voxels
            errors.append(np.linalg.norm(np.subtract(backward.TransformPoint(there), point)))
    return float(np.mean(errors)), float(np.max(errors))


def show(name: str, rows: list[dict[str, float]], before: list[float]) -> None:
    """Print a method's line."""

    def mean(key: str, width: int, digits: int, factor: float = 1.0) -> str:
        values = [row[key] for row in rows if key in row]
        return f"{factor * np.mean(values):>{width}.{digits}f}" if values else " " * width

    hardest = metrics.hardest_mean([row["dice"] for row in rows], before)
    worst = max((row.get("max_error", np.nan) for row in rows), default=np.nan)
    trip = f"{mean('mean_error', 0, 3)}, {worst:.2f}" if "mean_error" in rows[0] else ""
    print(
        f"{name:<34}{mean('dice', 7, 3)}{hardest:>8.3f}{mean('hd95', 7, 2)}{mean('segmentation', 7, 3)}"
        f"{mean('folded', 9, 4, 100)}{mean('sdlogj', 8, 3)}{mean('spread', 7, 3)}{trip:>17}{mean('seconds', 7, 2)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
