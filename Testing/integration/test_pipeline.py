"""What the way promises whatever the images: sources, seeds, progress, canceling, alignment, memory."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import JointRegSegLib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import affine, deformation, estimate, files, models, pipeline, register
from JointRegSegLib.errors import Canceled, InputError
from JointRegSegLib.refine import Level
from samples import array, through, voxel_centers

STILL = sitk.Transform(3, sitk.sitkIdentity)
PRODUCTS = ("warped", "displacement", "jacobian", "fixed_segmentation", "moving_segmentation", "warped_segmentation")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generic` with few steps, where its accuracy does not matter."""
    monkeypatch.setattr(estimate, "Level", lambda factor, iterations, rate: Level(factor, min(iterations, 3), rate))
    schedule = ((12, 4, True), (16, 3, False))
    monkeypatch.setattr(estimate, "register_affine", partial(affine.register_affine, schedule=schedule))


@pytest.fixture
def anew(bundle, tmp_path) -> Path:
    """The tiny model, refined as `generic` registers."""
    folder = shutil.copytree(bundle.folder, tmp_path / "anew")
    manifest = {**bundle.manifest, "refinement": {"anew": True}}
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def same(a, b) -> bool:
    """Whether all images of two results are equal bit for bit."""
    return all(
        (getattr(a, name) is None and getattr(b, name) is None)
        or np.array_equal(array(getattr(a, name)), array(getattr(b, name)))
        for name in PRODUCTS
    )


def test_paths_and_images_give_the_same(installed, pair):
    by_path = register(pair["fixed"], str(pair["moving"]), "tiny-blobs")
    by_image = register(*(sitk.ReadImage(str(pair[side])) for side in ("fixed", "moving")), model="tiny-blobs")
    assert same(by_path, by_image)
    assert by_path.report["inputs"]["fixed"]["file"] == str(pair["fixed"])
    assert by_image.report["inputs"]["fixed"]["file"] is None


def test_names_of_the_package(installed, pair):
    assert isinstance(JointRegSegLib.register(pair["fixed"], pair["moving"], "tiny-blobs"), JointRegSegLib.Registration)
    with pytest.raises(AttributeError, match="has no attribute 'segment'"):
        _ = JointRegSegLib.segment


@pytest.mark.parametrize(("model", "options"), [("generic", {"similarity": "mi"}), ("tiny-blobs", {"refine": 4})])
def test_same_seed_same_result(installed, pair, quick, model, options):
    first, second = (register(pair["fixed"], pair["moving"], model, seed=5, device_name="cpu", **options) for _ in "12")
    assert same(first, second)
    assert torch.equal(first.deformation.displacement, second.deformation.displacement)
    assert torch.equal(first.deformation.inverse, second.deformation.inverse)
    assert np.array_equal(first.deformation.affine, second.deformation.affine)
    assert np.ptp(array(first.displacement)) > 0


def test_storage_order_does_not_matter(installed, pair):
    fixed, moving = (sitk.ReadImage(str(pair[side])) for side in ("fixed", "moving"))
    plain = register(fixed, moving, "tiny-blobs")
    turned = register(sitk.DICOMOrient(fixed, "SAL"), sitk.DICOMOrient(moving, "PIR"), "tiny-blobs")
    assert turned.fixed.GetSize() != plain.fixed.GetSize()
    points = voxel_centers(files.grid_of(fixed))[2:-2, 2:-2, 2:-2].reshape(-1, 3)
    moved = through(plain.transform, points)
    assert np.linalg.norm(moved - points, axis=1).max() > 1
    assert np.linalg.norm(through(turned.transform, points) - moved, axis=1).max() < 0.2  # mm; lattices differ a little
    for name in ("warped", "fixed_segmentation"):
        back = sitk.Resample(getattr(turned, name), fixed, STILL, sitk.sitkNearestNeighbor)
        a, b = array(back).astype(float), array(getattr(plain, name)).astype(float)
        assert np.abs(a - b).mean() < 0.01 * np.ptp(b)


