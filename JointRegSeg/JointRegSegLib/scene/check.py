"""Does Slicer, applying the transform node, get the same warped image as the one that was computed?"""

from __future__ import annotations

import numpy as np
import slicer

from . import sitk, volumes

#: Voxels that are compared: enough to find any mistake of axes, few enough not to be felt.
SAMPLES = 4000
#: A warped volume of whole numbers may be off by less than this: it has no fractions.
WHOLE = 1.0
#: Intensities beyond these percentiles do not move the threshold of the body.
ROBUST = (1.0, 99.0)


def transform_difference(
    moving: sitk.Image,
    warped: slicer.vtkMRMLScalarVolumeNode,
    transform: slicer.vtkMRMLTransformNode,
    samples: int = SAMPLES,
) -> dict[str, float] | None:
    """Difference of a warped volume from the moving image read through a transform node, at random voxels.

    What a warped volume of whole numbers lacks for having no fractions is no difference, and values that are not finite
    are not compared.

    Parameters
    ----------
    moving : SimpleITK.Image
        As it was registered, where it is seen.
    warped : vtkMRMLScalarVolumeNode
        On the fixed volume's lattice.
    transform : vtkMRMLTransformNode
        From fixed to moving points: its transform from parent.

    Returns
    -------
    dict or None
        'mean' and 'p99' (99th percentile) of the absolute difference as a share of the moving image's range, and how
        many voxels were 'compared'. None if none of them is read inside the moving image.
    """
    values = volumes.values_of(warped)
    index = _voxels(values.shape, samples)
    there = _mapped(index, volumes.affine_of(warped), transform)
    inside = _inside(moving, there)
    expected = np.array([moving.EvaluateAtPhysicalPoint(point, sitk.sitkLinear) for point in there[inside].tolist()])
    off = np.abs(expected - values[tuple(index[inside].T)])
    off = off[np.isfinite(off)]
    if not len(off):
        return None
    if np.issubdtype(values.dtype, np.integer):
        off = np.maximum(off - WHOLE, 0)
    read = sitk.GetArrayViewFromImage(moving)
    low, high = volumes.extremes(read)
    off /= (high - low) or 1.0
    return {"mean": float(off.mean()), "p99": float(np.percentile(off, 99)), "compared": len(off)}


def uncovered_share(
    fixed: sitk.Image, moving: sitk.Image, transform: slicer.vtkMRMLTransformNode, samples: int = SAMPLES
) -> float:
    """Share of the fixed body that a transform node brings to where the moving image holds nothing.

    Parameters
    ----------
    fixed, moving : SimpleITK.Image
        As they were registered, where they are seen.
    """
    values = sitk.GetArrayViewFromImage(fixed)
    index = _voxels(values.shape, samples)
    index = index[in_body(values[tuple(index.T)])]
    if not len(index):
        return 0.0
    return float(1 - _inside(moving, _mapped(index, volumes.image_affine(fixed), transform)).mean())


def in_body(values: np.ndarray) -> np.ndarray:
    """(n,) Which of random values (n,) of an image are of the body: above Otsu's threshold, the brightest set aside."""
    finite = np.isfinite(values)
    if not finite.any():
        return finite
    low, high = np.percentile(values[finite], ROBUST)
    clipped = np.clip(np.where(finite, values, low), low, high).astype(np.float32)
    return sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(clipped[None]), 0, 1))[0] > 0


def _voxels(shape: tuple[int, ...], samples: int) -> np.ndarray:
    """(samples, 3) random indices (k, j, i), always the same."""
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, n, samples) for n in shape], 1)


def _mapped(index: np.ndarray, affine: np.ndarray, transform: slicer.vtkMRMLTransformNode) -> np.ndarray:
    """Where indices (k, j, i) of a fixed lattice lie in the moving space, (n, 3) LPS mm."""
    return volumes.through(transform.GetTransformFromParent(), volumes.placed(affine, index[:, ::-1]))


def _inside(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """(n,) Which points (n, 3) in LPS mm lie between voxels of an image."""
    return volumes.within(volumes.placed(np.linalg.inv(volumes.image_affine(image)), points), image.GetSize())
