"""A thorax that breathes by a known motion, registered by that, as files of the worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib.deformation import displacement_on
from JointRegSegLib.files import grid_of
from JointRegSegLib.phantom import ThoraxPair, breathing_thorax


def thorax() -> ThoraxPair:
    """Inhale (fixed) and exhale (moving)."""
    return breathing_thorax(size=(56, 46, 40), spacing=(5.4, 5.4, 7))


def known_registration(folder: Path, pair: ThoraxPair) -> tuple[Path, dict]:
    """Folder and 'result' event of a registration that found the known motion."""
    k, j, i = np.indices(pair.fixed.GetSize()[::-1])
    here = grid_of(pair.fixed).to_world(np.stack([i, j, k], -1))
    vectors = pair.motion(here.reshape(-1, 3)).reshape(here.shape) - here
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(pair.fixed)
    inverse = sitk.DisplacementFieldTransform(sitk.InvertDisplacementField(field, 30, 0.5, 0.05))
    images = {
        "displacement": sitk.Cast(field, sitk.sitkVectorFloat32),
        "inverse_displacement": displacement_on(inverse, grid_of(pair.moving)),
    }
    forward = sitk.DisplacementFieldTransform(field)  # which takes the field's voxels
    images["warped"] = sitk.Resample(pair.moving, pair.fixed, forward, sitk.sitkLinear, -1000)
    for name, found in images.items():
        sitk.WriteImage(found, str(folder / f"{name}.nrrd"))
    report = {"verdict": {"color": "green", "reasons": ["known"], "checks_passed": []}, "quality": {}, "model": {}}
    report |= {"warnings": [], "notes": [], "seconds": {"total": 0.0}}
    return folder, {"files": {name: f"{name}.nrrd" for name in images}, "report": report, "labels": []}
