"""Figures of each pair, from the files that a method wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from cohorts import read
from JointRegSegLib import fields, files, metrics
from JointRegSegLib.geometry import Grid
from JointRegSegTrainingLib.cohort import stem

Row = dict[str, float | str]


def score(
    table: Path,
    folder: Path | None,
    labels: Sequence[int],
    seconds: dict[str, float] | None = None,
    segmented: Sequence[int] = (),
) -> list[Row]:
    """Figures of each pair; ``folder`` is None for no registration, ``segmented`` what a model segments."""
    rows = []
    for pair in read(table):
        truth, start = (sitk.GetArrayFromImage(sitk.ReadImage(pair[key])) for key in ("fixed_labels", "moving_labels"))
        case = None if folder is None else folder / pair["case"]
        carried = start if case is None else sitk.GetArrayFromImage(sitk.ReadImage(str(case / "warped_labels.nii.gz")))
        overlaps = metrics.dice(carried, truth, labels)
        row = {
            **{key: stem(Path(pair[key])) for key in ("moving", "fixed")},
            "before": _mean(metrics.dice(start, truth, labels)),
            "dice": _mean(overlaps),
            "hd95": _mean(metrics.hausdorff95(carried, truth, labels)),
            **{f"dice {value}": overlap for value, overlap in overlaps.items()},
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
                grid = files.grid_of(image)
                missed = there_and_back(case, grid, files.grid_of(sitk.ReadImage(pair["moving"])))
                voxels = np.linalg.norm(missed @ grid.direction / grid.spacing, axis=1)
                row["mean_error"], row["max_error"] = float(voxels.mean()), float(voxels.max())
            if segmented and (case / "fixed_segmentation.nii.gz").exists():
                found = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "fixed_segmentation.nii.gz")))
                own = metrics.dice(found, truth, segmented)
                row |= {"segmentation": _mean(own), **{f"segmentation {v}": d for v, d in own.items()}}
        rows.append(row)
    return rows


def there_and_back(case: Path, fixed: Grid, moving: Grid) -> np.ndarray:
    """What transform.h5 followed by inverse_transform.h5 leaves, in mm (n, 3), where it leads into the moving image."""
    forward, backward = (sitk.ReadTransform(str(case / f"{name}.h5")) for name in ("transform", "inverse_transform"))
    axes = [np.arange(min(2, n // 4), n - min(2, n // 4), max(n // 16, 1), dtype=float) for n in fixed.size]
    missed = []
    for point in fixed.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)).tolist():
        there = forward.TransformPoint(point)
        if moving.contains(there):
            missed.append(np.subtract(backward.TransformPoint(there), point))
    return np.array(missed).reshape(-1, 3)


def _mean(values: dict[int, float]) -> float:
    return float(np.nanmean(list(values.values())))
