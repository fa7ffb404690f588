"""A simulated patient: an anatomy of one's own that breathes, with stiffness of a known degree at a known place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..deformation import Deformation
from ..errors import InputError
from ..geometry import Grid
from ..phantom import exhaled_thorax
from .breathing import Breath, breathe, truth
from .regions import PEEL, regions

#: Distance in mm between the border of the image and the lungs.
MARGIN = 20.0
#: Size in mm of the random changes of shape, and the distance over which they vary.
WARP, REACH = 4.0, 80.0
#: Largest stiffness that everybody's lungs have, and the distance in mm over which it varies.
MILD, PATCHES = 0.25, 20.0
#: Share of the stiffness below the pleura that the core of a diseased zone has.
CORE = 0.6
#: Noise of an image for its range of intensities.
NOISE = 0.008


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A volume to make patients of: (D, H, W) ``values`` and ``lungs`` (0 outside) on ``grid``, at exhale if known."""

    values: np.ndarray
    lungs: np.ndarray
    grid: Grid


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated pair and its truth.

    Attributes
    ----------
    grid : Grid
        Oblique and anisotropic, of both images.
    inhale, exhale : ndarray
        (D, H, W), noise included.
    inhale_lungs, exhale_lungs : ndarray
        (D, H, W) label maps.
    stiffness : ndarray
        (D, H, W) of the tissue where it is at inhale, from 0 (soft) to 1 (does not expand).
    motion : Deformation
        From inhale (fixed) to exhale (moving).
    breath : Breath
    degree : float
        Largest stiffness that the disease adds; 0 for the healthy.
    """

    grid: Grid
    inhale: np.ndarray
    exhale: np.ndarray
    inhale_lungs: np.ndarray
    exhale_lungs: np.ndarray
    stiffness: np.ndarray
    motion: Deformation
    breath: Breath
    degree: float


def phantom(seed: int) -> Anatomy:
    """The thorax made of formulas, with vessels and texture of its own for each seed."""
    grid = Grid.centered((0, 0, 30), (70, 50, 64), (4.2, 4.2, 4.2), np.eye(3))
    values, organs = exhaled_thorax(seed, grid)
    return Anatomy(values, np.where(organs <= 2, organs, 0), grid)


def patient(anatomy: Anatomy, severity: float, rng: np.random.Generator, spacing: float = 4.0) -> Patient:
    """Draw a patient.

    What is drawn does not depend on ``severity``: the same generator gives the same person with another degree of
    disease, and at 0 the sick are drawn as the healthy are.

    Parameters
    ----------
    anatomy : Anatomy
        Varied in size, shape, orientation and lattice.
    severity : float
        Of the disease, 0 for the healthy. Its degree is this times a number between 0.5 and 1.5, at most 1.
    spacing : float
        Mean distance of voxels in mm.

    Raises
    ------
    InputError
        If the anatomy has no lungs.
    """
    values, lungs, grid = _varied(anatomy, rng, spacing)
    breath = Breath(rng.uniform(15, 22), rng.uniform(2, 6), rng.uniform(0.1, 0.3), stiffening=1.0)
    degree = min(severity * rng.uniform(0.5, 1.5), 1.0)
    mild = MILD * rng.uniform() * _smooth_noise(grid, rng)
    stiffness = np.clip(mild + degree * diseased(lungs, grid), 0, 1)
    air = -1000.0 if np.percentile(values, 1) < -700 else None
    breathed = breathe(values, grid, lungs, breath, stiffness, air)
    motion = truth(breathed, grid)
    carried = motion.warp(torch.from_numpy(stiffness)[None, None].float(), grid)[0, 0].numpy()
    low, high = np.percentile(values, (0.5, 99.5))
    inhale, exhale = (
        (image + NOISE * (high - low) * rng.standard_normal(image.shape)).astype(np.float32)
        for image in (breathed.values, values)
    )
    return Patient(grid, inhale, exhale, breathed.lungs, lungs, carried * (breathed.lungs > 0), motion, breath, degree)


def diseased(lungs: np.ndarray, grid: Grid) -> np.ndarray:
    """(D, H, W) from 0 to 1: where the disease is: basal, and most below the pleura, as in idiopathic fibrosis.

    1 in the peel of the lower zone, `CORE` in its core, 0 in the upper two thirds; outside the lungs as at their
    nearest voxel, so that whoever smooths it does not soften the pleura.
    """
    zones = regions((lungs > 0).astype(np.uint8), grid, {1: "both"})
    lower = zones["lower zone"]
    depth = ndimage.distance_transform_edt(np.pad(lungs > 0, 1), sampling=grid.spacing[::-1])[1:-1, 1:-1, 1:-1]
    nearest = ndimage.distance_transform_edt(lungs == 0, return_distances=False, return_indices=True)
    return (lower * np.where(depth <= PEEL, 1.0, CORE))[tuple(nearest)]


def _varied(anatomy: Anatomy, rng: np.random.Generator, spacing: float) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Another person of the same kind, on a lattice of their own: values, lungs, grid."""
    if not (anatomy.lungs > 0).any():
        raise InputError("there is no lung in the label map of the anatomy; give one that shows the lungs")
    lung = anatomy.grid.to_world(np.argwhere(anatomy.lungs > 0)[:, ::-1])
    low, high = lung.min(0), lung.max(0)
    turn = Rotation.from_rotvec(rng.uniform(-7, 7, 3), degrees=True).as_matrix()
    person = turn @ np.diag(rng.uniform(0.9, 1.1, 3))  # from the new person to the anatomy
    axes = np.eye(3)[:, rng.permutation(3)] * rng.choice((-1, 1), 3)
    axes = Rotation.from_rotvec(rng.uniform(-6, 6, 3), degrees=True).as_matrix() @ axes
    step = spacing * np.array((0.94, 0.94, 1.13))[rng.permutation(3)]
    extent = np.abs(np.linalg.inv(person) @ np.diag(high - low)).sum(1) + 2 * MARGIN  # along L, P, S
    size = np.ceil(np.abs(axes.T) @ extent / step).astype(int)
    grid = Grid.centered((low + high) / 2, size, step, axes)
    about = np.eye(4)
    about[:3, :3], about[:3, 3] = person, grid.center - person @ grid.center
    shape = np.stack([WARP * _smooth_noise(grid, rng, REACH, signed=True) for _ in range(3)])
    k, j, i = np.indices(grid.shape)
    there = grid.to_world(np.stack([i, j, k], -1)) + np.moveaxis(shape, 0, -1)
    index = anatomy.grid.to_index(there @ about[:3, :3].T + about[:3, 3])
    index = np.moveaxis(index[..., ::-1], -1, 0)
    values = ndimage.map_coordinates(anatomy.values.astype(np.float32), index, order=1, mode="nearest")
    lungs = ndimage.map_coordinates(anatomy.lungs, index, order=0, mode="constant")
    return values, lungs, grid


def _smooth_noise(grid: Grid, rng: np.random.Generator, reach: float = PATCHES, signed: bool = False) -> np.ndarray:
    """(D, H, W) that varies over ``reach`` mm: from 0 to 1, or with mean 0 and deviation 1."""
    count = np.ceil(grid.extent[::-1] / reach).astype(int) + 3
    knots = rng.standard_normal(count)
    axes = [np.linspace(1, n - 2, m) for n, m in zip(count, grid.shape, strict=True)]
    noise = ndimage.map_coordinates(knots, np.meshgrid(*axes, indexing="ij"), order=3, mode="nearest")
    noise = (noise - noise.mean()) / noise.std()
    return noise if signed else np.clip(0.5 + noise / 4, 0, 1)
