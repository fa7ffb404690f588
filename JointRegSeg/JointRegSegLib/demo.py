"""The demonstration: one pair, registered, and how far it is from the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import models
from .errors import InputError
from .files import grid_of
from .metrics import landmark_errors
from .output import check_free
from .phantom import LABELS, ThoraxPair, breathing_thorax
from .pipeline import register_and_segment
from .result import Registration
from .terminal import Bar


def run_demo(output: Path, data: Path | None = None, device_name: str = "auto") -> Registration:
    """Register a simulated breathing thorax, or with ``data`` a real hippocampus pair, and print a small table.

    Replaces an earlier demonstration in ``output``.

    Raises
    ------
    InputError
        If ``data`` holds no pair.
    OutputError
        If ``output`` is the folder of something else.
    """
    output = check_free(output, overwrite=True)
    return _real(output, data, device_name) if data else _simulated(output, device_name)


def _simulated(output: Path, device_name: str) -> Registration:
    print("A breathing thorax, simulated: inhale (fixed) and exhale (moving), on two oblique grids.")
    pair = breathing_thorax()
    with Bar() as bar:
        result = register_and_segment(
            pair.fixed,
            pair.moving,
            fixed_labels=pair.fixed_labels,
            moving_labels=pair.moving_labels,
            fixed_points=pair.fixed_points,
            moving_points=pair.moving_points,
            device_name=device_name,
            progress=bar,
        )
        _name(result)
        result.save(output, overwrite=True, progress=bar)
    errors = motion_errors(pair, result)
    figures = result.report["quality"]
    labels = figures["labels"]
    rows = [
        ("motion error in the lungs, mean (mm)", *(f"{e.mean():.2f}" for e in errors)),
        ("motion error in the lungs, 95 % (mm)", *(f"{np.percentile(e, 95):.2f}" for e in errors)),
        (f"{figures['landmarks']['count']} vessel forks (mm)", *_moments(figures["landmarks"], "mm", "mean")),
        ("Dice of lungs, liver, heart", *(f"{labels[m]['mean_dice']:.3f}" for m in ("before", "after"))),
    ]
    _table(rows, result, output)
    return result


def _name(result: Registration) -> None:
    """Give images and labels, which come without a file, the names under which the report shows them."""
    result.label_names = LABELS
    result.report["inputs"]["fixed"]["name"] = "simulated inhale"
    result.report["inputs"]["moving"]["name"] = "simulated exhale"
    for overlap in result.report["quality"]["labels"].values():
        overlap["labels"] = {LABELS[int(value)]: figures for value, figures in overlap["labels"].items()}


def motion_errors(pair: ThoraxPair, result: Registration) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from the true motion at every lung voxel of the fixed image: not registered, and registered."""
    labels = sitk.GetArrayViewFromImage(pair.fixed_labels)
    lungs = [value for value, name in LABELS.items() if "lung" in name]
    index = np.argwhere(np.isin(labels, lungs))[:, ::-1]
    here = grid_of(pair.fixed).to_world(index)
    truth = pair.motion(here)
    return landmark_errors(here, truth), landmark_errors(result.deformation.to_moving(here), truth)


def _real(output: Path, data: Path, device_name: str) -> Registration:
    folder = data / "hippocampus"
    model = models.find("symmetric-hippocampus")
    held_out = model.manifest["training"].get("held_out", [])
    # Those on whom the model was not trained come first.
    found = sorted((folder / "images").glob("*.nii.gz"))
    images = sorted(found, key=lambda path: path.name.removesuffix(".nii.gz") not in held_out)[:2]
    if len(images) < 2:
        raise InputError(
            f"{data}: no hippocampus/images/*.nii.gz with at least two volumes; name another folder", "data"
        )
    fixed, moving = images
    labels = {f"{side}_labels": folder / "labels" / p.name for side, p in (("fixed", fixed), ("moving", moving))}
    print(f"A real pair, hippocampus MRI of two people: {fixed.name} (fixed) and {moving.name} (moving).")
    with Bar() as bar:
        result = register_and_segment(fixed, moving, model.name, **labels, device_name=device_name, progress=bar)
        result.save(output, overwrite=True, progress=bar)
    overlap = result.report["quality"]["labels"]
    _table(
        [
            ("Dice of head and body", *(f"{overlap[m]['mean_dice']:.3f}" for m in ("before", "after"))),
            ("HD95 (voxels)", *(f"{overlap[m]['mean_hd95_voxels']:.2f}" for m in ("before", "after"))),
        ],
        result,
        output,
    )
    return result


def _moments(entry: dict, unit: str, key: str) -> tuple[str, str]:
    return tuple(f"{entry[f'{m}_{unit}'][key]:.2f}" for m in ("before", "after"))


def _table(rows: list[tuple[str, str, str]], result: Registration, output: Path) -> None:
    regularity = result.report["quality"]["regularity"]
    print(f"\n{'':<40}{'before':>10}{'after':>10}")
    for title, before, after in rows:
        print(f"{title:<40}{before:>10}{after:>10}")
    print(f"{'folded voxels (%)':<40}{'':>10}{100 * regularity['folded_share']:>10.4f}")
    print(f"{'there and back, mean (voxels)':<40}{'':>10}{regularity['inverse_consistency_voxels']['mean']:>10.3f}")
    print(f"{'seconds':<40}{'':>10}{result.report['seconds']['total']:>10.1f}")
    print(f"\nverdict: {result.verdict} ({'; '.join(result.report['verdict']['reasons'])})")
    print(f"report:  {output / 'report.html'}")
    print(result.report["notice"])
