"""Where two maps of one pair become one: near the lungs the one that slides, elsewhere the smooth one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from JointRegSegLib import models
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.estimate import Estimate, Settings, Volume
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung import refined as module
from JointRegSegLib.lung import threshold
from JointRegSegLib.lung.refined import FADE, beside, refined
from scipy.spatial.transform import Rotation

#: First voxel of the part along i, j, k, and its size; along i it ends with the whole.
FIRST, SIZE = (14, 8, 6), (34, 36, 32)


@pytest.fixture(scope="module")
def whole() -> Deformation:
    """Oblique, of another spacing along each axis; a turn, and a wave that is undone."""
    axes = np.eye(4)
    axes[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix() @ np.diag([2.4, 3.0, 4.0])
    axes[:3, 3] = 30, -20, 10
    grid = Grid((48, 52, 44), axes)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [4, 3, -5], degrees=True).as_matrix()
    turn[:3, 3] = 6, -9, 12
    places = torch.meshgrid(*(torch.arange(n).float() for n in grid.shape), indexing="ij")
    wave = 0.8 * torch.stack([torch.sin(x / 7) for x in (places[1], places[2], places[0])])[None]
    return Deformation(grid, wave, -wave, turn).inverted()


@pytest.fixture(scope="module")
def part(whole) -> Deformation:
    """Another turn, on the lattice of a part."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [3, 3, -4], degrees=True).as_matrix() @ np.diag([1.04, 1, 0.97])
    center = whole.grid.center
    matrix[:3, 3] = whole.to_moving(center[None])[0] + (3, 2, -4) - matrix[:3, :3] @ center
    return Deformation.identity(whole.grid.cropped(FIRST, SIZE), matrix)


@pytest.fixture(scope="module")
def both(part, whole) -> Deformation:
    return beside(part, whole)


def _depth(grid: Grid) -> np.ndarray:
    """(n,) of each voxel of the whole: mm to the nearest end of the part at which the whole goes on."""
    index = np.indices(grid.shape)[::-1].reshape(3, -1).T
    last = np.array(FIRST) + SIZE - 1
    to_first, to_last = (index - FIRST) * grid.spacing, (last - index) * grid.spacing
    to_last[:, 0] = np.inf
    return np.minimum(to_first, to_last).min(1)


def test_each_map_counts_where_it_should(both, part, whole):
    grid = whole.grid
    points = grid.to_world(np.indices(grid.shape)[::-1].reshape(3, -1).T)
    depth, there = _depth(grid), both.to_moving(points)
    inside, outside = depth > FADE + 2 * max(grid.spacing), depth < 0
    assert inside.sum() > 1000 and outside.sum() > 1000
    np.testing.assert_allclose(there[inside], part.to_moving(points[inside]), atol=1e-3)
    np.testing.assert_allclose(there[outside], whole.to_moving(points[outside]), atol=1e-3)
    apart = np.linalg.norm(part.to_moving(points) - whole.to_moving(points), axis=1)
    assert apart[inside].mean() > 4  # mm, or there would be nothing to tell
    assert both.grid.matches(grid) and np.array_equal(both.affine, whole.affine)


def test_one_becomes_the_other_little_by_little(both, part, whole):
    """No step is larger than the distance of the two maps allows, and nothing folds."""
    smooth = max(float(_steepest(x)) for x in (whole, part.on(whole.grid)))
    apart = float((part.on(whole.grid).vectors() - whole.vectors()).square().sum(1).sqrt().max())
    assert _steepest(both) < smooth + 1.5 * apart / FADE
    assert float(both.jacobian().min()) > 0.3


def _steepest(found: Deformation) -> float:
    """Largest change of the way of a voxel and of its neighbor, a mm of their distance."""
    vectors, spacing = found.vectors(), found.grid.spacing[::-1]
    return max(float(vectors.diff(dim=2 + n).abs().max()) / step for n, step in enumerate(spacing))


def test_there_and_back(both, whole):
    grid = whole.grid
    inner = np.indices([n - 12 for n in grid.shape])[::-1].reshape(3, -1).T + 6
    points = grid.to_world(inner)
    off = np.linalg.norm(both.to_fixed(both.to_moving(points)) - points, axis=1)
    assert off.mean() < 0.1 and off.max() < 1.5  # mm; both ways fade by themselves


def test_what_is_no_ct_is_left_to_the_model(whole):
    image = Volume(torch.rand(1, 1, *whole.grid.shape), whole.grid)
    bundle = models.find("lung-breathing")
    assert refined(bundle, image, image, Settings(10, side=48)) is None
    empty = Volume(torch.full((1, 1, *whole.grid.shape), -1000.0), whole.grid)
    empty.values[..., 10:30, 10:30, 10:30] = 40.0  # a body without lungs
    assert refined(bundle, empty, empty, Settings(10, side=48)) is None


@pytest.mark.parametrize(
    ("names", "outlined"), [({"right lung": 300, "left lung": 2}, True), ({"right upper lobe": 1}, False), ({}, False)]
)
def test_a_lung_without_partner_and_other_labels(whole, monkeypatch, names, outlined):
    """What is in one of them only does not slide; only a model of both lungs has its labels told by density."""
    lungs = np.zeros((2, *whole.grid.shape), np.uint8)
    lungs[:, 10:30, 10:30, 5:20] = threshold.RIGHT
    lungs[0, 10:30, 10:30, 28:40] = threshold.LEFT
    images = [Volume(torch.full((1, 1, *whole.grid.shape), float(n)), whole.grid) for n in range(2)]
    seen = []

    def organs_of(fixed: Volume, moving: Volume, organs: list, *rest: object) -> Estimate:
        seen.extend(organ[0, 0].numpy() for organ in organs)
        return Estimate(whole, "organs", sliding=True)

    monkeypatch.setattr(module, "_lungs", lambda volume: lungs[int(volume.values.max())])
    monkeypatch.setattr(module, "by_model", lambda *rest, closer: Estimate(whole, "world"))
    monkeypatch.setattr(module, "by_organs", organs_of)
    bundle = SimpleNamespace(manifest={"labels": [{"name": name, "value": value} for name, value in names.items()]})
    found = refined(bundle, *images, Settings(10, side=48))
    assert found.agreement_sought == outlined  # the network's own segmentation is nothing that slides
    np.testing.assert_array_equal(seen, lungs == threshold.RIGHT)
    assert (found.outlines is not None) == outlined
    if outlined:
        expected = np.select([lungs == threshold.RIGHT, lungs == threshold.LEFT], [300, 2])
        np.testing.assert_array_equal([labels[0, 0].numpy() for labels in found.outlines], expected)
    lungs[1] = np.where(lungs[1] == threshold.RIGHT, threshold.LEFT, 0)
    lungs[0][lungs[0] == threshold.LEFT] = 0
    assert refined(bundle, *images, Settings(10, side=48)) is None
