"""Simulated breathing of the phantom, on its oblique lattice: known signs, kept mass, sliding, stiffness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import fields, files
from JointRegSegLib.errors import InputError
from JointRegSegLib.lung.breathing import Breath, breathe, truth
from JointRegSegLib.lung.expansion import derivative
from JointRegSegLib.lung.simulation import diseased
from JointRegSegLib.phantom import breathing_thorax
from scipy import ndimage

DEEP = Breath(depth=18, ribs=4, sliding=0.7, stiffening=0.0)


@pytest.fixture(scope="module")
def thorax():
    """CT numbers at exhale, their lattice and the lungs."""
    pair = breathing_thorax(size=(56, 46, 40), spacing=(5.4, 5.4, 7), noise_hu=0)
    labels = sitk.GetArrayFromImage(pair.moving_labels)
    return sitk.GetArrayFromImage(pair.moving), files.grid_of(pair.moving), np.where(labels <= 2, labels, 0)


@pytest.fixture(scope="module")
def inhaled(thorax):
    return breathe(*thorax, DEEP)


def world(grid) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    return grid.to_world(np.stack([i, j, k], -1))


def test_no_breath_changes_nothing(thorax):
    values, _, lungs = thorax
    still = breathe(*thorax, Breath(0, 0, 0, 0))
    np.testing.assert_allclose(still.values, values, atol=0.1)
    np.testing.assert_array_equal(still.lungs, lungs)
    np.testing.assert_allclose(still.displacement, 0, atol=1e-3)
    np.testing.assert_allclose(still.volume_ratio, 1, atol=1e-5)


def test_lungs_fill_and_keep_their_mass(thorax, inhaled):
    _, grid, lungs = thorax
    even = np.where(lungs > 0, -800, 0)  # as much tissue everywhere, or borders would weigh more than lungs
    for breath, low, high in ((DEEP, 1.08, 1.2), (replace(DEEP, depth=-18, ribs=-4), 0.8, 0.92)):
        breathed = breathe(even, grid, lungs, breath)
        inside = breathed.lungs > 0
        assert low < inside.sum() / (lungs > 0).sum() < high
        # The integral of the determinant is the volume that the lungs come from, and density goes with it.
        assert breathed.volume_ratio[inside].sum() == pytest.approx((lungs > 0).sum(), rel=0.03)
        deep = ndimage.binary_erosion(inside, iterations=2)
        told = (breathed.values[deep] + 1000) / (200 * breathed.volume_ratio[deep])
        assert np.quantile(np.abs(told - 1), 0.98) < 1e-3


def test_inhaling_moves_the_diaphragm_down(thorax, inhaled):
    _, grid, _ = thorax
    points = world(grid)
    # Each voxel of the inhaled volume comes from above: the original, at exhale, has its diaphragm higher up.
    below = (np.abs(points[..., 0] + 55) < 20) & (np.abs(points[..., 1]) < 25) & (np.abs(points[..., 2] + 15) < 12)
    assert inhaled.displacement[2][below].mean() > 8
    apex = (inhaled.lungs > 0) & (points[..., 2] > 110)
    assert np.abs(inhaled.displacement[2][apex]).mean() < 5


def test_told_ratio_is_the_derivative_of_the_motion(thorax, inhaled):
    _, grid, _ = thorax
    u = fields.to_voxel(torch.from_numpy(inhaled.displacement)[None], grid)
    found = fields.jacobian_determinant(u)[0, 0].numpy()
    assert found[inhaled.lungs > 0].min() > 0
    inner = ndimage.binary_erosion(inhaled.lungs > 0, iterations=2)
    missed = np.abs(found - inhaled.volume_ratio)[inner]
    assert np.median(missed) < 0.005 and np.quantile(missed, 0.95) < 0.03
    assert inhaled.volume_ratio[inner].mean() < 0.93


def test_stiff_lungs_do_not_tear_at_the_pleura(thorax):
    """Where lungs slide and tissue beside the pleura is stiff the motion's derivative is the told ratio, too."""
    _, grid, lungs = thorax
    breathed = breathe(*thorax, replace(DEEP, sliding=0.3, stiffening=1.0), stiffness=diseased(lungs, grid))
    inside = torch.from_numpy(breathed.lungs > 0)
    found = np.linalg.det(derivative(truth(breathed, grid), inside))
    told = breathed.volume_ratio[inside.numpy()]
    assert found.min() > 0.5 * told.min() and found.max() < 1.5 * told.max()
    assert np.corrcoef(found, told)[0, 1] > 0.9


