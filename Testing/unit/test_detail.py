"""A refinement ends with steps at a finer resolution, which find what the coarser one could not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import fields
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.detail import around, detailed, finer
from JointRegSegLib.estimate import Settings, Volume, by_optimization
from JointRegSegLib.geometry import Grid
from JointRegSegLib.refine import Objective
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (36, 44, 48)
#: Of the part that is looked at, in voxels along i, j, k.
FIRST, SIZE = (10, 8, 6), (30, 30, 26)


@pytest.fixture(scope="module")
def grid() -> Grid:
    """Oblique, and of another spacing along each axis."""
    axes = np.eye(4)
    axes[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix() @ np.diag([1.2, 1.5, 2.0])
    axes[:3, 3] = 30, -20, 10
    return Grid(SHAPE[::-1], axes)


@pytest.fixture(scope="module")
def pair(grid) -> tuple[Volume, Volume, torch.Tensor]:
    """Fixed and moving image of fine texture, and the motion between them in voxels, in the part's middle only."""
    random = np.random.default_rng(0)
    fixed = torch.from_numpy(ndimage.gaussian_filter(random.standard_normal(SHAPE), 1.2)).float()[None, None]
    middle = np.array(FIRST) + (np.array(SIZE) - 1) / 2
    places = np.indices(SHAPE)
    distance = sum(((x - m) / 6) ** 2 for x, m in zip(places, middle[::-1], strict=True))
    known = (
        torch.from_numpy(np.exp(-distance / 2)).float()[None, None]
        * torch.tensor([0.5, -0.8, 1.0])[:, None, None, None]
    )
    return Volume(fixed, grid), Volume(fields.warp(fixed, fields.invert(known)), grid), known


def _part(volume: Volume) -> tuple[torch.Tensor, Grid]:
    (i, j, k), (w, h, d) = FIRST, SIZE
    return volume.values[..., k : k + d, j : j + h, i : i + w], volume.grid.cropped(FIRST, SIZE)


def test_what_moves_in_a_part_is_found_there_and_nothing_moves_elsewhere(grid, pair):
    fixed, moving, known = pair
    closer = finer(*_part(fixed), 24, grid.strided((2, 2, 2)))
    assert closer[1].matches(grid.cropped(FIRST, SIZE))
    found = detailed(
        Deformation.identity(grid), closer, (moving.values, grid), Objective(smoothness=0.05), 80, torch.device("cpu")
    )
    off, motion = ((x**2).sum(1).sqrt()[0] for x in (found.displacement - known, known))
    moves = motion > 0.5
    assert float(off[moves].mean()) < 0.4 * float(motion[moves].mean())
    (i, j, k), (w, h, d) = FIRST, SIZE
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[k + 1 : k + d - 1, j + 1 : j + h - 1, i + 1 : i + w - 1] = False
    assert float(found.displacement[0, :, outside].abs().max()) == 0
    assert float(found.displacement[0, :, ~outside].abs().max()) > 0.5
    assert float(found.round_trip().nanmean()) < 0.01 and float(found.jacobian().min()) > 0.2


def test_motion_goes_on_to_where_the_image_ends(grid, pair):
    """Only inside it does it have to fade."""
    fixed, known = pair[0], torch.zeros(1, 3, *SHAPE)
    known[:, 0] = 0.8
    moving = Volume(fields.warp(fixed.values, -known), grid)
    closer = finer(fixed.values[..., :20], grid.cropped((0, 0, 0), (20, *SHAPE[1::-1])), 24, grid.strided((2, 2, 2)))
    begun, options = Deformation.identity(grid), (Objective(smoothness=0.05), 80, torch.device("cpu"))
    found = detailed(begun, closer, (moving.values, grid), *options).displacement[0, 0]
    assert float(found[4:-4, 4:-4, :6].mean()) == pytest.approx(0.8, abs=0.1)
    assert float(found[4:-4, 4:-4, 19:].abs().max()) == 0


def test_an_affine_map_stays_what_it_is(grid, pair):
    """What is added comes first, in fixed space; the moving image lies elsewhere and turned."""
    fixed, moving, _ = pair
    linear = Rotation.from_euler("xyz", [25, 10, -40], degrees=True).as_matrix() @ np.diag([1.1, 0.9, 1.05])
    affine = fields.affine_matrix(linear, (40.0, -12.0, 25.0), grid.center)
    placed = Grid(grid.size, affine @ grid.affine)
    closer = finer(*_part(fixed), 24, grid.strided((2, 2, 2)))
    begun = Deformation.identity(grid, affine), Deformation.identity(grid)
    turned, plain = (
        detailed(x, closer, (moving.values, where), Objective(), 40, torch.device("cpu"))
        for x, where in zip(begun, (placed, grid), strict=True)
    )
    np.testing.assert_array_equal(turned.affine, affine)
    np.testing.assert_allclose(turned.displacement, plain.displacement, atol=0.02)
    assert float(plain.displacement.abs().max()) > 0.3


def test_an_image_that_is_no_finer_is_left_alone(grid, pair):
    image, own = _part(pair[0])
    assert finer(image, own, 48, own) is None
    assert finer(image, own, 4, grid.strided((3, 3, 3))) is None  # for its lattice may not be that fine


def test_the_box_around_organs_on_another_lattice(grid):
    """All of them with a margin in mm; corners of the box are told in the image's own axes."""
    other = Grid.from_geometry((60, 60, 60), (2, 2, 2), grid.center - 59, np.eye(3))
    organs = torch.zeros(1, 1, 60, 60, 60)
    organs[..., 28:33, 27:34, 29:31] = 1
    first, size = around(organs, other, grid)
    inside = other.to_world(np.argwhere(organs[0, 0].numpy())[:, ::-1])
    index = grid.to_index(inside)
    last = np.array(first) + size - 1
    margin = np.minimum((index - first).min(0), (last - index).min(0)) * grid.spacing
    at_border = (np.array(first) == 0) | (last == np.array(grid.size) - 1)
    assert ((margin >= 20) | at_border).all() and (margin < 30).all()
    assert around(0 * organs, other, grid) is None


def test_generic_is_nearer_with_refinement_where_the_images_are_finer(grid, pair):
    """The lattice of a side of 20 has voxels of two; the finer one those of the images."""
    fixed, moving, known = pair
    plain, refined = (by_optimization(fixed, moving, Settings(n, side=20)).deformation.on(grid) for n in (0, 40))
    truth = fields.to_world(known, grid)
    off = [
        float((x.vectors() - truth)[0, :, 10:28, 12:34, 14:36].square().sum(0).sqrt().mean()) for x in (plain, refined)
    ]
    assert off[1] < 0.8 * off[0]
    assert float(refined.jacobian().min()) > 0 and float(refined.round_trip().nanmean()) < 0.01
