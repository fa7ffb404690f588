"""A folder of DICOM slices as one volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError

#: DICOM tags: where a slice's first voxel lies, and how its rows and columns run.
_PLACE = ("0020|0032", "0020|0037")
#: Of slices, by how much they may lie off their normal, and off even distances, in distances of theirs.
_SLANT, _UNEVEN = 0.01, 0.1


def read(folder: Path) -> sitk.Image:
    """The one series of a folder, as ITK reads it.

    Raises
    ------
    InputError
        If there is none or more than one, or its slices are no lattice.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"{folder}: no DICOM series in this folder; name an image file or a folder of DICOM slices")
    if len(series) > 1:
        raise InputError(f"{folder}: holds {len(series)} DICOM series; keep one series a folder")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    if len(names) == 1:  # all frames in one file
        return sitk.ReadImage(names[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _check_slices(folder, *([_numbers(reader, n, tag) for n in range(len(names))] for tag in _PLACE))
    return image


def _numbers(reader: sitk.ImageSeriesReader, number: int, tag: str) -> list[float]:
    """Of a slice's tag; none where it has no such tag."""
    return [float(x) for x in reader.GetMetaData(number, tag).split("\\")] if reader.HasMetaDataKey(number, tag) else []


def _check_slices(folder: Path, positions: list[list[float]], directions: list[list[float]]) -> None:
    """Refuse slices that are no lattice: ITK would read them as one all the same, with sizes that are wrong."""
    if not all(len(p) == 3 for p in positions) or not all(len(d) == 6 for d in directions):
        return
    if np.ptp(directions, axis=0).max() > _SLANT:
        raise InputError(f"{folder}: its slices lie in different directions; keep one orientation a folder")
    places, (row, column) = np.array(positions), np.reshape(directions[0], (2, 3))
    steps, normal = places - places[0], np.cross(row, column)
    along = steps @ normal
    step = along[-1] / (len(along) - 1)
    apart = np.diff(along) * np.sign(step)
    if apart.min() <= 0.01 * abs(step):
        raise InputError(
            f"{folder}: some of its slices lie at places of others, as where a series holds several phases; keep one "
            "volume a folder"
        )
    if np.linalg.norm(steps[-1] - along[-1] * normal) > _SLANT * abs(along[-1]):
        raise InputError(
            f"{folder}: its slices are shifted against each other (gantry tilt); import it into Slicer and harden the "
            "acquisition transform, or resample it to a regular lattice first"
        )
    if np.abs(along - step * np.arange(len(along))).max() > _UNEVEN * abs(step):
        raise InputError(
            f"{folder}: its slices are {apart.min():.3g} to {apart.max():.3g} mm apart, so that some are missing or "
            "unevenly spaced; complete it, or resample it to a regular lattice first"
        )
