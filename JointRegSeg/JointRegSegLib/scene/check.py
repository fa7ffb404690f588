"""Does Slicer, applying the transform node, get the same warped image as the one that was computed?"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from . import volumes

#: Voxels that are compared: enough to find any mistake of axes, few enough not to be felt.
SAMPLES = 4000


def transform_difference(
    moving: sitk.Image,
    warped: slicer.vtkMRMLScalarVolumeNode,
    transform: slicer.vtkMRMLTransformNode,
    samples: int = SAMPLES,
) -> dict[str, float] | None:
    """Difference of a warped volume from the moving image read through a transform node, at random voxels.

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
    rng = np.random.default_rng(0)
    index = np.stack([rng.integers(0, n, samples) for n in values.shape], 1)
    here = volumes.affine_of(warped) @ np.c_[index[:, ::-1], np.ones(samples)].T
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray((volumes.FLIP @ here)[:3].T), deep=True))
    there = vtk.vtkPoints()
    transform.GetTransformFromParent().TransformPoints(points, there)
    in_moving = vtk_to_numpy(there.GetData()) @ volumes.FLIP[:3, :3]
    size = np.array(moving.GetSize())
    place = (np.linalg.inv(volumes.image_affine(moving)) @ np.c_[in_moving, np.ones(samples)].T)[:3].T
    inside = ((place >= 0) & (place <= size - 1)).all(1)
    if not inside.any():
        return None
    expected = [moving.EvaluateAtPhysicalPoint(point, sitk.sitkLinear) for point in in_moving[inside].tolist()]
    span = float(np.ptp(sitk.GetArrayViewFromImage(moving))) or 1.0
    off = np.abs(np.array(expected) - values[tuple(index[inside].T)]) / span
    return {"mean": float(off.mean()), "p99": float(np.percentile(off, 99)), "compared": int(inside.sum())}
