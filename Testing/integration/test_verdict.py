"""What the quality check says of good and of bad registrations, and of images unlike the training data."""

from __future__ import annotations

import io
import sys
from copy import deepcopy

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import small_grid, small_scene
from JointRegSegLib import device, domain, fields, quality, register
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.errors import InputError
from JointRegSegLib.files import to_tensor
from JointRegSegLib.geometry import Grid
from JointRegSegLib.similarity import dissimilarity, unit_range
from JointRegSegLib.terminal import Bar
from samples import fixed_grid, label_map, motion, place, thing, volume
from scipy.spatial.transform import Rotation

GOOD = {
    "similarity": {
        "local_correlation": {"before": 0.3, "after": 0.8},
        "correlation": {"before": 0.5, "after": 0.9},
        "overlap_share": {"before": 0.9, "after": 0.95},
    },
    "regularity": {"folded_share": 0.0, "extreme_share": 0.0, "inverse_consistency_voxels": {"mean": 0.02, "max": 0.3}},
    "two_way_disagreement_mm": 0.5,
    "segmentation_agreement": {"mean_dice": 0.9, "sought": False},
    "labels": {"before": {"mean_dice": 0.5}, "after": {"mean_dice": 0.8}},
    "landmarks": {"count": 4, "before_mm": {"mean": 5.0}, "after_mm": {"mean": 1.0}},
}


def changed(path: str, value: object) -> dict:
    out = deepcopy(GOOD)
    *parents, last = path.split(".")
    entry = out
    for key in parents:
        entry = entry[key]
    entry[last] = value
    return out


def alike(local: tuple[float, float], whole: tuple[float, float]) -> dict:
    """Good figures but for the correlation before and after, in neighborhoods and over the whole."""
    pairs = {"local_correlation": local, "correlation": whole}
    return changed(
        "similarity", {name: dict(zip(("before", "after"), pair, strict=True)) for name, pair in pairs.items()}
    )


def marked(before: float, after: float) -> dict:
    """Good figures but for landmarks so many mm apart."""
    return changed("landmarks", {"count": 4, "before_mm": {"mean": before}, "after_mm": {"mean": after}})