def test_truth_carries_the_original_over(thorax, inhaled):
    values, grid, _ = thorax
    deformation = truth(inhaled, grid)
    warped = fields.warp(torch.from_numpy(values).float()[None, None], deformation.displacement)[0, 0].numpy()
    outside = ~ndimage.binary_dilation(inhaled.lungs > 0)
    inside = np.zeros(grid.shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    np.testing.assert_allclose(warped[outside & inside], inhaled.values[outside & inside], atol=1)


def test_lungs_slide_along_the_wall(thorax):
    _, grid, _ = thorax

    def jump(sliding: float) -> float:
        """Mean difference of the vertical motion between the outer side of the right lung and the wall beside it."""
        breathed = breathe(*thorax, replace(DEEP, sliding=sliding))
        points = world(grid)
        level = (points[..., 2] > 10) & (points[..., 2] < 50) & (points[..., 0] < -60) & (np.abs(points[..., 1]) < 40)
        lung = breathed.lungs > 0
        peel = lung & ~ndimage.binary_erosion(lung) & level
        wall = ndimage.binary_dilation(lung) & ~lung & level
        return float(breathed.displacement[2][peel].mean() - breathed.displacement[2][wall].mean())

    assert jump(0.0) < 4
    assert jump(0.8) > jump(0.0) + 3


def test_stiff_tissue_expands_less(thorax, inhaled):
    _, grid, lungs = thorax
    low = world(grid)[..., 2] < np.median(world(grid)[..., 2][lungs > 0])
    stiff = breathe(*thorax, replace(DEEP, stiffening=0.8), stiffness=(low & (lungs > 0)).astype(float))
    there = ndimage.binary_erosion(stiff.lungs > 0, iterations=2)
    base = there & (world(grid)[..., 2] < np.median(world(grid)[..., 2][there]) - 25)
    top = there & (world(grid)[..., 2] > np.median(world(grid)[..., 2][there]) + 25)

    def expansion(breathed, where) -> float:
        return float(-np.log(breathed.volume_ratio[where]).mean())

    assert expansion(stiff, base) < 0.7 * expansion(inhaled, base)
    assert expansion(stiff, top) > 1.1 * expansion(inhaled, top)
    assert (stiff.lungs > 0).sum() == pytest.approx((inhaled.lungs > 0).sum(), rel=0.01)


def test_other_intensities_stay(thorax):
    values, grid, lungs = thorax
    plain = breathe(np.abs(values).astype(float), grid, lungs, DEEP, air=None)
    assert plain.values.min() >= 0 and plain.values.max() <= np.abs(values).max()


def test_what_is_left_of_a_lung_breathes_too(thorax):
    """One voxel wide, or deep."""
    values, grid, lungs = thorax
    inside = np.argwhere(lungs > 0)
    _, j, i = inside[len(inside) // 2]
    for place in ((slice(None), slice(None), slice(i, i + 1)), (slice(None), slice(j, j + 1), slice(None))):
        narrow = np.zeros_like(lungs)
        narrow[place] = lungs[place]
        assert narrow.any()
        breathed = breathe(values, grid, narrow, DEEP, spacing=8.0)
        assert np.isfinite(breathed.displacement).all() and np.abs(breathed.displacement).max() > 1


def test_empty_lungs_are_refused(thorax):
    values, grid, lungs = thorax
    with pytest.raises(InputError, match="no lung to breathe with"):
        breathe(values, grid, 0 * lungs, DEEP)


def test_a_coarser_lattice_makes_the_same_breath(thorax, inhaled):
    """But for where lungs slide: there it is as coarse as its own voxels."""
    coarse = breathe(*thorax, DEEP, spacing=8.0)
    missed = np.linalg.norm(coarse.displacement - inhaled.displacement, axis=0)
    assert np.abs(inhaled.displacement[2]).max() > 12
    assert missed.mean() < 0.5 and np.median(missed[inhaled.lungs > 0]) < 1.5
