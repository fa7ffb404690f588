"""A saved transform applied to an image, a label map or landmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from . import files
from .carry import resampled
from .errors import InputError, OutputError
from .points import read_points, write_points


def apply_transform(
    transform: Path,
    source: Path,
    output: Path,
    reference: Path | None = None,
    kind: Literal["image", "labels", "points"] = "image",
    overwrite: bool = False,
) -> None:
    """Carry something through a transform file.

    An image or label map is resampled onto ``reference`` (values outside are the image's minimum, or background); each
    landmark p becomes T(p).

    Raises
    ------
    InputError
        If a file is missing or unreadable, an image comes without a reference, or nothing of it would be seen.
    OutputError
        If the output exists (without ``overwrite``) or cannot be written to.
    """
    try:
        if output.exists() and not overwrite:
            raise OutputError(f"{output}: exists already; replace it, or name another file", "overwrite")
        if not output.parent.is_dir():
            raise OutputError(f"{output.parent}: no such folder; create it first")
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); name another file") from None
    mapping = files.read_transform(transform)
    if kind == "points":
        moved = np.array([mapping.TransformPoint(p) for p in read_points(source).tolist()])
        _replace(output, lambda path: write_points(moved, path))
        return
    if reference is None:
        raise InputError("an image or label map needs a reference, the image whose grid it gets", "reference")
    target = files.read_image(reference, values=False)
    image = files.read_image(source, labels=kind == "labels", values=False)
    default = 0.0 if kind == "labels" else _lowest(image, source)
    carried = resampled(image, target, mapping, kind == "labels", default)
    if not np.ptp(sitk.GetArrayViewFromImage(carried)) and not _reached(image, target, mapping):
        raise InputError(
            f"{source}: the transform leads no voxel of {reference} into it; give the image and the reference that the "
            "transform is of"
        )
    _replace(output, lambda path: files.write_image(carried, path))


def _reached(image: sitk.Image, target: sitk.Image, mapping: sitk.Transform) -> bool:
    """Whether any voxel of the target comes to lie in the image."""
    whole = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    whole.CopyInformation(image)
    there = sitk.Resample(whole, target, mapping, sitk.sitkNearestNeighbor, 0.0)
    return bool(sitk.GetArrayViewFromImage(there).any())


def _lowest(image: sitk.Image, source: Path) -> float:
    array = sitk.GetArrayViewFromImage(image)
    finite = array[np.isfinite(array)]
    if not len(finite):
        raise InputError(f"{source}: has no voxel with a finite value; check that the right file was given")
    return float(finite.min())


def _replace(output: Path, write: Callable[[Path], None]) -> None:
    """Write beside the output and move into place, so that an interruption leaves no half-written file."""
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=output.parent) as folder:
            part = Path(folder) / output.name
            write(part)
            # Some formats have their voxels in a file of their own, which has to be there before the header is.
            for path in sorted(part.parent.iterdir(), key=lambda path: path == part):
                files.permit(path)
                path.replace(output.with_name(path.name))
    except OutputError as error:  # it names the file beside
        raise OutputError(str(error).replace(str(part), str(output))) from None
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); check space and permissions") from None
