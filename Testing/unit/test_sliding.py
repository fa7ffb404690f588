"""An organ that slides along its surroundings is found with its own motion, and they with theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import fields, losses, refine, register
from JointRegSegLib.errors import InputError
from JointRegSegLib.estimate import Settings, Volume, by_optimization
from JointRegSegLib.geometry import Grid
from JointRegSegLib.sliding import by_organs
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (40, 44, 48)
#: Way of the organ along D, H, W in voxels of 1.5 x 1.2 x 2 mm; its surroundings stay.
WAY = (4, 0, 0)


@pytest.fixture(scope="module")
def slid() -> tuple[Volume, Volume, list[torch.Tensor]]:
    """Fixed and moving image, and the organ in each."""
    random = np.random.default_rng(0)
    # Texture of all sizes, as in a body: the fine one alone would repeat too soon for what moves this far.
    tissue, organ = (
        sum(width**1.5 * ndimage.gaussian_filter(random.standard_normal(SHAPE), width) for width in (1.2, 2.5, 5))
        for _ in range(2)
    )
    axes = np.diag([2.0, 1.2, 1.5, 1.0])
    axes[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix() @ axes[:3, :3]
    grid = Grid(SHAPE[::-1], axes)
    inside = np.zeros(SHAPE, bool)
    inside[:, 12:32, 14:34] = True  # from end to end, so that nothing is covered or laid bare
    images = (np.where(inside, 3 + x, tissue) for x in (organ, np.roll(organ, WAY, (0, 1, 2))))
    volumes = [Volume(torch.from_numpy(x)[None, None].float(), grid) for x in images]
    return *volumes, [torch.from_numpy(inside)[None, None].float()] * 2


def _errors(found: object, organs: list[torch.Tensor], grid: Grid) -> tuple[float, float]:
    """Mean error in voxels in the organ, and next to it."""
    displacement = found.deformation.on(grid).vectors()[0].numpy()[:, 6:-6]
    inside = organs[0][0, 0, 6:-6].numpy() > 0
    near = ndimage.binary_dilation(inside, iterations=4) & ~inside
    truth = grid.array_affine[:3, :3] @ np.array(WAY, float)
    own = np.linalg.norm(displacement[:, inside] - truth[:, None], axis=0).mean()
    return own / grid.spacing[2], np.linalg.norm(displacement[:, near], axis=0).mean() / grid.spacing[2]


def test_both_motions_are_found(slid):
    fixed, moving, organs = slid
    found = by_organs(fixed, moving, organs, Settings(side=64))
    own, around = _errors(found, organs, fixed.grid)
    assert own < 0.5 and around < 0.5
    np.testing.assert_array_equal(found.deformation.affine[:3, :3], np.eye(3))
    assert float(found.deformation.jacobian().min()) > 0
    assert float(found.deformation.round_trip().nanmean()) < 0.2  # it cannot be everywhere: the map jumps
    smooth = by_optimization(fixed, moving, Settings(side=64))
    assert max(_errors(smooth, organs, fixed.grid)) > 5 * max(own, around)  # which is what it is for


def test_an_organ_that_is_not_there(slid):
    fixed, moving, organs = slid
    with pytest.raises(InputError, match="moving image's organs is empty"):
        by_organs(fixed, moving, [organs[0], 0 * organs[1]], Settings(side=64))


BOTH = {"fixed_organs": "f.nii.gz", "moving_organs": "m.nii.gz"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fixed_organs": "f.nii.gz"}, "in both images"),
        (BOTH | {"align": "center"}, "leave the alignment out"),
        (BOTH | {"model": "symmetric-hippocampus"}, "'generic' only"),
    ],
)
def test_what_does_not_go_with_organs(options, said):
    with pytest.raises(InputError, match=said):
        register("a.nii.gz", "b.nii.gz", **options)


def test_density_tells_how_an_even_lung_expands():
    k = torch.arange(40.0)
    inside = torch.zeros(1, 1, *SHAPE)
    inside[..., 8:32, 12:32, 14:34] = 1
    known = 1 + 0.4 * torch.cos((k - 7.5) * 2 * torch.pi / 24).view(-1, 1, 1)  # its ends stay where they are
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    grid = Grid(SHAPE[::-1], np.diag([2.0, 1.2, 1.5, 1.0]))
    # Of twice the volume in the moving image tissue is half as dense there: fixed mass = moving mass times ratio.
    volumes = [
        Volume(torch.where(inside > 0, 1000 * (0.25 * ratio - 1), 40) + 10 * part, grid)
        for ratio, part in zip((known, torch.ones_like(known)), noise, strict=True)
    ]
    found = by_organs(*volumes, [inside, inside], Settings(side=64)).deformation.on(grid)
    core = (slice(10, 30), slice(14, 30), slice(16, 32))
    ratio = found.jacobian()[0, 0][core].numpy()
    truth = np.broadcast_to(known.numpy(), SHAPE)[core]
    assert np.corrcoef(ratio.ravel(), truth.ravel())[0, 1] > 0.9
    assert np.ptp(ratio.mean((1, 2))) > 0.4


def test_surfaces_are_held_in_their_place():
    """Put together, a map that takes the organ deep within itself and leaves the rest looks perfect."""
    inside = torch.zeros(1, 1, 24, 24, 24)
    inside[..., 6:18, 6:18, 6:18] = 1
    place = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))[None]
    still, deep = torch.zeros(1, 3, 24, 24, 24), -0.25 * (place - 11.5)
    classes = [inside, inside]
    for own, perfect in ((still, True), (deep, False)):
        parts = torch.cat([still, own, still, own])  # of the rest and of the organ, forth and back
        together = fields.warp(torch.cat(classes), refine.joined(parts, classes))
        assert float(losses.dice(together, torch.cat(classes))) < 1e-3
        evidence = refine.Evidence([inside, inside], classes)
        objective = refine.Objective(image=0, smoothness=0, folding=0, overlap=1.0)
        found = refine.joint_objective(refine.joined(parts, classes), evidence, objective, parts, parts)
        assert (float(found) < 1e-3) == perfect and (perfect or float(found) > 0.1)
