"""Labels of memberships on another grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from JointRegSegLib import segmentation
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid, resample
from scipy.spatial.transform import Rotation

LATTICES = {
    "tilted": Grid.centered((5, -8, 20), (14, 18, 12), (3, 2.5, 4), Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()),
    "straight": Grid.centered((5, -8, 20), (20, 20, 20), (2, 2, 2), np.eye(3)),
    "one slice": Grid.centered((5, -8, 20), (20, 18, 1), (2, 2, 30), np.eye(3)),
}
#: It reaches beyond the lattices, and some of its voxels lie on those of the straight one.
GRID = Grid.centered((5, -8, 20), (41, 39, 37), (1, 1, 1.5), np.eye(3))


@pytest.mark.parametrize("name", LATTICES)
def test_labels_are_those_of_all_memberships_interpolated(name, generator, monkeypatch):
    lattice = LATTICES[name]
    monkeypatch.setattr(segmentation, "SLAB", 3 * GRID.shape[1] * GRID.shape[2])
    coarse = torch.randn(1, 4, 4, 4, 4, generator=generator)
    scores = 4 * F.interpolate(coarse, size=lattice.shape, mode="trilinear", align_corners=True)
    memberships = scores.softmax(1)
    image = scalar_image(np.zeros(GRID.shape, np.float32), GRID)
    found = sitk.GetArrayFromImage(segmentation.segmentation_on(memberships, lattice, image, [5, 300, 7]))
    whole = resample(memberships, lattice, GRID, fill=0.0)[0]
    expected = np.array([0, 5, 300, 7])[whole.argmax(0).numpy()]
    largest = whole.topk(2, 0).values
    clear = ((largest[0] - largest[1] > 1e-5) | (largest[0] == 0)).numpy()
    assert clear.mean() > 0.99 and (expected == 0).mean() > 0.05 and len(np.unique(expected)) == 4
    np.testing.assert_array_equal(found[clear], expected[clear])
