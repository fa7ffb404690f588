"""Lungs of a CT phantom, registered by `lung-breathing` with refinement: outlined by density, moved as they did."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import register
from JointRegSegLib.files import grid_of
from JointRegSegLib.lung import threshold
from JointRegSegLib.phantom import breathing_thorax


def test_lungs_are_outlined_by_density_and_followed():
    """The two lattices share neither axes nor spacing."""
    pair = breathing_thorax(size=(56, 46, 40), spacing=(5.4, 5.4, 7))
    stages: dict[str, list[float]] = {}
    result = register(
        *(pair.fixed, pair.moving, "lung-breathing"),
        refine=8,
        working_size=48,
        progress=lambda stage, fraction: stages.setdefault(stage, []).append(fraction),
    )
    for image, found in ((pair.fixed, result.fixed_segmentation), (pair.moving, result.moving_segmentation)):
        expected = threshold.lungs(sitk.GetArrayFromImage(image), grid_of(image))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)
        assert grid_of(found).matches(grid_of(image))
    assert result.label_names == threshold.NAMES
    lungs = sitk.GetArrayFromImage(result.fixed_segmentation) > 0
    points = grid_of(pair.fixed).to_world(np.argwhere(lungs)[:, ::-1])
    truth = pair.motion(points)
    before, after = (np.linalg.norm(x - truth, axis=1).mean() for x in (points, result.deformation.to_moving(points)))
    assert after < 0.3 * before
    # The rest has the map of the whole image: it ends where the image does, not around the lungs.
    assert result.deformation.grid.matches(grid_of(pair.fixed))
    assert float(result.deformation.jacobian().min()) > 0
    assert np.median(np.linalg.norm(result.deformation.to_fixed(truth) - points, axis=1)) < 0.5 * before
    assert "the lungs were found by density, and slide along the wall" in result.report["notes"]
    assert all(a <= b for a, b in zip(stages["refining"], stages["refining"][1:], strict=False))
    assert 0.9 < stages["refining"][-1] <= 1
