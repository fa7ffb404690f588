"""Images carried over onto the lattice of another one by a transform, as SimpleITK and Slicer apply it."""

from __future__ import annotations

import SimpleITK as sitk

_FRACTIONS = (sitk.sitkFloat32, sitk.sitkFloat64)
#: Whose values single precision holds exactly.
_SMALL = (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16)


def resampled(image: sitk.Image, lattice: sitk.Image, way: sitk.Transform, labels: bool, outside: float) -> sitk.Image:
    """An image on another one's lattice, by a transform from its points; labels stay labels.

    Whole numbers are rounded: SimpleITK by itself cuts their fractions off.
    """
    kind = image.GetPixelID()
    if labels:
        return sitk.Resample(image, lattice, way, sitk.sitkNearestNeighbor, outside)
    if kind in _FRACTIONS:
        return sitk.Resample(image, lattice, way, sitk.sitkLinear, outside)
    exact = sitk.sitkFloat32 if kind in _SMALL else sitk.sitkFloat64
    return sitk.Cast(sitk.Round(sitk.Resample(image, lattice, way, sitk.sitkLinear, outside, exact)), kind)
