"""The fixed and the warped image in one: as a checkerboard, or one less the other."""

from __future__ import annotations

import numpy as np
import slicer

from . import sitk, volumes
from .results import SceneResult, adopt
from .seen import Seen

#: What the brightest voxels become, and the darkest 0: more shades than a screen shows.
WHITE = 255
#: Intensities from here to there become 0 to `WHITE`, in percent of the voxels: a few bright ones must not darken all.
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
    a, b, affine = _alike(result, fixed)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    side = squares_mm or float((spacing * a.shape).max()) / SQUARES
    turns = [(np.arange(n) + 0.5) * mm // side % 2 for n, mm in zip(a.shape, spacing, strict=True)]
    i, j, k = (turn.astype(bool) for turn in turns)
    for plane, odd in enumerate(i):
        np.copyto(a[plane], b[plane], where=odd ^ j[:, None] ^ k)
    node = _volume(result, "checkerboard", a, affine, f"{fixed.GetName()}, checkerboard")
    node.GetDisplayNode().SetWindowLevel(WHITE, WHITE / 2)
    return node


def difference(result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
    """Fixed less warped, after both were scaled to the same brightness: gray where they are equal.

    Raises
    ------
    InputError
        If the warped volume is not in the scene anymore, or a volume holds no image.
    """
    a, b, affine = _alike(result, fixed)
    values = np.subtract(a, b, dtype=np.int16)
    node = _volume(result, "difference", values, affine, f"{fixed.GetName()}, difference")
    widest = float(np.percentile(np.abs(_sample(values)), ROBUST[1]))
    node.GetDisplayNode().SetWindowLevel(2 * widest or 1.0, 0.0)
    return node


def _alike(result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both images on the warped one's lattice, scaled, and that lattice's voxel → LPS matrix."""
    (warped, affine), (values, own) = (
        _read(node, role) for node, role in ((result.need("warped"), "warped volume"), (fixed, "fixed volume"))
    )
    if values.shape != warped.shape or not np.allclose(own, affine, atol=1e-4):  # the fixed volume was moved since
        values = sitk.GetArrayFromImage(sitk.Resample(volumes.to_image(values, own), volumes.to_image(warped, affine)))
    return _scaled(values), _scaled(warped), affine


def _read(node: slicer.vtkMRMLScalarVolumeNode, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (k, j, i) where they are seen, copied only if they have to be resampled, and their lattice."""
    seen = Seen(node, role)
    seen.look()
    if (view := seen.view()) is not None:
        return view
    image = seen.image()
    return sitk.GetArrayFromImage(image), volumes.image_affine(image)


def _sample(values: np.ndarray) -> np.ndarray:
    """Few enough voxels, from everywhere."""
    return values.ravel()[:: max(1, values.size // SAMPLE)]


def _scaled(values: np.ndarray) -> np.ndarray:
    """From 0 to `WHITE`, plane by plane, which stays in the cache; voxels without a value are as the darkest."""
    some = _sample(values)
    some = some[np.isfinite(some)]
    low, high = np.percentile(some, ROBUST) if len(some) else (0.0, 1.0)
    factor, out = WHITE / (high - low or 1), np.empty(values.shape, np.uint8)
    for plane, into in zip(values, out, strict=True):
        scaled = np.subtract(plane, low, dtype=np.float32)
        scaled *= factor
        np.clip(scaled, 0, WHITE, out=scaled)
        into[:] = np.nan_to_num(scaled, nan=0.0) if values.dtype.kind == "f" else scaled
    return out


def _volume(
    result: SceneResult, role: str, values: np.ndarray, affine: np.ndarray, name: str
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
    volumes.fill_values(node, values, affine)
    return node
