"""The fixed and the warped image in one: as a checkerboard, or one less the other."""

from __future__ import annotations

import numpy as np
import slicer

from . import sitk, volumes
from .results import SceneResult, adopt
from .seen import image_of

#: Intensities from here to there become 0 to 1, in percent of the voxels: a few bright ones must not darken the rest.
ROBUST = (1.0, 99.0)
#: About how many voxels the percentiles are taken from.
SAMPLE = 1_000_000
#: Squares along the longest side of the volume, where nothing else is asked for.
SQUARES = 8
GRAY = "vtkMRMLColorTableNodeGrey"


def checkerboard(
    result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode, squares_mm: float | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """Squares (cubes, in fact) of the fixed and the warped image by turns, both scaled to the same brightness.

    Parameters
    ----------
    squares_mm : float, optional
        Length of a side; by default an eighth of the volume's longest side.

    Raises
    ------
    InputError
        If the warped volume is not in the scene anymore, or a volume holds no image.
    """
    a, b, lattice = _alike(result, fixed)
    spacing = np.array(lattice.GetSpacing())[::-1]
    side = squares_mm or float((spacing * a.shape).max()) / SQUARES
    turns = [(np.arange(n) + 0.5) * mm // side % 2 for n, mm in zip(a.shape, spacing, strict=True)]
    i, j, k = (turn.astype(bool) for turn in turns)
    values = np.where(i[:, None, None] ^ j[:, None] ^ k, b, a)
    node = _volume(result, "checkerboard", values, lattice, f"{fixed.GetName()}, checkerboard")
    node.GetDisplayNode().SetWindowLevel(1.0, 0.5)
    return node


def difference(result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
    """Fixed less warped, after both were scaled to the same brightness: gray where they are equal.

    Raises
    ------
    InputError
        If the warped volume is not in the scene anymore, or a volume holds no image.
    """
    a, b, lattice = _alike(result, fixed)
    values = a - b
    node = _volume(result, "difference", values, lattice, f"{fixed.GetName()}, difference")
    widest = float(np.percentile(np.abs(_sample(values)), ROBUST[1]))
    node.GetDisplayNode().SetWindowLevel(2 * widest or 1.0, 0.0)
    return node


def _alike(result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, np.ndarray, sitk.Image]:
    """Both images on the warped one's lattice, scaled; and an image with that lattice."""
    lattice = image_of(result.need("warped"), "warped volume")
    there = image_of(fixed, "fixed volume")
    if there.GetSize() != lattice.GetSize() or not np.allclose(*map(volumes.image_affine, (there, lattice)), atol=1e-4):
        there = sitk.Resample(there, lattice)  # the fixed volume was moved since
    return _scaled(sitk.GetArrayViewFromImage(there)), _scaled(sitk.GetArrayViewFromImage(lattice)), lattice


def _sample(values: np.ndarray) -> np.ndarray:
    """Few enough voxels, from everywhere."""
    return values.ravel()[:: max(1, values.size // SAMPLE)]


def _scaled(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; voxels without a value are as dark as the darkest."""
    some = _sample(values)
    some = some[np.isfinite(some)]
    low, high = np.percentile(some, ROBUST) if len(some) else (0.0, 1.0)
    out = values.astype(np.float32)
    out -= low
    out /= high - low or 1
    return np.nan_to_num(np.clip(out, 0, 1, out=out), copy=False, nan=0.0)


def _volume(
    result: SceneResult, role: str, values: np.ndarray, lattice: sitk.Image, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """The result's node of this role, made if there is none."""
    scene, node = result.need("warped").GetScene(), result.get(role)
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(GRAY)
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.SetHideFromEditors(True)  # nothing to register or to carry over
        adopt(result, role, node)
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(lattice)
    volumes.fill(node, image)
    return node
