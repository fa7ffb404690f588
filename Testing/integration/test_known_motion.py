"""`generic` finds a shift, a rotation and a scaling that are known, between oblique, anisotropic and flipped grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import register
from JointRegSegLib.carry import resampled
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from samples import array, body, fixed_grid, label_map, motion, moving_grid, place, thing, through, volume


def errors(result, known: np.ndarray) -> np.ndarray:
    """Distance from the truth at every voxel of the scene's body, in voxels of the fixed grid."""
    points = body(result.fixed, thing())
    miss = np.linalg.norm(through(result.transform, points) - place(points, known), axis=1)
    return miss / grid_of(result.fixed).spacing.mean()


@pytest.mark.parametrize(
    "known",
    [motion(shift=(5, -4, 3)), motion(rotation=(6, -5, 8)), motion(scales=(1.12, 0.9, 1.06))],
    ids=["shift", "rotation", "scaling"],
)
def test_recovered_within_half_a_voxel(known):
    result = register(volume(thing(), fixed_grid()), volume(thing(), moving_grid(), known))
    found = errors(result, known)
    assert found.mean() <= 0.5
    assert np.percentile(found, 90) <= 0.5
    assert result.verdict == "green"
    assert result.report["quality"]["regularity"]["folded_share"] == 0


@pytest.mark.parametrize("similarity", ["mse", "mi"])
def test_other_similarities(similarity):
    known = motion((4, 0, -5), shift=(3, -3, 4))
    moving = volume(thing(), moving_grid(), known)
    if similarity == "mi":  # another modality: dark is bright
        moving = sitk.Cast(300 - sitk.Sqrt(sitk.Abs(moving)) * 10, sitk.sitkFloat32)
    result = register(volume(thing(), fixed_grid()), moving, similarity=similarity)
    assert errors(result, known).mean() <= 1
    assert result.report["settings"]["similarity"] == similarity
    named = {"mse": "correlation", "mi": "mutual information"}[similarity]
    assert any(named in reason for reason in result.report["verdict"]["checks_passed"])


def test_where_the_moving_image_ends_the_map_goes_on():
    known, grid = motion(rotation=(6, -5, 8), shift=(4, -3, 2)), moving_grid()
    part = grid.cropped((0, 0, 0), (grid.size[0], grid.size[1] * 2 // 3, grid.size[2]))  # within the body
    result = register(volume(thing(), fixed_grid()), volume(thing(), part, known))
    beyond = place(body(result.fixed, thing()), known)
    gone = part.to_index(beyond)[:, 1] > part.size[1]
    found = errors(result, known)
    assert 0.2 < gone.mean() < 0.5
    assert found[~gone].mean() <= 0.2 and found[gone].mean() <= 0.5
    assert result.report["quality"]["regularity"]["jacobian"]["max"] < 1.5


def test_images_far_apart():
    known = motion(rotation=(3, 0, -4), shift=(400, -250, 130))
    grid = moving_grid()
    away = Grid.centered(place(grid.center, known), grid.size, grid.spacing, grid.direction)
    result = register(volume(thing(), fixed_grid()), volume(thing(), away, known), align="center")
    assert errors(result, known).mean() <= 0.5
    assert result.report["quality"]["similarity"]["local_correlation"]["before"] is None
    assert result.report["settings"]["align"] == "center"


def test_labels_are_carried_exactly_by_whole_voxels():
    grid = fixed_grid()
    labels = label_map(thing(), grid)
    shift = np.eye(4)
    shift[:3, 3] = grid.affine[:3, :3] @ [3, -2, 1]
    transform = Deformation.identity(grid, shift).to_itk()
    carried = array(resampled(labels, labels, transform, True, 0.0))
    before = array(labels)
    assert np.array_equal(carried[:-1, 2:, :-3], before[1:, :-2, 3:])
    assert not carried[-1:].any() and not carried[:, :2].any()  # beyond the image lies background


def test_thin_volumes():
    known = motion(shift=(3, -2, 0))
    direction = fixed_grid().direction
    fixed, moving = (Grid.centered(fixed_grid().center, (28, 26, n), (2, 2.2, 4), direction) for n in (4, 5))
    result = register(volume(thing(), fixed), volume(thing(), moving, known))
    assert np.median(errors(result, known)) <= 1


def test_padding_changes_little():
    """Rims of background are cut away; what lies in them moves on as at the image's border."""
    known = motion(shift=(5, -4, 3))
    fixed, moving = volume(thing(), fixed_grid()), volume(thing(), moving_grid(), known)
    wide = [sitk.ConstantPad(x, [9, 11, 7], [12, 5, 8], float(array(x).min()) - 1) for x in (fixed, moving)]
    result = register(*wide)
    assert result.warped.GetSize() == wide[0].GetSize()
    assert errors(result, known).mean() <= 0.5
    assert result.report["quality"]["regularity"]["folded_share"] == 0


@pytest.mark.parametrize("side", [3, 5])
def test_very_small_volumes(side):
    values = np.random.default_rng(0).normal(size=(2, side, side, side)).astype(np.float32)
    result = register(*(sitk.GetImageFromArray(v) for v in values))
    assert np.isfinite(array(result.warped)).all() and result.report["quality"]["regularity"]["folded_share"] < 1


def test_an_image_on_itself_stays_where_it_is_and_is_told_of():
    image = volume(thing(), fixed_grid())
    result = register(image, image)
    assert errors(result, np.eye(4)).mean() <= 0.2
    assert result.verdict == "amber"
    assert any("one scan given twice" in text for text in result.report["warnings"])