@pytest.mark.parametrize(
    ("model", "refine", "stages"),
    [
        ("generic", 0, ["reading", "affine", "deformation", "resampling", "checking"]),
        ("tiny-blobs", 5, ["reading", "network", "refining", "resampling", "checking"]),
        ("anew", 5, ["reading", "network", "refining", "resampling", "checking"]),
    ],
)
def test_progress_rises(installed, anew, pair, quick, tmp_path, model, refine, stages):
    told, model = [], anew if model == "anew" else model

    def listen(stage: str, fraction: float) -> None:
        told.append((stage, fraction))

    result = register(pair["fixed"], pair["moving"], model, refine=refine, progress=listen)
    result.save(tmp_path / "out", progress=listen)
    assert list(dict.fromkeys(stage for stage, _ in told)) == [*stages, "writing"]
    for stage in stages:
        fractions = [f for s, f in told if s == stage]
        assert fractions == sorted(fractions)
        assert fractions[0] == 0 and fractions[-1] <= 1
    middle = [f for s, f in told if s == ("deformation" if model == "generic" else "refining")]
    assert len(set(middle)) > 3
    assert told[-1] == ("writing", 1.0)


@pytest.mark.parametrize("stage", ["reading", "affine", "deformation", "checking"])
def test_cancel_generic(pair, quick, stage):
    with pytest.raises(Canceled):
        register(pair["fixed"], pair["moving"], progress=lambda s, f: not (s == stage and f >= 0.0))


@pytest.mark.parametrize("stage", ["network", "refining", "writing"])
def test_cancel_leaves_nothing(installed, pair, tmp_path, stage):
    before = sorted(tmp_path.iterdir())

    def stop(where: str, fraction: float) -> bool:
        return not (where == stage and fraction > (0.3 if stage != "network" else -1))

    with pytest.raises(Canceled):
        register(pair["fixed"], pair["moving"], "tiny-blobs", refine=4, progress=stop).save(
            tmp_path / "out", progress=stop
        )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("model", ["generic", "tiny-blobs"])
def test_a_full_gpu_falls_back_to_the_cpu(installed, pair, quick, monkeypatch, model):
    """No GPU is needed: the meta device stands for one, and the first attempt on it runs out of memory."""
    tried = []

    def fails_off_the_cpu(real):
        def attempt(*arguments, **options):
            used = arguments[-1].device  # the last one is the settings
            tried.append(used.type)
            if used.type != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*arguments, **options)

        return attempt

    expected = register(pair["fixed"], pair["moving"], model, device_name="cpu")
    for name in ("by_model", "by_optimization"):
        monkeypatch.setattr(pipeline, name, fails_off_the_cpu(getattr(pipeline, name)))
    monkeypatch.setattr(pipeline.device, "choose", lambda name: torch.device("meta"))
    monkeypatch.setattr(pipeline.device, "describe", lambda device, network: f"on {device}")
    result = register(pair["fixed"], pair["moving"], model)
    assert tried == ["meta", "cpu"]
    assert result.report["notes"] == ["the GPU's memory did not suffice; computed on the CPU instead"]
    assert result.report["device"] == "on cpu"
    assert same(result, expected)


