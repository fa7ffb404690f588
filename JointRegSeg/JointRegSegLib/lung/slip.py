"""Flows that stay within a region: tangential at its border, so that it slides, with a divergence of one's choice.

A field on the faces between voxels is corrected by the gradient of a potential until nothing crosses the border
(Neumann condition) and the divergence is the wanted one: the Helmholtz-Hodge projection on a staggered lattice.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import cg


def projected(region: np.ndarray, spacing: np.ndarray, drive: np.ndarray, divergence: np.ndarray) -> np.ndarray:
    """The flow nearest to ``drive`` that stays in ``region`` and has the wanted ``divergence``.

    Parameters
    ----------
    region : ndarray
        (D, H, W) bool.
    spacing : ndarray
        (3,) mm along the array's axes.
    drive : ndarray
        (3, D, H, W) in mm along the array's axes.
    divergence : ndarray
        (D, H, W); in each connected part its mean is taken out, since a part cannot grow.

    Returns
    -------
    ndarray
        (3, D, H, W) in mm at voxel centers; outside the region it goes on as at the nearest voxel inside.
    """
    parts, count = ndimage.label(region)
    source = np.where(region, divergence, 0.0)
    means = ndimage.mean(source, parts, np.arange(1, count + 1))
    source[region] -= np.asarray(means)[parts[region] - 1]

    number = np.full(region.shape, -1)
    number[region] = np.arange(region.sum())
    lower, upper, flux, step = [], [], [], []
    for axis in range(3):
        near, far = _sides(axis)
        inner = region[near] & region[far]
        lower.append(number[near][inner])
        upper.append(number[far][inner])
        flux.append((drive[axis][near][inner] + drive[axis][far][inner]) / 2)
        step.append(np.full(len(flux[-1]), spacing[axis]))
    low, high, across, width = (np.concatenate(x) for x in (lower, upper, flux, step))
    total = int(region.sum())
    excess = np.zeros(total)
    np.add.at(excess, low, across / width)
    np.add.at(excess, high, -across / width)
    weight = 1 / width**2
    ones = coo_matrix((weight, (low, high)), (total, total)).tocsr()
    ones = ones + ones.T
    degree = np.asarray(ones.sum(1)).ravel()
    laplacian = diags(np.maximum(degree, 1e-12)) - ones  # positive semidefinite: minus the Laplacian
    potential, _ = cg(
        laplacian, source[region] - excess, rtol=1e-6, maxiter=2000, M=diags(1 / np.maximum(degree, 1e-12))
    )
    across = across - (potential[high] - potential[low]) / width

    flow = np.zeros((3, *region.shape))
    begin = 0
    for axis in range(3):
        near, far = _sides(axis)
        inner = region[near] & region[far]
        faces = np.zeros(inner.shape)
        faces[inner] = across[begin : begin + inner.sum()]
        begin += int(inner.sum())
        flow[axis][near] += faces / 2
        flow[axis][far] += faces / 2
    nearest = ndimage.distance_transform_edt(~region, return_distances=False, return_indices=True)
    return flow[(slice(None), *nearest)]


def _sides(axis: int) -> tuple[tuple, tuple]:
    """Slices of the voxels below and above the faces across an axis."""
    near, far = [slice(None)] * 3, [slice(None)] * 3
    near[axis], far[axis] = slice(None, -1), slice(1, None)
    return tuple(near), tuple(far)
