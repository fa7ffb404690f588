"""Simulated patients: the same person at every severity, stiff where and as much as is said."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import InputError
from JointRegSegLib.lung import simulation
from JointRegSegLib.lung.pair import breathing_pair
from scipy import ndimage

SPACING = 8.0


@pytest.fixture(scope="module")
def anatomy():
    return simulation.phantom(1)


def drawn(anatomy, severity, seed=3):
    return simulation.patient(anatomy, severity, np.random.default_rng(seed), SPACING)


@pytest.fixture(scope="module")
def healthy(anatomy):
    return drawn(anatomy, 0.0)


@pytest.fixture(scope="module")
def sick(anatomy):
    return drawn(anatomy, 1.0)


def test_severity_changes_nothing_but_the_disease(healthy, sick):
    assert healthy.grid.matches(sick.grid) and healthy.breath == sick.breath
    np.testing.assert_array_equal(healthy.exhale_lungs, sick.exhale_lungs)
    np.testing.assert_array_equal(healthy.exhale, sick.exhale)
    assert healthy.degree == 0 and 0.5 <= sick.degree <= 1
    assert np.abs(healthy.inhale - sick.inhale).max() > 50


def test_the_lattice_is_oblique_and_anisotropic_and_shows_the_lungs(healthy):
    direction = np.abs(healthy.grid.direction)
    assert np.ptp(healthy.grid.spacing) > 0.1 * SPACING
    assert ((direction > 0.01) & (direction < 0.9)).any()
    for lungs in (healthy.exhale_lungs, healthy.inhale_lungs):
        edges = [lungs.take(end, axis) for axis in range(3) for end in (0, -1)]
        assert (lungs > 0).any() and not any(edge.any() for edge in edges)


def test_the_disease_is_basal_and_peripheral(anatomy):
    lungs, grid = anatomy.lungs, anatomy.grid
    place = simulation.diseased(lungs, grid)
    height = grid.to_world(np.argwhere(lungs > 0)[:, ::-1])[:, 2]
    inside = place[lungs > 0]
    assert height[inside > 0].max() <= height.min() + 0.45 * np.ptp(height)
    outer = (lungs > 0) & ~ndimage.binary_erosion(lungs > 0)
    assert set(np.unique(place[outer])) == {0, 1}
    assert set(np.unique(inside)) == {0, simulation.CORE, 1}


def test_stiff_tissue_expands_less(healthy, sick):
    """Where the disease is, the lungs' tissue takes less than it would have in the same breath without it."""

    def expansion(patient):
        pair = breathing_pair(
            patient.motion.to_itk(), scalar_image(patient.inhale_lungs.astype(np.uint8), patient.grid)
        )
        values = pair.spread(np.log(pair.breath.expansion.volume_ratio))
        stiff = (sick.stiffness > 0.6 * sick.degree) & (patient.inhale_lungs > 0)
        return values[stiff].mean(), values[~stiff & (patient.inhale_lungs > 0)].mean()

    (soft, other), (stiff, more) = expansion(healthy), expansion(sick)
    assert stiff < soft - 0.02
    assert more > other


def test_a_volume_without_lungs_is_refused(anatomy):
    bare = simulation.Anatomy(anatomy.values, anatomy.lungs * 0, anatomy.grid)
    with pytest.raises(InputError, match="no lung"):
        drawn(bare, 0.5)
