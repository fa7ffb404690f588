"""A registered pair of breathing phases: what is known of the lungs' tissue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from .. import fields, files
from ..deformation import Deformation, displacement_on, field_lattice, scalar_image
from ..geometry import Grid
from .expansion import RESOLUTION, Expansion, unfolded
from .regions import regions, require_lungs, unnamed
from .table import Breath


@dataclass(frozen=True, eq=False)
class BreathingPair:
    """What a transform says of the lungs.

    Attributes
    ----------
    grid : Grid
        The fixed image's lattice, or every n-th voxel of it (see `deformation.field_lattice`).
    lungs : ndarray
        (D, H, W) bool, n of them True.
    breath : Breath
    parts : dict
        (n,) bool by region, see `regions`.
    """

    grid: Grid
    lungs: np.ndarray
    breath: Breath
    parts: dict[str, np.ndarray]

    @property
    def volume_ratio(self) -> float:
        """The lungs' volume at inhale for that at exhale."""
        exhale, inhale = self.breath.volumes()
        return float(inhale.sum() / exhale.sum())

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(n,) values of the lungs' voxels as (D, H, W); outside as at the nearest one, for what lies there slides."""
        out = np.zeros(self.lungs.shape)
        out[self.lungs] = values
        return out[tuple(self._nearest)]

    @property
    def points(self) -> np.ndarray:
        """(n, 3) places of the lungs' voxels in LPS mm."""
        return self.grid.to_world(np.argwhere(self.lungs)[:, ::-1])

    @cached_property
    def _nearest(self) -> np.ndarray:
        """Indices (3, D, H, W) of each voxel's nearest one in the lungs."""
        return ndimage.distance_transform_edt(~self.lungs, return_distances=False, return_indices=True)


def breathing_pair(transform: sitk.Transform, labels: sitk.Image) -> BreathingPair:
    """Measure a pair; which image is the inhale is told by the volumes.

    Parameters
    ----------
    transform : sitk.Transform
        From fixed to moving points.
    labels : sitk.Image
        On the fixed image: lungs or lobes, 0 outside.

    Raises
    ------
    InputError
        If there are no lungs, or the transform folds in them.
    """
    require_lungs(sitk.GetArrayViewFromImage(labels), "the label map of the fixed image")
    own = files.grid_of(labels)
    grid = field_lattice(own)
    if grid is not own:
        reference = scalar_image(np.zeros(grid.shape, np.uint8), grid)
        labels = sitk.Resample(labels, reference, sitk.Transform(3, 1), sitk.sitkNearestNeighbor)
    values = sitk.GetArrayFromImage(labels)
    vectors = np.moveaxis(sitk.GetArrayFromImage(displacement_on(transform, grid)), -1, 0)
    displacement = fields.to_voxel(torch.from_numpy(np.ascontiguousarray(vectors))[None], grid)
    # Nothing here reads its inverse.
    deformation = Deformation(grid, displacement, torch.empty(0), np.eye(4))
    fixed_is_inhale = bool(deformation.jacobian()[0, 0].numpy()[values > 0].mean() < 1)
    values *= unfolded(deformation, values > 0)
    lungs = values > 0
    parts = regions(values, grid, unnamed(values))
    expansion = Expansion.of(deformation, torch.from_numpy(lungs), fixed_is_inhale, RESOLUTION)
    breath = Breath(expansion, grid.voxel_volume, fixed_is_inhale)
    return BreathingPair(grid, lungs, breath, {name: mask[lungs] for name, mask in parts.items()})
