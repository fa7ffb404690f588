"""What a network takes for lung, though a CT volume is too dense there for lung."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.estimate import Estimate, Volume
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung.dense import without_dense
from scipy.spatial.transform import Rotation

AIR, LUNG, FAT, MUSCLE = -1000.0, -800.0, -100.0, 50.0
NAMES = ("right lung", "heart", "left lung")


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Oblique; along the world's x air, lung from 0 on, fat from 20 on and muscle from 45 on."""
    axes = np.eye(4)
    axes[:3, :3] = Rotation.from_euler("xyz", [15, -20, 25], degrees=True).as_matrix() @ np.diag([1.5, 2.0, 2.5])
    axes[:3, 3] = 10, 30, -20
    grid = Grid((60, 50, 40), axes)
    x = _x(grid)
    values = np.select([x < 0, x < 20, x < 45], [AIR, LUNG, FAT], MUSCLE)
    return Volume(torch.from_numpy(values).float()[None, None], grid)


@pytest.fixture(scope="module")
def lattice(scan) -> Grid:
    """Along other axes than the scan's, and coarser."""
    return Grid.centered(scan.grid.center, (20, 18, 16), (4.0, 4.0, 5.0), np.eye(3))


def _x(grid: Grid) -> np.ndarray:
    return grid.to_world(np.indices(grid.shape)[::-1].reshape(3, -1).T)[:, 0].reshape(grid.shape)


def _found(lattice: Grid) -> Estimate:
    memberships = torch.tensor([0.1, 0.4, 0.2, 0.3]).view(1, 4, 1, 1, 1).expand(1, 4, *lattice.shape)
    identity = Deformation.identity(lattice)
    return Estimate(identity, "world", lattice, lattice, memberships.clone(), memberships.clone())


def _bundle() -> SimpleNamespace:
    return SimpleNamespace(manifest={"labels": [{"name": name} for name in NAMES]})


def test_lungs_end_where_fat_begins_in_the_world(scan, lattice):
    found = _found(lattice)
    changed = without_dense(_bundle(), found, scan, scan)
    x, known = _x(lattice), _inside(lattice, scan.grid)
    for name in ("fixed", "moving"):
        now, before = (getattr(e, f"{name}_probabilities") for e in (changed, found))
        torch.testing.assert_close(now.sum(1), before.sum(1))
        assert torch.equal(now[:, 2], before[:, 2])  # the heart is no lung
        fat, light = torch.from_numpy((x > 28) & known), torch.from_numpy((x < 12) & known)
        assert fat.sum() > 50 and light.sum() > 500
        assert torch.equal(now[:, :, light], before[:, :, light])
        assert not now[:, 1][:, fat].any() and not now[:, 3][:, fat].any()
        torch.testing.assert_close(now[:, 0][:, fat], torch.full((1, int(fat.sum())), 0.8))


def test_what_is_no_ct_stays(scan, lattice):
    found = _found(lattice)
    resonance = replace(scan, values=scan.values + 1000)
    changed = without_dense(_bundle(), found, resonance, scan)
    assert torch.equal(changed.fixed_probabilities, found.fixed_probabilities)
    assert not torch.equal(changed.moving_probabilities, found.moving_probabilities)


def _inside(lattice: Grid, scan: Grid) -> np.ndarray:
    """Voxels a few mm within the scan, at whose ends the network sees air."""
    index = scan.to_index(lattice.to_world(np.indices(lattice.shape)[::-1].reshape(3, -1).T))
    return ((index >= 3) & (index <= np.array(scan.size) - 4)).all(1).reshape(lattice.shape)