@pytest.mark.parametrize(
    ("figures", "warnings", "color", "word"),
    [
        (GOOD, [], "green", "does not fold"),
        (changed("regularity.folded_share", 5e-6), [], "green", "only 0.0005 %"),
        (changed("regularity.folded_share", 1e-3), [], "amber", "0.1 % of voxels are folded"),
        (changed("regularity.folded_share", 0.02), [], "red", "2 % of voxels are folded"),
        (changed("regularity.extreme_share", 5e-4), [], "green", "does not fold"),
        (changed("regularity.extreme_share", 0.02), [], "amber", "2 % of voxels grow or shrink more than 10-fold"),
        (changed("similarity.local_correlation.after", 0.1), [], "red", "less alike than before"),
        (changed("similarity.local_correlation.after", 0.29), [], "amber", "no more alike than before"),
        (changed("similarity.local_correlation.after", None), [], "red", "do not overlap"),
        (changed("similarity.local_correlation.before", None), [], "green", "no overlap → 0.80"),
        (changed("similarity.local_correlation", {"before": None, "after": 0.17}), [], "amber", "little in common"),
        (changed("similarity.local_correlation", {"before": 0.03, "after": 0.17}), [], "amber", "little in common"),
        (changed("similarity.local_correlation", {"before": 0.02, "after": 0.21}), [], "green", "more alike"),
        (
            alike((1.0, 0.93), (1.0, 0.98)),
            [],
            "green",
            "nearly the same (correlation 1.00 → 0.98)",
        ),
        (alike((1.0, 0.93), (1.0, 0.96)), [], "amber", "correlation 1.00 → 0.96) and are less so now"),
        (
            alike((1.0, 0.5), (1.0, 0.9)),
            [],
            "red",
            "less alike than before",
        ),
        (
            alike((0.54, 0.5), (0.994, 0.995)),
            [],
            "red",
            "less alike than before",
        ),
        (changed("regularity.inverse_consistency_voxels.mean", 0.8), [], "amber", "there and back"),
        (changed("segmentation_agreement.sought", True), [], "green", "Dice 0.90, which the registration sought"),
        (changed("segmentation_agreement.mean_dice", 0.6), [], "amber", "agree with Dice 0.60"),
        (changed("segmentation_agreement.mean_dice", 0.2), [], "red", "agree with Dice 0.20"),
        (changed("segmentation_agreement.mean_dice", None), [], "red", "agree with Dice 0.00"),
        (changed("labels.after.mean_dice", 0.3), [], "red", "Dice 0.50 → 0.30"),
        (changed("labels", {"before": {"mean_dice": 0.0}, "after": {"mean_dice": 0.0}}), [], "red", "the same values?"),
        (changed("landmarks.after_mm.mean", 9.0), [], "red", "4 landmarks are 5.0 → 9.0 mm apart"),
        (marked(50.0, 7.0), [], "amber", "landmarks are 50.0 → 7.0 mm apart; are both lists in one order, and in LPS"),
        (marked(122.0, 120.0), [], "red", "landmarks are 122.0 → 120.0 mm apart; are both lists in one order"),
        (marked(4.5, 4.0), [], "green", "landmarks are 4.5 → 4.0 mm apart"),
        (marked(0.30, 0.31), [], "green", "landmarks are 0.3 → 0.3 mm apart"),
        (marked(0.3, 0.6), [], "amber", "landmarks are 0.3 → 0.6 mm apart"),
        (marked(0.3, 0.9), [], "red", "landmarks are 0.3 → 0.9 mm apart"),
        (changed("labels", {"before": {"mean_dice": 0.12}, "after": {"mean_dice": 0.11}}), [], "amber", "0.12 → 0.11"),
        (
            changed("similarity.overlap_share", {"before": 0.0, "after": 0.26}),
            [],
            "amber",
            "only 26.0 % of",
        ),
        (changed("similarity.local_correlation.after", float("nan")), [], "amber", "little in common"),
        (changed("similarity.local_correlation", {"before": 0.251, "after": 0.253}), [], "amber", "no more alike"),
        (GOOD, ["fixed image: too large"], "amber", "fixed image: too large"),
        (changed("regularity.folded_share", 0.02), ["odd"], "red", "odd"),
    ],
)
def test_colors(figures, warnings, color, word):
    verdict = quality.verdict(figures, warnings, "local_correlation")
    assert verdict["color"] == color
    assert any(word in reason for reason in verdict["reasons"]), verdict
    assert color == "green" or not set(verdict["reasons"]) & set(verdict["checks_passed"])


def test_only_the_optimized_similarity_counts():
    worse = changed("similarity.correlation.after", 0.1)
    assert quality.verdict(worse, [], "local_correlation")["color"] == "green"
    assert quality.verdict(worse, [], "correlation")["color"] == "red"


def test_noise_has_nothing_in_common():
    rng = np.random.default_rng(0)
    noise = [sitk.GetImageFromArray(rng.normal(size=(24, 24, 24)).astype(np.float32)) for _ in range(2)]
    result = register(*noise, working_size=16)
    assert result.verdict == "amber"
    assert "have little in common even after registration" in result.report["verdict"]["reasons"][0]


def test_too_little_to_judge_by(pair):
    def reasons(image: sitk.Image) -> str:
        return " ".join(register(pair["fixed"], image, align="center", working_size=16).report["verdict"]["reasons"])

    slab = sitk.ReadImage(str(pair["moving"]))[:, :, 3:10]
    assert "moving image: 7 voxels along an axis are too few" in reasons(slab)
    speck = volume(thing(), fixed_grid()) * 0
    speck[8:15, 8:15, 4:12] = 1.0
    speck[10, 10, 8] = 2.0
    assert "moving image: only 392 voxels are above its minimum" in reasons(speck)


