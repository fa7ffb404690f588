"""From a network's memberships to labels on an image's own grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from . import files
from .deformation import scalar_image
from .geometry import Grid, affine_coordinates, sample, voxel_map

#: Voxels that are looked at at a time.
SLAB = 2**22


def segmentation_on(probabilities: torch.Tensor, lattice: Grid, image: sitk.Image, values: list[int]) -> sitk.Image:
    """The most probable label of (1, K, D, H, W) memberships on an image's grid; background where they do not reach."""
    grid = files.grid_of(image)
    width, height, depth = grid.size
    likeliest = _first_largest(probabilities[0])
    best = torch.empty(grid.shape, dtype=torch.uint8)
    thick = max(1, SLAB // (width * height))
    for first in range(0, depth, thick):
        slab = grid.cropped((0, 0, first), (width, height, min(thick, depth - first)))
        best[first : first + thick] = _most_probable(probabilities, likeliest, lattice, slab)
    table = np.array([0, *values], np.uint8 if max(values) < 256 else np.uint16)
    return scalar_image(table[best.numpy()], grid)


def _most_probable(probabilities: torch.Tensor, likeliest: torch.Tensor, lattice: Grid, grid: Grid) -> torch.Tensor:
    """Class (D, H, W) at each voxel of a grid, of which ``likeliest`` are those on the lattice.

    Between voxels that all have one class every mean of their memberships has it too, so that the memberships of the
    others alone, along borders, are interpolated.
    """
    shape = torch.tensor(likeliest.shape)
    corners = likeliest[None, None].float()
    cell = tuple(min(n, 2) for n in likeliest.shape)
    even = F.max_pool3d(corners, cell, 1) == -F.max_pool3d(-corners, cell, 1)
    place = affine_coordinates(voxel_map(grid, lattice), grid.shape, probabilities).view(3, -1)
    within = ((place >= 0) & (place <= (shape - 1)[:, None])).all(0)
    d, h, w = torch.minimum(place.floor().clamp_min(0).int(), (shape - 2).clamp_min(0).int()[:, None])
    sure = within & even[0, 0].flatten()[(d * even.shape[3] + h) * even.shape[4] + w]
    out = likeliest.flatten()[(d * shape[1].int() + h) * shape[2].int() + w]
    unsure = (~sure).nonzero()[:, 0]
    out[unsure] = _first_largest(sample(probabilities, place[:, unsure].view(1, 3, -1, 1, 1), fill=0.0)[0, :, :, 0, 0])
    return out.view(grid.shape)


def _first_largest(memberships: torch.Tensor) -> torch.Tensor:
    """Class, uint8, of the largest of (K, …) memberships; several times as fast as argmax."""
    highest, *others = memberships
    highest, best = highest.clone(), torch.zeros(highest.shape, dtype=torch.uint8)
    for k, other in enumerate(others, start=1):
        best.masked_fill_(other > highest, k)
        torch.maximum(highest, other, out=highest)
    return best
