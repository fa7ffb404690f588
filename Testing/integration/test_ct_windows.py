"""CT in three windows: what a network sees of it, and the whole way on oblique volumes, with every published system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import small_grid, small_scene, tilted
from JointRegSegLib import models, refine, register
from JointRegSegLib.errors import ModelError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.models import Bundle
from JointRegSegLib.networks import NETWORKS
from JointRegSegLib.preprocess import Preprocessing
from samples import CENTER, motion, place, through, volume, write

#: One of each kind: both ways, one way, with an affine part, with segmentations.
SYSTEMS = {
    "symmetric": {"channels": [4, 8], "counts": [1, 1], "classes": 0, "joint": False, "inputs": 3},
    "deepatlas": {
        "encoder": [4, 8],
        "decoder": [8, 8],
        "channels": [4, 8],
        "classes": 3,
        "velocity": False,
        "both": False,
        "inputs": 3,
    },
    "uresnet": {"channels": [4, 8], "classes": 0, "both": False, "inputs": 3},
    "linear_deformable": {"channels": [4, 4, 4, 4, 4], "decoder": [4], "linear": False, "both": False, "inputs": 3},
}
MOVED = motion(shift=(3, -2, 2))
#: LPS mm, in the body.
POINTS = CENTER + np.array([[0, 0, 0], [5, -4, 3], [-6, 3, -2]])


def untrained(folder: Path, name: str, intensity: str = "ct-windows", **refinement: object) -> Bundle:
    """A bundle whose network answers with the identity."""
    torch.manual_seed(0)
    arguments = SYSTEMS[name]
    labels = [{"value": k, "name": f"organ {k}", "color": "#80ae80"} for k in range(1, arguments.get("classes", 0))]
    preprocessing = {"size": [16, 16, 16], "spacing": [2, 2, 2], "orientation": "RAS"}
    manifest = {
        "name": f"ct-{name.replace('_', '-')}",
        **dict.fromkeys(("title", "description", "anatomy", "modality", "license"), "made up"),
        "network": name,
        "arguments": arguments,
        "preprocessing": {**preprocessing, "intensity": intensity, "alignment": "world"},
        "labels": labels,
        "refinement": {"overlap": 0.0, "image": 1.0} | refinement,
        "domain": {
            "spacing": [1, 3],
            "extent": [20, 60],
            "intensity": [[0, 1]] * 3,
            "volumes": [[0, 1e6]] * len(labels),
            "confidence": 0.0,
        },
        "training": {"data": "none", "license": "none", "subjects": 1},
        "validation": {"command": "none", "figures": {}},
    }
    return models.write_bundle(folder / name, manifest, NETWORKS[name](**arguments))


@pytest.fixture
def scans(tmp_path) -> dict[str, Path]:
    """One person, with air around it, organs and something as dense as bone, on oblique grids; moved by `MOVED`."""
    fixed = Grid.centered(CENTER, (20, 18, 14), (2, 2.1, 2.6), np.eye(3))
    person = small_scene()
    person = type(person)(person.centers, person.radii, np.array([1020.0, 120.0, 500.0]), person.edge, texture=100.0)
    out = {}
    for side, grid, moved in (("fixed", fixed, None), ("moving", tilted(small_grid((20, 19, 20))), MOVED)):
        out[side] = write(volume(person, grid, moved) - 1000, tmp_path / f"{side}.nii.gz")
    return out


def test_windows_by_hand():
    hounsfield = torch.tensor([-1000.0, -300, -160, 40, 240, 400, 900, 3000]).view(1, 1, 2, 2, 2)
    grid = Grid.centered(np.zeros(3), (2, 2, 2), (1, 1, 1), np.eye(3))
    preprocessing = Preprocessing((2, 2, 2), (1, 1, 1), intensity="ct-windows")
    seen = preprocessing.apply(hounsfield, grid, grid)
    assert seen.shape == (1, preprocessing.channels, 2, 2, 2)
    soft, wide, bone = seen.flatten(2)[0]
    torch.testing.assert_close(soft, torch.tensor([0, 0, 0, 0.5, 1, 1, 1, 1]))
    torch.testing.assert_close(wide, torch.tensor([0, 0, 140 / 800, 340 / 800, 540 / 800, 700 / 800, 1, 1]))
    torch.testing.assert_close(bone, torch.tensor([0, 0, 0, 0.14, 0.34, 0.5, 1, 1]))
    assert Preprocessing((2, 2, 2), (1, 1, 1)).channels == 1


def test_windows_are_compared_at_unit_deviation(generator):
    windows = Preprocessing((4, 4, 4), (1, 1, 1), intensity="ct-windows")
    a, b = torch.rand(2, 1, 3, 4, 5, 6, generator=generator)
    a[:, 2] = b[:, 2] = 1  # a window that holds nothing
    one, other = windows.comparable(a, b)
    deviation = torch.cat([one, other]).std((0, 2, 3, 4))
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1, 0]))
    torch.testing.assert_close(one / other, a / b)
    assert Preprocessing((4, 4, 4), (1, 1, 1)).comparable(a, b)[0] is a


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_takes_windows(name, scans, tmp_path):
    result = register(scans["fixed"], scans["moving"], untrained(tmp_path, name).folder)
    np.testing.assert_allclose(through(result.transform, POINTS), POINTS, atol=1e-4)
    assert result.report["warnings"] == []
    assert (result.fixed_segmentation is None) == (name != "deepatlas")


@pytest.mark.parametrize("name", ["symmetric", "deepatlas"])
def test_refined_on_windows(name, scans, tmp_path):
    result = register(scans["fixed"], scans["moving"], untrained(tmp_path, name).folder, refine=30)
    before, after = (
        np.linalg.norm(points - place(POINTS, MOVED), axis=1).mean()
        for points in (POINTS, through(result.transform, POINTS))
    )
    assert after < 0.8 * before
    similarity = result.report["quality"]["similarity"]["local_correlation"]
    assert similarity["after"] > similarity["before"] + 0.05
    assert result.report["quality"]["regularity"]["folded_share"] == 0


def test_a_bundle_says_how_far_a_step_goes(scans, tmp_path):
    moved = {}
    for factor, rate in ((1, 0.02), (1, 0.04), (2, 0.02)):
        bundle = untrained(tmp_path / f"{factor} {rate}", "symmetric", factors=[factor], rate=rate)
        result = register(scans["fixed"], scans["moving"], bundle.folder, refine=1)
        moved[factor, rate] = np.abs(sitk.GetArrayViewFromImage(result.displacement)).max()
        # Adam's first step moves every parameter by its rate, in voxels of the parameters' lattice.
        voxel = refine.CONTROL * factor * 2  # mm
        assert 0.6 * rate * voxel < moved[factor, rate] <= 1.01 * rate * voxel
    assert moved[1, 0.04] == pytest.approx(2 * moved[1, 0.02], rel=0.02)
    bundle = untrained(tmp_path / "two", "symmetric", factors=[2, 1], rate=0.02)
    result = register(scans["fixed"], scans["moving"], bundle.folder, refine=1)
    both = np.abs(sitk.GetArrayViewFromImage(result.displacement)).max()
    assert 1.2 * moved[2, 0.02] < both <= 1.01 * (moved[1, 0.02] + moved[2, 0.02])


def test_a_bundle_asks_for_turned_views_before_steps_only(scans, tmp_path):
    bundle = untrained(tmp_path, "deepatlas", turn=10)
    asked: list[torch.Tensor] = []
    handle = models.load(bundle).register_forward_pre_hook(lambda module, images: asked.append(images[0]))

    def told(refine: int) -> list[float]:
        shares = []
        pair = scans["fixed"], scans["moving"], bundle.folder
        register(*pair, refine=refine, progress=lambda *at: shares.append(at))
        return [share for stage, share in shares if stage == "network"]

    assert told(0) == [0, 1]
    (once,) = asked
    assert told(1) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    handle.remove()
    first, *turned = asked[1:]
    assert torch.equal(first, once) and len(turned) == 2
    # The middle stays, the rest does not, and the two turns are no more alike than either is to the image.
    assert all((view - once).std() > 0.1 * once.std() for view in turned)
    assert (turned[0] - turned[1]).std() > max((view - once).std() for view in turned)


@pytest.mark.parametrize("similarity", ["mse", "mi"])
def test_other_similarities_take_windows(similarity, scans, tmp_path):
    bundle = untrained(tmp_path, "symmetric")
    refined = register(scans["fixed"], scans["moving"], bundle.folder, refine=15, similarity=similarity)
    judged = refined.report["quality"]["similarity"][{"mse": "correlation", "mi": "mutual_information"}[similarity]]
    assert judged["after"] > judged["before"]


def test_an_mri_is_told_from_a_ct(scans, tmp_path):
    bundle = untrained(tmp_path, "symmetric")
    manifest = {key: value for key, value in bundle.manifest.items() if key not in ("sha256", "requires")}
    manifest["domain"] |= {"intensity": [[0, 0], [0, 0.6], [0, 1]]}
    bundle = models.write_bundle(bundle.folder, manifest, models.load(bundle))
    assert register(scans["fixed"], scans["moving"], bundle.folder).report["warnings"] == []
    image = write(volume(small_scene(), small_grid()) + 300, tmp_path / "image.nii.gz")
    assert "unlike the training images'" in "".join(register(image, image, bundle.folder).report["warnings"])


def test_a_network_of_another_number_of_channels_is_refused(scans, tmp_path):
    bundle = untrained(tmp_path, "symmetric", intensity="zscore")
    with pytest.raises(ModelError, match="contradicts itself in its number of channels"):
        register(scans["fixed"], scans["moving"], bundle.folder)
