"""How tissue deforms from exhale to inhale, whichever of the two images is the fixed one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ..deformation import Deformation
from ..errors import InputError
from ..text import percent

#: Deviation in mm of the Gaussian over which derivatives of a registration are averaged within the lungs: it resolves
#: no more, and derivatives of single voxels are mostly noise. A uniform expansion stays what it is.
RESOLUTION = 6.0
#: Share of the lungs' voxels that may fold, at the pleura above all, where tissue slides; they are left out.
FOLDED = 0.005


@dataclass(frozen=True)
class Expansion:
    """The derivative of the map from exhale to inhale, at n voxels of the fixed image.

    Attributes
    ----------
    gradient : ndarray
        (n, 3, 3) F = ∂(inhale point)/∂(exhale point), LPS; its determinant is the ratio of volumes.
    motion : ndarray
        (n, 3) way of the tissue from exhale to inhale in LPS mm.
    """

    gradient: np.ndarray
    motion: np.ndarray

    @classmethod
    def of(
        cls, deformation: Deformation, inside: torch.Tensor, fixed_is_inhale: bool, resolution: float = 0.0
    ) -> Expansion:
        """The expansion where ``inside`` holds, (D, H, W) bool on the deformation's lattice.

        ``resolution`` is the deviation in mm of a Gaussian over which derivatives are averaged, see `RESOLUTION`.

        Raises
        ------
        InputError
            If nothing is inside, or the map folds there, so that it has no inverse.
        """
        if not bool(inside.any()):
            raise InputError("there is no lung to measure: the mask is empty on the fixed image's lattice")
        gradient = derivative(deformation, inside)
        motion = deformation.vectors()[0][:, inside].T.double().numpy()
        folded = np.linalg.det(gradient) <= 0
        if folded.any():
            share = percent(folded.mean())
            raise InputError(f"the deformation folds in {share} of the lung, where no volume can be told; refine it")
        if resolution:
            gradient = _averaged(gradient, inside.numpy(), resolution / deformation.grid.spacing[::-1])
        if fixed_is_inhale:
            return cls(np.linalg.inv(gradient), -motion)
        return cls(gradient, motion)

    @cached_property
    def volume_ratio(self) -> np.ndarray:
        """(n,) J = det F, volume at inhale for volume at exhale."""
        return np.linalg.det(self.gradient)

    @cached_property
    def stretches(self) -> np.ndarray:
        """(n, 3) principal stretches λ₁ ≥ λ₂ ≥ λ₃: roots of the eigenvalues of FᵀF."""
        squares = np.linalg.eigvalsh(np.swapaxes(self.gradient, 1, 2) @ self.gradient)
        return np.sqrt(squares.clip(0))[:, ::-1]


def derivative(deformation: Deformation, inside: torch.Tensor) -> np.ndarray:
    """∂T/∂x of the map from fixed to moving points at the n voxels inside, (n, 3, 3) LPS.

    Differences are taken between voxels inside only: lungs slide along the wall, and what lies beyond the pleura moves
    otherwise.
    """
    axes = deformation.grid.array_affine[:3, :3]
    chosen = np.eye(3) + _differences(deformation.displacement[0].double().numpy(), inside.numpy())
    # Index space to millimeters on both sides, then the affine part, which acts last.
    return deformation.affine[:3, :3] @ axes @ chosen @ np.linalg.inv(axes)


def unfolded(deformation: Deformation, inside: np.ndarray) -> np.ndarray:
    """``inside`` (D, H, W) bool without what folds, unless that is more than `FOLDED` of it."""
    left = inside.copy()
    while left.sum() > (1 - FOLDED) * inside.sum():
        kept = np.linalg.det(derivative(deformation, torch.from_numpy(left))) > 0
        if kept.all():
            return left
        left[left] = kept  # whose neighbors have other differences now
    return inside


def _differences(u: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """∂u/∂x of (3, D, H, W) at the n voxels inside, (n, 3, 3): central ones, one-sided at the border of ``inside``."""
    out = np.zeros((int(inside.sum()), 3, 3))
    for axis in range(3):
        step = np.diff(u, axis=1 + axis)
        known = np.take(inside, range(1, inside.shape[axis]), axis) & np.take(inside, range(step.shape[1 + axis]), axis)
        total, count = np.zeros(u.shape), np.zeros(inside.shape)
        for side in (slice(1, None), slice(None, -1)):
            part = tuple(side if a == axis else slice(None) for a in range(3))
            total[(slice(None), *part)] += step * known
            count[part] += known
        out[:, :, axis] = (total / np.maximum(count, 1))[:, inside].T
    return out


def _averaged(values: np.ndarray, inside: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(n, 3, 3) at the voxels inside as Gaussian means of ``width`` (voxels along D, H, W) over those inside alone."""
    box = tuple(slice(int(place.min()), int(place.max()) + 1) for place in np.nonzero(inside))
    inside = inside[box]
    weight = gaussian_filter(inside.astype(float), width, mode="constant")[inside]
    out = np.empty_like(values)
    for row, column in np.ndindex(3, 3):
        volume = np.zeros(inside.shape)
        volume[inside] = values[:, row, column]
        out[:, row, column] = gaussian_filter(volume, width, mode="constant")[inside] / weight
    return out
