"""Breathing simulated on a real volume, with known motion: what training and tests of the lung tools need.

Tissue moves in two steps. A smooth diffeomorphism of the whole body has the diaphragm fall and the rib cage widen; a
flow within the lungs, tangential at the pleura, has them slide along the wall and moves expansion from stiff tissue to
soft tissue. Both are exponentials of stationary velocities, so that nothing folds, and lungs keep their mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from .. import fields
from ..deformation import Deformation
from ..errors import InputError
from ..geometry import Grid
from .slip import projected

#: Spacing in mm of the lattice on which velocities are made, unless another is asked for.
LATTICE = 4.0
#: Steps in which the flow within the lungs is followed.
STEPS = 12
#: Deviation in voxels of the lattice of the Gaussian that smooths this flow.
SMOOTHED = 1.0
#: Width in mm over which the fall of the diaphragm fades toward the wall of the chest, and toward the belly.
WALL, BELLY = 25.0, 130.0


@dataclass(frozen=True)
class Breath:
    """How a breath goes.

    Attributes
    ----------
    depth : float
        Way of the diaphragm's domes in mm; positive for a deeper inhale than the volume shows, negative for exhale.
    ribs : float
        Way of the chest's front wall in mm, as positive as ``depth``; its sides move by half of it.
    sliding : float
        Share of ``depth`` by which lung slides along the chest wall, 0 for none.
    stiffening : float
        How much of its expansion the stiffest tissue loses, 0 to 1, to the softest.
    """

    depth: float = 15.0
    ribs: float = 3.0
    sliding: float = 0.7
    stiffening: float = 0.0


@dataclass(frozen=True, eq=False)
class Breathed:
    """A simulated volume and its truth.

    Attributes
    ----------
    values : ndarray
        (D, H, W) of the simulated volume, on the lattice of the one it was made from.
    lungs : ndarray
        (D, H, W) its label map.
    displacement : ndarray
        (3, D, H, W) from each of its voxels to the same tissue in the original, LPS mm: the simulated volume is fixed.
    volume_ratio : ndarray
        (D, H, W) determinant of the derivative of that map: volume in the original for volume in the simulated one.
    """

    values: np.ndarray
    lungs: np.ndarray
    displacement: np.ndarray
    volume_ratio: np.ndarray


def breathe(
    values: np.ndarray,
    grid: Grid,
    lungs: np.ndarray,
    breath: Breath,
    stiffness: np.ndarray | None = None,
    air: float | None = -1000.0,
    spacing: float = LATTICE,
) -> Breathed:
    """Have a volume breathe.

    Parameters
    ----------
    values : ndarray
        (D, H, W) on ``grid``: HU, or any other intensity.
    lungs : ndarray
        (D, H, W) label map, 0 outside the lungs; lungs with labels of their own slide along each other, too.
    breath : Breath
    stiffness : ndarray, optional
        (D, H, W) between 0 (soft) and 1 (stiff), in the original.
    air : float or None
        Value of no mass, from which lung's density counts; None leaves intensities as they are.
    spacing : float
        Of the lattice on which velocities are made, in mm: a coarser one takes less time, and lungs slide on it with
        borders that are as much coarser.

    Raises
    ------
    InputError
        If there is no lung in the label map.
    """
    if not (lungs > 0).any():
        raise InputError("there is no lung to breathe with: the label map is empty")
    lattice = _lattice(grid, spacing)
    coarse = _carried(lungs.astype(np.float32), grid, lattice, 0).astype(np.int16)
    smooth = _body_velocity(coarse > 0, lattice, breath)
    body = fields.scale_and_square(torch.from_numpy(smooth)[None].float() / spacing)  # voxels of the lattice

    world = np.stack(_world(grid))
    # Where each voxel's tissue is once the lungs have slid, and then once the body has moved.
    slid, growth = _slid(world, grid, lungs, coarse, lattice, body, smooth, breath, stiffness)
    index = _at(lattice, slid)
    there = slid + _read(_to_world(body, lattice), index)
    ratio = _read(fields.jacobian_determinant(body)[0].numpy(), index)[0] * np.exp(growth)
    source = _at(grid, there)
    moved = ndimage.map_coordinates(values.astype(np.float32), source, order=1, mode="nearest")
    labels = ndimage.map_coordinates(lungs, source, order=0, mode="constant")
    if air is not None:
        moved = np.where(labels > 0, (moved - air) * ratio + air, moved)
    return Breathed(moved.astype(np.float32), labels, (there - world).astype(np.float32), ratio.astype(np.float32))


def truth(breathed: Breathed, grid: Grid) -> Deformation:
    """The known motion as a deformation, from the simulated volume (fixed) to the original (moving)."""
    vectors = torch.from_numpy(breathed.displacement)[None]
    displacement = fields.to_voxel(vectors, grid)
    return Deformation(grid, displacement, fields.invert(displacement), np.eye(4))


def _lattice(grid: Grid, spacing: float) -> Grid:
    """A lattice of ``spacing`` mm along the body's axes around all of ``grid``."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size], indexing="ij")).reshape(3, -1).T
    world = grid.to_world(corners)
    low, high = world.min(0) - 2 * spacing, world.max(0) + 2 * spacing
    size = tuple(int(n) for n in np.ceil((high - low) / spacing) + 1)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    return Grid(size, affine)


