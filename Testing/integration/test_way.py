"""The whole way, from files to files, read back by plain SimpleITK; oblique, anisotropic, flipped, differing grids."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import small_grid, small_scene, tilted
from JointRegSegLib import files, register
from JointRegSegLib.geometry import Grid
from JointRegSegLib.points import write_points
from samples import (
    CENTER,
    array,
    body,
    fixed_grid,
    label_map,
    motion,
    moving_grid,
    place,
    thing,
    through,
    volume,
    voxel_centers,
    write,
)

KNOWN = motion((6, -4, 5), (1.06, 0.95, 1.04), (3, -2, 2))
IMAGES = {"warped", "displacement", "jacobian"}
SEGMENTATIONS = {"fixed_segmentation", "moving_segmentation", "warped_segmentation"}


@pytest.fixture(scope="module", params=["generic", "model", "refined"])
def way(request: pytest.FixtureRequest, bundle, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One saved result: `generic` with a known motion, a network alone, and a network with refinement."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "generic":
        scenes, grids, moved, model, refine = (thing(), thing()), (fixed_grid(), moving_grid()), KNOWN, "generic", 0
    else:
        scenes, moved, model = (small_scene(20), small_scene(21)), motion((3, 0, -4), shift=(2, -1, 2)), bundle.folder
        grids = Grid.centered(CENTER, (20, 18, 12), (2, 2.1, 3), np.eye(3)), tilted(small_grid((18, 20, 14)))
        refine = 8 if request.param == "refined" else 0
    sources = {
        "fixed": write(volume(scenes[0], grids[0]), folder / "fixed.nii.gz"),
        "moving": write(volume(scenes[1], grids[1], moved, np.int16) - 1000, folder / "moving.nrrd"),
        "fixed_labels": write(label_map(scenes[0], grids[0]), folder / "fixed_labels.nii.gz"),
        "moving_labels": write(label_map(scenes[1], grids[1], moved), folder / "moving_labels.mha"),
        "fixed_points": folder / "fixed.csv",
        "moving_points": folder / "moving.mrk.json",
    }
    write_points(scenes[0].centers[1:], sources["fixed_points"])
    write_points(place(scenes[1].centers[1:], moved), sources["moving_points"])
    result = register(model=model, refine=refine, **sources)
    output = result.save(folder / "out")
    return SimpleNamespace(
        kind=request.param, sources=sources, result=result, output=output, scenes=scenes, moved=moved, grids=grids
    )


def images(way: SimpleNamespace) -> tuple[sitk.Image, sitk.Image]:
    return tuple(sitk.ReadImage(str(way.sources[side])) for side in ("fixed", "moving"))


def test_folder_is_complete(way):
    names = {f"{name}.nii.gz" for name in IMAGES | {"warped_labels"}}
    names |= {"transform.h5", "inverse_transform.h5", "report.json", "report.html"}
    if way.kind != "generic":
        names |= {f"{name}.nii.gz" for name in SEGMENTATIONS}
    assert {p.name for p in way.output.iterdir()} == names


def test_transform_file_gives_the_warped_file(way):
    fixed, moving = images(way)
    transform = sitk.ReadTransform(str(way.output / "transform.h5"))
    low = float(array(moving).min())
    again = array(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, low))
    warped = sitk.ReadImage(str(way.output / "warped.nii.gz"))
    extent = np.ptp(array(moving))
    assert np.abs(array(warped).astype(float) - again).max() <= 0.01 * extent
    still = array(sitk.Resample(moving, fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, low))
    assert np.abs(array(warped) - still.astype(float)).max() > 0.1 * extent  # there was something to do
    assert files.grid_of(warped).matches(files.grid_of(fixed))
    assert warped.GetPixelID() == moving.GetPixelID()


def test_displacement_file_gives_the_warped_file(way):
    fixed, moving = images(way)
    vectors = sitk.ReadImage(str(way.output / "displacement.nii.gz"))
    assert files.grid_of(vectors).matches(files.grid_of(fixed))
    transform = sitk.DisplacementFieldTransform(sitk.Cast(vectors, sitk.sitkVectorFloat64))
    low = float(array(moving).min())
    again = array(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, low))[1:-1, 1:-1, 1:-1].astype(float)
    warped = array(way.output / "warped.nii.gz")[1:-1, 1:-1, 1:-1]
    assert np.abs(warped - again).max() <= 0.01 * np.ptp(array(moving))


def test_inverse_transform_file_brings_points_back(way):
    fixed, moving = (files.grid_of(image) for image in images(way))
    there, back = (sitk.ReadTransform(str(way.output / f"{n}transform.h5")) for n in ("", "inverse_"))
    points = voxel_centers(fixed)[::2, ::2, ::2].reshape(-1, 3)
    moved = through(there, points)
    # Where the way leads out of either image no voxel answers for it.
    landed = place(moved, np.linalg.inv(way.result.deformation.affine))
    inside = moving.contains(moved) & (
        (fixed.to_index(landed) >= 0) & (fixed.to_index(landed) <= np.array(fixed.size) - 1)
    ).all(-1)
    assert inside.mean() > 0.4
    misses = np.linalg.norm(fixed.to_index(through(back, moved)) - fixed.to_index(points), axis=1)[inside]
    assert misses.mean() <= 0.1
    assert misses.max() <= 0.5
    figures = way.result.report["quality"]["regularity"]["inverse_consistency_voxels"]
    assert figures["mean"] <= 0.1 and figures["max"] <= 0.5


def test_jacobian_file_is_the_derivative_of_the_transform(way):
    fixed, _ = images(way)
    grid, transform = files.grid_of(fixed), sitk.ReadTransform(str(way.output / "transform.h5"))
    index = np.array([[i, j, k] for i in (5, 9, 14) for j in (5, 8, 12) for k in (3, 6, 8)], float)
    columns = []
    for axis in range(3):  # central differences over a voxel, as the file has them, in mm
        step = np.eye(3)[axis]
        far, near = (through(transform, grid.to_world(index + sign * step)) for sign in (1, -1))
        columns.append((far - near) / 2)
    expected = np.linalg.det(np.stack(columns, -1)) / np.linalg.det(grid.affine[:3, :3])
    found = array(way.output / "jacobian.nii.gz")[tuple(index.astype(int)[:, ::-1].T)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(expected) > 0.01


def test_labels_are_carried_as_labels(way):
    fixed, _ = images(way)
    transform = sitk.ReadTransform(str(way.output / "transform.h5"))
    given = sitk.ReadImage(str(way.sources["moving_labels"]))
    pairs = {"warped_labels": given}
    if way.kind != "generic":
        pairs["warped_segmentation"] = sitk.ReadImage(str(way.output / "moving_segmentation.nii.gz"))
    for name, source in pairs.items():
        carried = array(way.output / f"{name}.nii.gz")
        again = array(sitk.Resample(source, fixed, transform, sitk.sitkNearestNeighbor, 0.0))
        assert (carried != again).mean() < 1e-3  # a voxel in the middle between two may fall to either
        assert set(np.unique(carried)) == {0, 1, 2}


def test_segmentations_lie_on_their_own_images(way):
    fixed, moving = images(way)
    if way.kind == "generic":
        assert way.result.fixed_segmentation is None and way.result.warped_segmentation is None
        return
    for name, image in (("fixed", fixed), ("moving", moving), ("warped", fixed)):
        found = sitk.ReadImage(str(way.output / f"{name}_segmentation.nii.gz"))
        assert files.grid_of(found).matches(files.grid_of(image))
        assert found.GetPixelID() == sitk.sitkUInt8
    for side, matrix in (("fixed", np.eye(4)), ("moving", way.moved)):
        found = sitk.ReadImage(str(way.output / f"{side}_segmentation.nii.gz"))
        points = voxel_centers(files.grid_of(found))[array(found) > 0]
        truth = place(way.scenes[side == "moving"].centers[1:3].mean(0), matrix)
        assert np.linalg.norm(points.mean(0) - truth) < 6  # about where the structures are, in mm


def test_known_motion_is_measured(way):
    quality = way.result.report["quality"]
    if way.kind == "generic":
        points = body(images(way)[0], way.scenes[0])
        errors = np.linalg.norm(through(way.result.transform, points) - place(points, KNOWN), axis=1)
        assert errors.mean() < 0.5 * way.grids[0].spacing.mean()
        assert quality["landmarks"]["before_mm"]["mean"] > 3 and quality["landmarks"]["after_mm"]["mean"] < 1
        assert quality["labels"]["before"]["mean_dice"] < 0.75 and quality["labels"]["after"]["mean_dice"] > 0.85
        assert way.result.verdict == "green"
        inside = way.scenes[0].inside(voxel_centers(files.grid_of(images(way)[0])))[0] > 0.5
        jacobian = array(way.output / "jacobian.nii.gz")[inside].mean()
        assert jacobian == pytest.approx(np.linalg.det(KNOWN[:3, :3]), rel=0.05)
    else:
        assert quality["landmarks"]["count"] == 2
        assert set(quality["labels"]["after"]["labels"]) == {"1", "2"}  # the user's, not the model's
        assert set(quality["segmentation_agreement"]["labels"]) == {"left blob", "right blob"}
        assert 0 < quality["segmentation_agreement"]["mean_dice"] <= 1
        assert quality["segmentation_agreement"]["sought"] == (way.kind == "refined")
        assert quality["two_way_disagreement_mm"] > 0


def test_report_file(way):
    def never(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    report = json.loads((way.output / "report.json").read_text(encoding="utf-8"), parse_constant=never)
    assert report == json.loads(json.dumps(way.result.report))
    assert "research use only" in report["notice"]
    assert report["settings"]["seed"] == 0 and report["settings"]["similarity"] == "lncc"
    assert report["settings"]["refine"] == (8 if way.kind == "refined" else 0)
    assert report["settings"]["align"] == ("world" if way.kind == "generic" else "center")
    assert report["inputs"]["fixed"]["file"] == str(way.sources["fixed"])
    assert report["inputs"]["moving"]["type"] == "16-bit signed integer"
    assert report["inputs"]["fixed"]["size"] == list(way.grids[0].size)
    assert report["inputs"]["fixed"]["spacing_mm"] == pytest.approx(way.grids[0].spacing.tolist())
    assert report["inputs"]["moving_points"] == str(way.sources["moving_points"])
    assert report["device"].startswith(("cpu", "cuda"))
    assert {"jointregseg", "python", "torch", "SimpleITK"} <= set(report["versions"])
    assert report["seconds"]["total"] >= report["seconds"]["estimating"] > 0
    assert report["verdict"]["color"] in ("green", "amber", "red") and report["verdict"]["reasons"]
    assert set(report["quality"]["similarity"]) == {
        "correlation",
        "local_correlation",
        "mutual_information",
        "overlap_share",
    }
    if way.kind == "generic":
        assert report["model"]["sha256"] is None
    else:
        assert len(report["model"]["sha256"]) == 64 and report["model"]["license"] == "CC0-1.0"
    page = (way.output / "report.html").read_text(encoding="utf-8")
    assert report["verdict"]["color"] in page.lower()


def test_nothing_else_is_left_beside_the_folder(way):
    assert sorted(p.name for p in Path(way.output).parent.iterdir()) == sorted(
        [p.name for p in way.sources.values()] + ["out"]
    )