def test_a_full_main_memory_is_no_reason_to_try_again(installed, pair, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(pipeline, "by_model", full)
    with pytest.raises(torch.OutOfMemoryError):
        register(pair["fixed"], pair["moving"], "tiny-blobs", device_name="cpu")


@pytest.mark.parametrize("better", ["affine", "network", "collapsed"])
def test_refined_anew_from_what_is_better(anew, pair, quick, monkeypatch, better):
    """From a network that leads astray, as without it; where the affine map does, on from the network's answer."""
    generic = register(pair["fixed"], pair["moving"], "generic", align="center").deformation
    astray = 3 * torch.randn(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(1))

    def answered(self, moving, fixed):
        u = torch.nn.functional.interpolate(astray, size=fixed.shape[2:], mode="trilinear", align_corners=True)
        return replace(told(self, moving, fixed), affine=None, forward=u, backward=-u)

    network = type(models.load(models.open_bundle(anew)))
    told = network.infer
    if better == "affine":
        monkeypatch.setattr(network, "infer", answered)
    else:
        scale = 0.4 if better == "network" else 0.01  # out of sight, or shrunk to nothing
        monkeypatch.setattr(estimate, "register_affine", lambda *a: np.diag([scale, scale, scale, 1]))
    alone = register(pair["fixed"], pair["moving"], anew)
    found = register(pair["fixed"], pair["moving"], anew, refine=4)
    points = found.deformation.grid.to_world(np.random.default_rng(0).uniform(5, 9, (20, 3)))
    there, network_there = (x.deformation.to_moving(points) for x in (found, alone))
    if better == "affine":
        assert np.linalg.norm(there - generic.to_moving(points), axis=1).mean() < 0.5
        assert np.linalg.norm(there - network_there, axis=1).mean() > 2
    else:
        assert np.linalg.norm(there - network_there, axis=1).mean() < 2
    assert np.array_equal(array(found.fixed_segmentation), array(alone.fixed_segmentation))


def test_an_affine_map_that_shrinks_an_image_to_nothing_is_refused(pair, monkeypatch):
    monkeypatch.setattr(estimate, "register_affine", lambda *a: np.diag([0.01, 0.01, 0.01, 1]))
    with pytest.raises(InputError, match="too little in common"):
        register(pair["fixed"], pair["moving"])


def test_alignment_of_a_model(installed, pair):
    centered, placed = (register(pair["fixed"], pair["moving"], "tiny-blobs", align=a) for a in (None, "world"))
    assert [r.report["settings"]["align"] for r in (centered, placed)] == ["center", "world"]
    assert np.array_equal(placed.deformation.affine, np.eye(4))
    np.testing.assert_allclose(centered.deformation.affine[:3, :3], np.eye(3), atol=1e-6)  # moved, not turned
    middle = files.grid_of(centered.fixed).center
    from_middle = centered.deformation.affine[:3, :3] @ middle + centered.deformation.affine[:3, 3]
    assert np.linalg.norm(from_middle - files.grid_of(centered.moving).center) < 2


def test_no_overlap(installed, pair):
    moving = sitk.ReadImage(str(pair["moving"]))
    moving.SetOrigin([x + 300 for x in moving.GetOrigin()])
    cure = r"do not overlap in space \(their middles are 5\d\d mm apart\).*middles on each other"
    for model, align in (("generic", None), ("tiny-blobs", "world")):
        with pytest.raises(InputError, match=cure) as refusal:
            register(pair["fixed"], moving, model, align=align)
        assert refusal.value.option == "align"
    # The model begins with the middles on each other, and sees the same as before.
    near, far = (register(pair["fixed"], image, "tiny-blobs") for image in (pair["moving"], moving))
    assert np.allclose(far.deformation.affine[:3, 3] - near.deformation.affine[:3, 3], 300, atol=1e-3)
    np.testing.assert_allclose(array(far.warped), array(near.warped), atol=0.1)


def test_field_of_a_large_volume_is_thinned(installed, pair, monkeypatch, tmp_path):
    monkeypatch.setattr(deformation, "FIELD_VOXELS", 700)
    result = register(pair["fixed"], pair["moving"], "tiny-blobs")
    grid, fixed = files.grid_of(result.displacement), files.grid_of(result.fixed)
    assert grid.voxels <= 700 < fixed.voxels
    assert grid.contains(voxel_centers(fixed)).all()
    assert result.jacobian.GetSize() == result.displacement.GetSize()
    assert result.warped.GetSize() == result.fixed.GetSize()
    result.save(tmp_path / "out")
    transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.h5"))
    low = float(array(result.moving).min())
    again = sitk.Resample(result.moving, result.fixed, transform, sitk.sitkLinear, low)
    assert np.abs(array(again) - array(result.warped)).max() <= 0.01 * np.ptp(array(result.moving))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"similarity": "ncc"}, "lncc, mse, mi"),
        ({"align": "corner"}, "world, center"),
        ({"refine": -1}, "from 0 to 10000"),
        ({"refine": 10**23}, "from 0 to 10000"),
        ({"fill": float("nan")}, "finite"),
        ({"device_name": "tpu"}, "auto, cpu, cuda"),
        ({"fixed_points": np.zeros((3, 3))}, "both images"),
        ({"fixed_points": np.zeros((3, 3)), "moving_points": np.zeros((2, 3))}, "3 fixed and 2 moving"),
        ({"fixed_points": np.zeros((3, 2)), "moving_points": np.zeros((3, 2))}, "fixed landmarks"),
        ({"fixed_points": np.zeros((1, 3)), "moving_points": np.full((1, 3), np.nan)}, "moving landmarks"),
    ],
)
def test_options_that_are_none(pair, options, words):
    with pytest.raises(InputError, match=words):
        register(pair["fixed"], pair["moving"], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(pair):
    with pytest.raises(InputError, match="no CUDA device is available; compute on the CPU") as refusal:
        register(pair["fixed"], pair["moving"], device_name="cuda")
    assert refusal.value.option == "device_name"


def test_no_message_speaks_of_options_of_the_command():
    """Window and scripts have none; the command adds its own by the `option` of an error."""
    for source in Path(files.__file__).parent.glob("*.py"):
        if source.stem not in ("cli", "cluster"):  # the second one is behind options of the command alone
            assert not re.findall(r"[\"' (]--[a-z]+", source.read_text(encoding="utf-8")), source
