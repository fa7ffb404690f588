"""The lungs of two scans as a model outlines them, where no density tells them: in MRI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import InputError
from ..files import grid_of
from ..models import find
from ..pipeline import register_and_segment
from ..progress import Progress, silent
from . import threshold

MODEL = "lung-breathing"
#: Share of a lung's largest piece that another has to have to be lung, too.
PIECE = 0.25


def outlined(
    scans: Sequence[sitk.Image], names: Sequence[str], device: str = "auto", progress: Progress = silent
) -> tuple[list[np.ndarray], list[str]]:
    """Right and left lung of both scans, by one pass of the network `MODEL`.

    Parameters
    ----------
    scans : sequence of sitk.Image
        Two scans of a chest.
    names : sequence of str
        What errors call them.

    Returns
    -------
    lungs : list of ndarray
        (D, H, W) uint8 each: `threshold.RIGHT`, `threshold.LEFT` and 0.
    warnings : list of str
        Where a scan is unlike what the model was made for, its outlines may be nonsense.

    Raises
    ------
    InputError
        If no lungs of plausible size are found.
    ModelError
        If the model is not there.
    """
    sides = {name: value for value, name in threshold.NAMES.items()}
    labels = [label for label in find(MODEL).manifest["labels"] if label["name"] in sides]
    # Told as one stage, which never falls back: those of the review's own registration are yet to come.
    found = register_and_segment(*scans, MODEL, device_name=device, progress=lambda *_: progress("outlining", 0.5))
    out = []
    for name, image, segments in zip(names, scans, (found.fixed_segmentation, found.moving_segmentation), strict=True):
        seen = sitk.GetArrayViewFromImage(segments)
        lungs = np.zeros(seen.shape, np.uint8)
        for label in labels:
            lungs[_without_specks(seen == label["value"])] = sides[label["name"]]
        if (lungs > 0).sum() * grid_of(image).voxel_volume / 1000 < threshold.LEAST:
            raise InputError(f"{name}: the model {MODEL} finds no lungs of plausible size; {threshold.ASK}", "lungs")
        out.append(lungs)
    return out, [f"outlines of the lungs: {warning}" for warning in found.report["warnings"]]


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Its pieces, by faces, that hold at least `PIECE` of the largest one's voxels."""
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    return np.concatenate([[False], sizes >= PIECE * sizes.max(initial=1)])[pieces]