def test_figures_of_a_known_motion():
    known = motion((0, 0, 25), (1.1, 1.0, 1.0), (6, -5, 4))
    grid = fixed_grid()
    fixed, moving = (to_tensor(volume(thing(), grid, m))[0] for m in (None, known))
    deformation = Deformation.identity(grid, known)
    alike = quality.similarity(fixed, moving, grid, deformation)
    for name in ("correlation", "local_correlation", "mutual_information"):
        assert alike[name]["after"] > alike[name]["before"] + 0.1, name
    assert alike["correlation"]["after"] > 0.98
    regular = quality.regularity(deformation)
    assert regular["jacobian"]["min"] == pytest.approx(1.1) and regular["log_jacobian_spread"] < 1e-5
    assert regular["extreme_share"] == 0
    assert quality.regularity(Deformation.identity(grid, np.diag([2.5, 2.5, 2, 1])))["extreme_share"] == 1
    assert regular["folded_share"] == 0 and regular["inverse_consistency_voxels"]["max"] == 0
    points = thing().centers
    errors = quality.landmarks(points, place(points, known), deformation)
    assert errors["count"] == len(points) and errors["after_mm"]["max"] < 1e-9
    assert errors["before_mm"]["mean"] == pytest.approx(np.linalg.norm(place(points, known) - points, axis=1).mean())


def test_a_fold_is_seen():
    grid = fixed_grid()
    u = torch.zeros(1, 3, *grid.shape)
    u[:, 2, :, :, 10:14] = torch.tensor([4.0, 2.0, -2.0, -4.0])
    regular = quality.regularity(Deformation(grid, u, fields.invert(u), np.eye(4)))
    assert regular["folded_share"] == pytest.approx(2 / 28)  # where neighbors change places
    assert regular["jacobian"]["min"] < 0


def test_no_overlap_after():
    grid, away = fixed_grid(), motion(shift=(500, 0, 0))
    image = to_tensor(volume(thing(), grid))[0]
    found = quality.similarity(image, image, grid, Deformation.identity(grid, away))
    shares = found.pop("overlap_share")
    assert shares["before"] > 0.8 and shares["after"] == 0
    assert [entry["after"] for entry in found.values()] == [None] * 3
    assert found["correlation"]["before"] == pytest.approx(1)


def test_the_outer_slices_count():
    """An image lies wholly on itself, however few slices it has and however they are turned."""
    for seed in range(8):
        turn = Rotation.from_rotvec(np.random.default_rng(seed).normal(size=3)).as_matrix()
        grid = Grid.centered((3, 2, 1), (20, 18, 3), (1.1, 1.3, 5), turn)
        image = torch.rand(1, 1, 3, 18, 20, generator=torch.Generator().manual_seed(seed))
        assert quality.similarity(image, image, grid, Deformation.identity(grid))["overlap_share"]["after"] == 1


def test_the_smaller_image_may_be_scaled():
    """All of a small moving image lies on the fixed one, though it shows half as wide there."""
    fixed, moving = (Grid.centered((0, 0, 0), (n, n, n), (2, 2, 2), np.eye(3)) for n in (24, 12))
    images = torch.rand(1, 1, 24, 24, 24), torch.rand(1, 1, 12, 12, 12)
    found = quality.similarity(*images, moving, Deformation.identity(fixed, np.diag([2.0, 2, 2, 1])))["overlap_share"]
    assert found["after"] == pytest.approx(1, abs=0.02) and found["before"] == pytest.approx(1)


