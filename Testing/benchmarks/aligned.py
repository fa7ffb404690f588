"""Volumes of different people brought onto one of them by affine maps, as Xu and Niethammer 2019 prepare theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.affine import register_affine, shrink_within
from JointRegSegLib.deformation import Deformation, scalar_image
from JointRegSegLib.preprocess import INTENSITIES, Preprocessing

#: Voxels along the longest side of the images that are compared.
SIDE = 64


def align(source: Path, folder: Path, preprocessing: Preprocessing) -> Path:
    """``source``/images and labels, resampled onto the first image, into ``folder``; what is there already stays.

    Nothing but the images is looked at; they begin as the ``preprocessing`` of a model lays them onto each other.
    """
    paths = sorted((source / "images").iterdir())
    goal, grid = files.to_tensor(files.read_image(paths[0]))
    for path in paths:
        places = [folder / kind / path.name for kind in ("images", "labels")]
        if all(place.exists() for place in places):
            continue
        original = files.read_image(path)
        image, own = files.to_tensor(original)
        drawn = files.to_tensor(files.read_labels(source / "labels" / path.name, original, path.name))[0]
        start = np.eye(4)
        start[:3, 3] = preprocessing.middle(image, own) - preprocessing.middle(goal, grid)
        (moving, moving_grid), (fixed, fixed_grid) = shrink_within(image, own, SIDE), shrink_within(goal, grid, SIDE)
        moving, fixed = (INTENSITIES["zscore"](x, x) for x in (moving, fixed))
        matrix = start if path == paths[0] else register_affine(moving, moving_grid, fixed, fixed_grid, start)
        onto = Deformation.identity(grid, matrix)
        carried = onto.warp(image, own, fill=float(image.min())), onto.warp(drawn, own, "nearest", fill=0)
        for place, values, kind in zip(places, carried, (sitk.sitkFloat32, sitk.sitkUInt16), strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_image(sitk.Cast(scalar_image(values, grid), kind), place)
    return folder