def _world(grid: Grid) -> list[np.ndarray]:
    """x, y, z of each voxel, (D, H, W) each."""
    k, j, i = np.indices(grid.shape, np.float32)
    a = grid.affine
    return [(a[c, 0] * i + a[c, 1] * j + a[c, 2] * k + a[c, 3]).astype(np.float32) for c in range(3)]


def _at(grid: Grid, world: np.ndarray) -> np.ndarray:
    """Array coordinates (3, …), k first, of LPS points (3, …)."""
    back = np.linalg.inv(grid.affine)
    index = np.tensordot(back[:3, :3], world, 1) + back[:3, 3].reshape(3, *[1] * (world.ndim - 1))
    return index[::-1].astype(np.float32)


def _read(field: np.ndarray, index: np.ndarray, order: int = 1) -> np.ndarray:
    """(C, D, H, W) at array coordinates (3, …): (C, …)."""
    return np.stack([ndimage.map_coordinates(c, index, order=order, mode="nearest") for c in field])


def _carried(values: np.ndarray, grid: Grid, lattice: Grid, order: int) -> np.ndarray:
    """Values of ``grid`` on another lattice, the nearest ones outside."""
    index = _at(grid, np.stack(_world(lattice)))
    return ndimage.map_coordinates(values, index, order=order, mode="constant")


def _to_world(displacement: torch.Tensor, lattice: Grid) -> np.ndarray:
    return fields.to_world(displacement, lattice)[0].numpy()


def _body_velocity(lung: np.ndarray, lattice: Grid, breath: Breath) -> np.ndarray:
    """(3, D, H, W) smooth velocity in mm along the lattice's axes k, j, i, which are the body's: up, back, left."""
    _, _, z = _world(lattice)
    spacing = lattice.spacing[0]
    levels = np.flatnonzero(lung.any((1, 2)))
    heights = lattice.to_world(np.stack([0 * levels, 0 * levels, levels], 1))[:, 2]
    # Each column's lung ends above the diaphragm; columns without lung take the nearest one's.
    footprint = lung.any(0)
    base = np.where(footprint, z[:, 0, 0][lung.argmax(0)], 0)
    nearest = ndimage.distance_transform_edt(~footprint, return_distances=False, return_indices=True)
    base = ndimage.gaussian_filter(base[tuple(nearest)], 20 / spacing)
    top = heights.max()
    above = np.clip((z - base) / np.maximum(top - base, 40.0), 0, 1)
    below = np.clip((base - z) / BELLY, 0, 1)
    profile = np.cos(above * np.pi / 2) ** 1.5 * np.cos(below * np.pi / 2) ** 2
    wall = np.clip(ndimage.distance_transform_edt(footprint, sampling=spacing) / WALL, 0, 1)
    wall = ndimage.gaussian_filter(wall * wall * (3 - 2 * wall), 4 / spacing)
    up = breath.depth * profile * wall
    # The ribs: front and sides come in, least at the apex and below the lungs; the spine rests.
    _, y, x = np.indices(lattice.shape) * spacing
    place = np.argwhere(footprint) * spacing
    (front, left), (back, right) = np.percentile(place, 1, 0), np.percentile(place, 99, 0)
    # What is left of a lung may be as narrow as a voxel.
    middle, wide, deep = (left + right) / 2, max((right - left) / 2, spacing), max(back - front, spacing)
    height = np.clip((z - heights.min() + 60) / 60, 0, 1) * np.clip((top + 60 - z) / 120, 0, 1)
    inward = breath.ribs * height * height * (3 - 2 * height)
    to_back = inward * np.clip((back - y) / deep, -0.3, 1.3)
    to_side = -inward / 2 * np.clip((x - middle) / wide, -1.3, 1.3)
    return np.stack([ndimage.gaussian_filter(c, 8 / spacing) for c in (up, to_back, to_side)])