def test_likeness_where_was_looked():
    """Noise beyond the lattice within does not count."""
    grid = fixed_grid()
    image = to_tensor(volume(thing(), grid))[0]
    noisy = image.clone()
    noisy[..., : grid.size[0] // 2] = torch.rand(noisy[..., : grid.size[0] // 2].shape) * float(image.max())
    first = (grid.size[0] // 2, 2, 2)
    within = grid.cropped(first, tuple(n - k for n, k in zip(grid.size, first, strict=True)))
    still = Deformation.identity(grid)
    everywhere, there = (quality.similarity(image, noisy, grid, still, lattice) for lattice in (None, within))
    assert there["correlation"]["after"] == pytest.approx(1, abs=1e-3)
    assert everywhere["correlation"]["after"] < 0.9


def test_overlap():
    labels = label_map(thing(), fixed_grid())
    full = quality.overlap(labels, labels, {1: "one"})
    assert full["labels"]["one"] == {"dice": 1.0, "hd95_voxels": 0.0}
    assert full["mean_dice"] == 1 and full["mean_hd95_voxels"] == 0
    lacking = quality.overlap(labels * (labels == 1), labels)
    assert lacking["labels"]["2"] == {"dice": 0.0, "hd95_voxels": None} and lacking["mean_hd95_voxels"] is None
    empty = quality.overlap(labels * 0, labels * 0)
    assert empty == {"labels": {}, "mean_dice": None, "mean_hd95_voxels": None}


def test_images_unlike_the_training_data(installed):
    def warnings(image: sitk.Image) -> list[str]:
        found = register(image, volume(small_scene(31), small_grid()), "tiny-blobs").report["warnings"]
        assert not [w for w in found if w.startswith("moving")]
        return found

    usual = volume(small_scene(30), small_grid())
    assert warnings(usual) == []
    small = sitk.Image(usual)
    small.SetSpacing([0.5, 0.5, 0.5])
    found = warnings(small)
    assert any("voxel spacing of 0.5 x 0.5 x 0.5 mm; the model was trained on 2 to 2 mm" in w for w in found)
    assert any("fixed image: extent of" in w for w in found)
    other = sitk.Cast(sitk.Abs(usual - 60), sitk.sitkFloat32)  # another contrast
    assert any("distributed unlike the training images'" in w for w in warnings(other))
    noise = sitk.GetImageFromArray(np.random.default_rng(0).random((16, 16, 16), np.float32))
    noise.SetSpacing([2, 2, 2])
    found = warnings(noise)
    assert any("mm³ of left blob, in training" in w for w in found), found


def test_unsure_segmentation():
    limits = {
        "spacing": [1, 1],
        "extent": [1, 1],
        "intensity": [[0, 0]] * 3,
        "volumes": [[90, 110]],
        "confidence": 0.9,
    }
    seen = {"spacing": [1], "extent": [1], "intensity": [0, 0, 0], "volumes": [100], "confidence": 0.5}
    assert domain.warnings("image", seen, limits, ["lobe"]) == [
        "image: the model is unsure of its segmentation (mean probability 0.50, in training at least 0.90)"
    ]
    assert domain.warnings("image", seen | {"confidence": 0.95, "volumes": [140]}, limits, ["lobe"])[0].startswith(
        "image: the model finds 140 mm³ of lobe, in training 90 to 110 mm³"
    )


def test_similarity_by_name():
    a = to_tensor(volume(thing(), fixed_grid()))[0]
    a = (a - a.mean()) / a.std()
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    for name in ("lncc", "mse", "mi"):
        assert dissimilarity(name, a, a) < dissimilarity(name, a, a + 0.3 * noise) < dissimilarity(name, a, noise)
    assert float(unit_range(a).min()) == 0 and float(unit_range(a).max()) == 1
    with pytest.raises(ValueError, match="known: lncc, mse, mi"):
        dissimilarity("ssd", a, a)


def test_device():
    assert device.choose("cpu") == torch.device("cpu")
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.get_num_threads()
    assert device.describe(torch.device("cpu")) == ("cpu (1 thread)" if count == 1 else f"cpu ({count} threads)")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        device.choose("gpu")


def test_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar() as bar:
        assert bar("affine", 0.5) is None
        bar("affine", 1.0)
    assert "affine" in sys.stderr.getvalue() and " 50 %" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Bar() as bar:
        bar("affine", 0.5)
    assert sys.stderr.getvalue() == ""  # nothing in a log file
