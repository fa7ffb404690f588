"""Motion through few thick slices is found as well as motion within them: coarse levels average cubes, not voxels."""

from __future__ import annotations

import numpy as np
import torch
from JointRegSegLib import fields
from JointRegSegLib.affine import shrink_as, shrink_within
from JointRegSegLib.geometry import Grid
from JointRegSegLib.refine import Level, Objective, from_nothing
from scipy import ndimage

SHAPE, SPACING = (12, 48, 48), (4.0, 1.0, 1.0)
LEVELS = (Level(4, 30, 0.3), Level(2, 30, 0.3))


def _missed(spacing: tuple[float, float, float]) -> float:
    """Mean distance in slices from a known motion through the slices, which fades toward the border."""
    random = np.random.default_rng(0)
    fixed = torch.from_numpy(ndimage.gaussian_filter(random.standard_normal((48, 48, 48)), 2)[::4]).float()[None, None]
    fixed = fixed / fixed.std()
    ramps = [torch.sin(torch.pi * torch.linspace(0, 1, n)) for n in SHAPE]
    known = torch.zeros(1, 3, *SHAPE)
    known[:, 0] = 0.9 * ramps[0][:, None, None] * ramps[1][None, :, None] * ramps[2]
    moving = fields.warp(fixed, fields.invert(known))
    found, _ = from_nothing(moving, fixed, Objective(), LEVELS, spacing=spacing)
    return float((found - known)[:, 0, 2:-2, 8:-8, 8:-8].abs().mean() / known[:, 0, 2:-2, 8:-8, 8:-8].mean())


def test_slices_are_not_averaged_with_their_pixels():
    told, untold = _missed(SPACING), _missed((1.0, 1.0, 1.0))
    assert told < 0.25
    assert told < 0.5 * untold


def test_the_unit_of_the_spacing_does_not_count():
    image = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    spacing = tuple(0.001 * length for length in SPACING)
    found, _ = from_nothing(image, image.roll(1, 3), Objective(), LEVELS[:1], spacing=spacing)
    assert torch.equal(found, from_nothing(image, image.roll(1, 3), Objective(), LEVELS[:1], spacing=SPACING)[0])


def test_both_images_are_equally_sharp_within_slices():
    oblique = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    image, grid = torch.rand(1, 1, 12, 60, 60), Grid.from_geometry((60, 60, 12), (1.0, 1.0, 4.0), (5, -3, 2), oblique)
    _, lattice = shrink_within(image, grid, 30)
    assert lattice.size == (30, 30, 12)
    _, other = shrink_as(image, grid, lattice)
    assert np.allclose(other.spacing, lattice.spacing)


def test_the_lattice_is_as_fine_as_so_many_voxels_allow():
    """Thick slices are few, so that within them nothing has to be averaged."""
    grid = Grid.from_geometry((60, 50, 12), (1.0, 1.0, 4.0), (5, -3, 2), np.eye(3))
    image = torch.rand(1, 1, 12, 50, 60)
    for side, size in (
        (34, (60, 50, 12)),
        (33, (30, 25, 12)),
        (21, (30, 25, 12)),
        (20, (20, 17, 12)),
        (14, (15, 13, 12)),
        (1, (1, 1, 1)),
    ):
        small, lattice = shrink_within(image, grid, side)
        assert lattice.size == size and small.shape[2:] == size[::-1]
        np.testing.assert_allclose(lattice.extent[2], grid.extent[2])
    cube = Grid.from_geometry((20, 18, 12), (2.0, 2.1, 3.0), (0, 0, 0), np.eye(3))
    assert shrink_within(torch.rand(1, 1, 12, 18, 20), cube, 16)[1].size == cube.size  # no coarser than by its side
