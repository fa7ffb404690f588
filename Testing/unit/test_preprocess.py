"""Where a model's lattice lies, on oblique and anisotropic grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib.geometry import Grid
from JointRegSegLib.preprocess import INTENSITIES, Preprocessing
from JointRegSegLib.similarity import unit_range
from scipy.spatial.transform import Rotation

OBLIQUE = Rotation.from_rotvec([0.2, -0.1, 0.15]).as_matrix()


def grid(size=(40, 30, 12), spacing=(1.0, 1.5, 6.0), direction=OBLIQUE) -> Grid:
    return Grid.centered(np.array([10.0, -20.0, 30.0]), size, spacing, direction)


def test_a_lattice_that_counts_voxels():
    preprocessing = Preprocessing((16, 16, 16), (2, 3, 1), orientation="LPS", unit="voxels")
    own = grid()
    lattice = preprocessing.lattice(own)
    np.testing.assert_allclose(lattice.spacing, own.spacing * [2, 3, 1])
    np.testing.assert_allclose(lattice.direction, own.direction, atol=1e-12)
    # An axis that the lattice holds whole is taken as it is: the voxels were thinned before.
    small = grid(size=(16, 30, 12))
    np.testing.assert_allclose(preprocessing.lattice(small).spacing, small.spacing * [1, 3, 1])


def test_counted_voxels_follow_the_axes():
    """Of an image stored along other axes the same voxels are counted."""
    preprocessing = Preprocessing((8, 8, 8), (2, 3, 1), orientation="LPS", unit="voxels")
    own = grid()
    turned = own.oriented("SRA")
    assert turned.size != own.size
    np.testing.assert_allclose(preprocessing.lattice(turned).spacing, preprocessing.lattice(own).spacing)


def test_a_wrong_unit_is_named():
    with pytest.raises(ValueError, match="unit is one of mm, voxels, not 'inch'"):
        Preprocessing((8, 8, 8), (1, 1, 1), unit="inch")


@pytest.mark.parametrize("offset", [0.0, -50.0])
def test_the_center_of_mass(offset):
    own = grid()
    values = torch.full((1, 1, *own.shape), offset)
    values[0, 0, 3, 20, 8] = offset + 2
    values[0, 0, 5, 26, 10] = offset + 6
    expected = own.to_world(np.array([[9.5, 24.5, 4.5]]))[0]  # i, j, k
    mass = Preprocessing((8, 8, 8), (1, 1, 1), alignment="mass")
    np.testing.assert_allclose(mass.middle(values, own), expected, atol=1e-6)
    np.testing.assert_allclose(Preprocessing((8, 8, 8), (1, 1, 1)).middle(values, own), own.center)
    lattice = mass.lattice(own, center=mass.middle(values, own))
    # Snapped to the voxels of the image: within half a voxel.
    assert np.all(np.abs(np.linalg.solve(own.array_affine[:3, :3], lattice.center - expected)) <= 0.5 + 1e-6)


def test_the_center_of_mass_of_nothing_is_somewhere():
    own = grid()
    place = Preprocessing((8, 8, 8), (1, 1, 1), alignment="mass").middle(torch.zeros(1, 1, *own.shape), own)
    assert np.isfinite(place).all()


@pytest.mark.parametrize("unit", [1e-15, 1e-9, 1.0, 1e15, 1e33])
def test_the_unit_of_intensities_does_not_matter(unit):
    own = grid()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, *own.shape, generator=generator) - 0.3
    zscore = INTENSITIES["zscore"]
    values = image[image > image.min()].double()
    expected = (image.double() - values.mean()) / values.std()
    torch.testing.assert_close(zscore(image * unit, image * unit).double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(unit_range(image * unit), unit_range(image), atol=1e-5, rtol=0)
    mass = Preprocessing((8, 8, 8), (1, 1, 1), alignment="mass")
    np.testing.assert_allclose(mass.middle(image * unit, own), mass.middle(image, own), atol=1e-4)