def _slid(
    world: np.ndarray,
    grid: Grid,
    lungs: np.ndarray,
    coarse: np.ndarray,
    lattice: Grid,
    body: torch.Tensor,
    smooth: np.ndarray,
    breath: Breath,
    stiffness: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """LPS points to which the voxels' tissue slides, (3, D, H, W), and the logarithm of its change of volume."""
    on_lattice = np.stack(_world(lattice))
    shown = ndimage.map_coordinates(coarse, _at(lattice, on_lattice + _to_world(body, lattice)), order=0)
    growing = fields.log_jacobian(body)[0, 0].numpy()
    divergence = np.zeros(lattice.shape, np.float32)
    if stiffness is not None and breath.stiffening:
        stiff = _carried(stiffness.astype(np.float32), grid, lattice, 1)
        stiff = ndimage.map_coordinates(stiff, _at(lattice, on_lattice + _to_world(body, lattice)), order=1)
        stiff = ndimage.gaussian_filter(stiff, 6 / lattice.spacing[0])
        divergence = -breath.stiffening * growing.mean(where=shown > 0) * (stiff - stiff.mean(where=shown > 0))
    # Lung near the wall, where the body's own motion fades, follows the diaphragm.
    lag = np.zeros_like(smooth)
    for value in np.unique(shown[shown > 0]):
        own, toward = shown == value, np.sign(breath.depth)
        peak = toward * (toward * smooth[0]).max((1, 2), where=own, initial=0)
        lag[0] += np.where(own, breath.sliding * (peak[:, None, None] - smooth[0]), 0)
    out, growth = world.copy(), np.zeros(grid.shape, np.float32)
    moved = _at(grid, world + _read(_to_world(body, lattice), _at(lattice, world)))
    own = ndimage.map_coordinates(lungs, moved, order=0, mode="constant")
    for value in np.unique(own[own > 0]):
        region = shown == value
        if not region.any():
            continue
        flow = _smoothed(projected(region, lattice.spacing, lag, divergence), region).astype(np.float32)
        inside = own == value
        points, grown = world[:, inside], np.zeros(int(inside.sum()), np.float32)
        for _ in range(STEPS):
            middle = points + _read(flow, _at(lattice, points))[::-1] / (2 * STEPS)
            index = _at(lattice, middle)
            points = points + _read(flow, index)[::-1] / STEPS
            grown += _read(divergence[None], index)[0] / STEPS
        out[:, inside], growth[inside] = points, grown
    return out, growth


def _smoothed(flow: np.ndarray, region: np.ndarray) -> np.ndarray:
    """(3, D, H, W) averaged over neighboring voxels within the region; outside it goes on as at the nearest one inside.

    A region's border goes in steps of a voxel. The flow around each step would press the tissue along the pleura
    together until it folds. What little of the averaged flow crosses the border carries lung no further than a
    fraction of a voxel.
    """
    weight = ndimage.gaussian_filter(region.astype(float), SMOOTHED)
    averaged = [ndimage.gaussian_filter(c * region, SMOOTHED) / np.maximum(weight, 1e-6) for c in flow]
    nearest = ndimage.distance_transform_edt(~region, return_distances=False, return_indices=True)
    return np.stack(averaged)[(slice(None), *nearest)]
