"""The lung review, by its command: a known expansion, real breathing motion, its files, privacy and errors."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import InputError
from JointRegSegLib.files import grid_of, read_image
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung import review
from JointRegSegLib.lung.breathing import Breath, breathe, truth
from JointRegSegLib.lung.page import render
from JointRegSegLib.lung.reviewing import NAMES
from JointRegSegLib.phantom import breathing_thorax
from JointRegSegLib.points import write_points
from scipy.spatial.transform import Rotation

PATIENCE = 240  # seconds for a child on a busy machine
#: Principal stretches from exhale to inhale, and the directions along which they are.
STRETCH = np.array([1.25, 1.12, 1.04])
AXES = Rotation.from_rotvec([0.5, -0.3, 0.4]).as_matrix()
GRADIENT = AXES @ np.diag(STRETCH) @ AXES.T
RATIO = float(STRETCH.prod())
MIDDLE = np.array([12.0, -20.0, 150.0])
TISSUE = 0.3  # share of it in the lungs at exhale


def lattice(size, spacing, turn) -> Grid:
    """Oblique, flipped, with three different spacings."""
    axes = Rotation.from_rotvec(turn).as_matrix() @ np.diag([1, -1, 1])
    return Grid.centered(MIDDLE, size, spacing, axes)


def world(grid: Grid) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    return grid.to_world(np.stack([i, j, k], -1))


def thorax(grid: Grid, inhaled: bool) -> tuple[sitk.Image, sitk.Image]:
    """CT of a body with two lungs, ellipsoids at exhale, which `GRADIENT` stretches to inhale, and their labels."""
    points = world(grid) - MIDDLE
    tissue = points @ np.linalg.inv(GRADIENT).T if inhaled else points
    hu = np.where(np.linalg.norm(points / (165, 130, 400), axis=-1) < 1, 30.0, -1000.0)
    labels = np.zeros(grid.shape, np.uint8)
    for value, side in ((1, -1), (2, 1)):
        labels[np.linalg.norm((tissue - (side * 60, 0, 0)) / (42, 58, 80), axis=-1) < 1] = value
    hu[labels > 0] = 1000 * ((TISSUE / RATIO if inhaled else TISSUE) - 1)
    return scalar_image(hu.astype(np.int16), grid), scalar_image(labels, grid)


@pytest.fixture(scope="module")
def expansion(tmp_path_factory) -> Path:
    """Files of a uniform expansion: both scans, their labels, and transforms from each to the other."""
    folder = tmp_path_factory.mktemp("expansion")
    grids = {
        "inhale": lattice((80, 74, 52), (4, 3.8, 5), (0.2, -0.15, 0.3)),
        "exhale": lattice((74, 66, 56), (4.3, 4, 4.6), (-0.1, 0.2, 0.1)),
    }
    for phase, grid in grids.items():
        image, labels = thorax(grid, phase == "inhale")
        sitk.WriteImage(image, str(folder / f"{phase}_Doe_John.nii.gz"))
        sitk.WriteImage(labels, str(folder / f"{phase}_labels.nii.gz"))
        matrix = np.linalg.inv(GRADIENT) if phase == "inhale" else GRADIENT
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(matrix.ravel().tolist())
        affine.SetTranslation((MIDDLE - matrix @ MIDDLE).tolist())
        sitk.WriteTransform(affine, str(folder / f"from_{phase}.tfm"))
    return folder


def of(folder: Path, *, labels: bool = True) -> list:
    """Options that name the scans of a folder."""
    out = []
    for phase in ("inhale", "exhale"):
        out += [f"--{phase}", folder / f"{phase}_Doe_John.nii.gz"]
        if labels:
            out += [f"--{phase}-labels", folder / f"{phase}_labels.nii.gz"]
    return [*out, "--names", "1=right lung,2=left lung"] if labels else out


def known() -> dict[str, float]:
    """What the measures of the expansion are."""
    first, second, third = STRETCH
    return {
        "ventilation": RATIO - 1,
        "log_jacobian": np.log(RATIO),
        **{f"strain_{i + 1}": (stretch**2 - 1) / 2 for i, stretch in enumerate(STRETCH)},
        "anisotropy": np.hypot((first - second) / second, (second - third) / third),
        "relative_ventilation": 1.0,
    }


@pytest.mark.parametrize("reference", ["inhale", "exhale"])
def test_a_known_expansion(expansion, tmp_path, reference):
    """Within 1 %, in every region and at every voxel, whichever scan is the reference."""
    transform = expansion / f"from_{reference}.tfm"
    command = ["lung", *of(expansion), "--reference", reference, "--transform", transform, "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "JointRegSegLib.cli", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    report = json.loads((out / "review.json").read_text(encoding="utf-8"))
    rows = {row["region"]: row for row in report["regions"]}
    assert list(rows)[:3] == ["lungs", "right lung", "left lung"] and len(rows) == 10
    for row in rows.values():
        assert row["inhale_ml"] / row["exhale_ml"] == pytest.approx(RATIO, rel=0.01)
        assert row["inspired_fraction"] == pytest.approx(1 - 1 / RATIO, rel=0.01)
        for name, value in known().items():
            assert row[name] == pytest.approx(value, rel=0.01), (row["region"], name)
    assert rows["right lung"]["exhale_ml"] == pytest.approx(4 / 3 * np.pi * 42 * 58 * 80 / 1000, rel=0.01)
    # Tissue keeps its mass here, so that densities tell the same; at the surface, voxels hold the wall, too.
    assert rows["core"]["intensity_ventilation"] == pytest.approx(RATIO - 1, rel=0.02)
    air = RATIO * (1 - TISSUE / RATIO) / (1 - TISSUE) - 1
    assert rows["core"]["specific_air_change"] == pytest.approx(air, rel=0.02)
    for name, value in known().items():
        voxels = array(out / f"map_{name}.nii.gz")
        assert np.nanmax(np.abs(voxels - value)) <= 0.01 * value, name
    image = sitk.ReadImage(str(out / "map_displacement.nii.gz"))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(expansion / f"{reference}_labels.nii.gz")))
    way = (world(grid_of(image)) - MIDDLE) @ (sitk_matrix(transform) - np.eye(3)).T
    expected = np.where(labels > 0, np.linalg.norm(way, axis=-1), np.nan)
    np.testing.assert_allclose(array(out / "map_displacement.nii.gz"), expected, atol=0.01)


def array(path: Path) -> np.ndarray:
    """Values of a map; ITK by itself would read NaN as 0."""
    return sitk.GetArrayFromImage(read_image(path, values=False))


def sitk_matrix(path: Path) -> np.ndarray:
    return np.reshape(sitk.ReadTransform(str(path)).GetMatrix(), (3, 3))


def test_files_and_privacy(expansion, tmp_path, shell):
    """The lungs are found by themselves; nothing names the patient, who is in the names of the files."""
    command = [*of(expansion, labels=False), "--transform", expansion / "from_inhale.tfm", "--output", tmp_path / "out"]
    code, said, error = shell("lung", *command)
    assert (code, error) == (0, "")
    assert "right lung" in said and "For research use only" in said
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == NAMES - {
        "map_heterogeneity.nii.gz",
        "map_inspired_fraction.nii.gz",
    }
    for name in ("review.json", "report.html", "table.csv"):
        text = (out / name).read_text(encoding="utf-8")
        assert "Doe_John" not in text and str(expansion) not in text, name
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "not named in this report" in page and "Galbán et al. 2012" in page
    assert not re.search(r"<script|https?:|url\(| on\w+=", page)
    assert page.count("<img") > 20 and page.count("For research use only") == 2
    with (out / "table.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["region"] for row in table][:3] == ["lungs", "right lung", "left lung"]
    assert float(table[1]["ventilation"]) == pytest.approx(RATIO - 1, rel=0.01)
    assert (np.isfinite(array(out / "map_ventilation.nii.gz")) == (array(out / "lungs.nii.gz") > 0)).all()

    code, said, error = shell("lung", *command, "--patient", "--overwrite")
    assert (code, error) == (0, "")
    assert "inhale_Doe_John.nii.gz" in (out / "report.html").read_text(encoding="utf-8")


def test_dicom_names_the_patient_only_if_asked_to(expansion, tmp_path, dicom_writer):
    series = {}
    tags = {"0010|0010": "Doe^Jane", "0010|0020": "4711", "0018|1210": "B70f", "0018|0050": "5"}
    for phase in ("inhale", "exhale"):
        image = sitk.ReadImage(str(expansion / f"{phase}_Doe_John.nii.gz"))
        folder = series[phase] = tmp_path / phase
        folder.mkdir()
        write_dicom(image, folder, tags | ({"0018|1210": "B30f"} if phase == "exhale" else {}), dicom_writer)
    transform = expansion / "from_inhale.tfm"
    found = review(series["inhale"], series["exhale"], transform=transform)
    assert any("B70f (inhale) and B30f (exhale)" in text for text in found.report["warnings"])
    assert any(text.startswith("inhale and exhale: slices of 5 mm") for text in found.report["warnings"])
    assert found.report["verdict"]["color"] != "green"
    assert "patient" not in found.report and "Doe" not in json.dumps(found.report)
    assert not any("one person" in text for text in found.report["warnings"])
    named = review(series["inhale"], series["exhale"], transform=transform, patient=True)
    assert named.report["patient"]["Name (inhale)"] == "Doe^Jane"
    assert named.report["patient"]["ID (exhale)"] == "4711"


def write_dicom(image: sitk.Image, folder: Path, tags: dict[str, str], writer: sitk.ImageFileWriter) -> None:
    direction, uid = image.GetDirection(), f"1.2.826.0.1.3680043.2.1125.{abs(hash(folder.name)) % 10**9}"
    for k in range(image.GetSize()[2]):
        part = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        meta = tags | {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": uid + ".1",
            "0008|0018": f"{uid}.2.{k}",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{x:.6f}" for x in place),
            "0020|0037": "\\".join(f"{direction[n]:.9f}" for n in (0, 3, 6, 1, 4, 7)),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in meta.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03d}.dcm"))
        writer.Execute(part)


def test_exchanged_scans_are_told_and_landmarks_give_the_error(expansion, tmp_path):
    """Named the wrong way round, the lungs shrink: that is said, with the cure."""
    at = {phase: expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")}
    labels = {phase: expansion / f"{phase}_labels.nii.gz" for phase in at}
    rng = np.random.default_rng(1)
    exhaled = MIDDLE + rng.uniform(-25, 25, (40, 3)) + np.outer(np.repeat((-60, 60), 20), (1, 0, 0))  # in the lungs
    missed = rng.normal(0, 1.5, exhaled.shape)
    inhaled = MIDDLE + (exhaled - MIDDLE + missed) @ GRADIENT.T
    for phase, points in (("inhale", inhaled), ("exhale", exhaled)):
        write_points(points, tmp_path / f"{phase}.csv")
    found = review(
        at["exhale"],
        at["inhale"],
        inhale_lungs=labels["exhale"],
        exhale_lungs=labels["inhale"],
        inhale_points=tmp_path / "exhale.csv",
        exhale_points=tmp_path / "inhale.csv",
        reference="exhale",
        transform=expansion / "from_inhale.tfm",
    )
    assert any("exchange the two" in text for text in found.report["warnings"])
    assert found.report["verdict"]["color"] != "green"
    assert found.rows[0]["ventilation"] == pytest.approx(1 / RATIO - 1, rel=0.01)
    # Three components of 1.5 mm each.
    assert found.report["error"]["deviation_mm"] == pytest.approx(np.sqrt(np.mean(missed**2)), rel=0.01)
    assert "40 landmarks" in found.report["error"]["source"]


def test_landmarks_elsewhere_tell_nothing_of_the_lungs(expansion):
    """As those of the liver: they are measured, but the lungs' error is that of their surfaces."""
    below = MIDDLE + np.array([[0.0, 0, -130], [10, 5, -135]])
    exhaled = MIDDLE + (below - MIDDLE) @ np.linalg.inv(GRADIENT).T + (9.0, 0, 0)
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    lungs = {f"{phase}_lungs": expansion / f"{phase}_labels.nii.gz" for phase in ("inhale", "exhale")}
    points = {"inhale_points": below, "exhale_points": exhaled}
    report = review(*at, **lungs, **points, transform=expansion / "from_inhale.tfm").report
    assert report["quality"]["landmarks"]["after_mm"]["mean"] == pytest.approx(9, rel=0.01)
    assert "for want of landmarks" in report["error"]["source"] and report["error"]["deviation_mm"] < 3


def test_lungs_that_are_missed_make_it_red(expansion):
    """Shifted by more than a lung is wide: whatever the images look like, no figure can be believed."""
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    missed = sitk.CompositeTransform([sitk.TranslationTransform(3, (0, 70, 0)), shrinking(expansion)])
    verdict = review(*at, transform=missed).report["verdict"]
    assert verdict["color"] == "red" and "the lungs overlap" in verdict["reasons"][0]


def test_a_poor_registration_is_doubted(expansion):
    """Half of the way, and shifted upward by 40 mm: lungs that lie apart, of another volume, partly not in the scan."""
    half = AXES @ np.diag(STRETCH**-0.5) @ AXES.T
    poor = sitk.AffineTransform(3)
    poor.SetMatrix(half.ravel().tolist())
    poor.SetTranslation((MIDDLE - half @ MIDDLE - (0, 0, 40)).tolist())
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    report = review(*at, transform=poor).report
    assert report["verdict"]["color"] == "red"
    said = report["verdict"]["reasons"]
    carried, own = (f"{4 / 3 * np.pi * 42 * 58 * 80 * 2 / 1000 * k:.0f}"[:2] for k in (RATIO**0.5, 1))
    for words in ("overlap less", f"gives the lungs {carried}", f"outlines hold {own}", "mm apart", "in one frame"):
        assert any(words in text for text in said), (words, said)


def test_simulated_breathing_is_told_as_it_was(tmp_path):
    """A breath that slides and differs from place to place, given as a field: means in each region are the truth's."""
    pair = breathing_thorax(size=(56, 46, 40), spacing=(5.4, 5.4, 7), noise_hu=0)
    labels = sitk.GetArrayFromImage(pair.moving_labels)
    lungs = np.where(labels <= 2, labels, 0).astype(np.uint8)
    grid = grid_of(pair.moving)
    breathed = breathe(sitk.GetArrayFromImage(pair.moving), grid, lungs, Breath(18, 4, 0.0))
    found = review(
        scalar_image(breathed.values, grid),
        pair.moving,
        inhale_lungs=scalar_image(breathed.lungs, grid),
        exhale_lungs=scalar_image(lungs, grid),
        names={1: "right lung", 2: "left lung"},
        transform=truth(breathed, grid).to_itk(),
    )
    inside = breathed.lungs > 0
    ratio = 1 / breathed.volume_ratio[inside]
    expected = np.average(ratio - 1, weights=1 / ratio)
    assert found.rows[0]["ventilation"] == pytest.approx(expected, rel=0.03)
    told = sitk.GetArrayFromImage(found.maps["ventilation"])[inside]
    assert np.corrcoef(told, ratio)[0, 1] > 0.97
    assert found.report["evidence"]["carried_ml"] == pytest.approx(found.report["volumes_ml"]["exhale"], rel=0.03)


def test_registered_by_itself():
    """Without a transform: the motion of the phantom is found, and what the lungs say supports it."""
    pair = breathing_thorax(size=(56, 46, 40), spacing=(5.4, 5.4, 7))
    found = review(pair.fixed, pair.moving, working_size=48)
    lungs = sitk.GetArrayFromImage(found.lungs) > 0
    points = grid_of(found.lungs).to_world(np.argwhere(lungs)[:, ::-1])
    true = np.linalg.norm(pair.motion(points) - points, axis=1)
    told = sitk.GetArrayFromImage(found.maps["displacement"])[lungs]
    assert np.abs(told - true).mean() < 0.3 * true.mean()
    evidence = found.report["evidence"]
    assert evidence["dice_after"] > evidence["dice_before"] + 0.02
    assert found.report["model"]["name"] == "generic"
    for row in found.rows:
        assert found.lungs[tuple(found.lungs.TransformPhysicalPointToIndex(row["center_mm"]))] > 0


def test_on_paper_it_is_the_same(expansion):
    """What Slicer makes a PDF of: the same pictures and figures, without what Qt's rich text does not know."""
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    found = review(*at, transform=expansion / "from_inhale.tfm")
    screen, paper = (render(found, printed) for printed in (False, True))
    pictures = [set(re.findall(r"base64,([^\"]+)", page)) for page in (screen, paper)]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 15
    rows = [re.findall(r"\d+\.\d+ ± \d+\.\d+", page) for page in (screen, paper)]
    assert rows[0] == rows[1] and len(rows[0]) > 10
    assert "<style" not in paper and "<svg" not in paper and "not named in this report" in paper


def test_options_that_cannot_be(expansion, refused, tmp_path):
    both = of(expansion)
    refused("lung", "--inhale", both[1], "--exhale", both[1], words=("inhale and exhale are the same scan",))
    refused(
        "lung", *both, "--transform", expansion / "from_inhale.tfm", "--refine", 3, words=("transform", "refinement")
    )
    for option in (("--align", "center"), ("--working-size", 64), ("--seed", 3)):
        transform = ["--transform", expansion / "from_inhale.tfm", *option]
        refused("lung", *both, *transform, words=("transform that is given", option[0][2:].split("-")[0]))
    refused("lung", *both[:-2], "--names", "7=lung", words=("inhale", "--names"))
    refused("lung", *of(expansion, labels=False), "--names", "1=lung", words=("--inhale-labels",))
    refused("lung", *both, "--inhale-points", "missing.csv", words=("both images",))
    image = sitk.ReadImage(str(expansion / "inhale_Doe_John.nii.gz"))
    head = sitk.GaussianSource(sitk.sitkFloat32, image.GetSize(), [8.0] * 3, [n / 2 for n in image.GetSize()])
    for name in ("mri", "again"):
        sitk.WriteImage(head, str(tmp_path / f"{name}.nii.gz"))
    at_exhale = of(expansion, labels=False)[2:]
    refused("lung", "--inhale", tmp_path / "mri.nii.gz", *at_exhale, words=("no CT numbers", "--inhale-labels"))
    both = ("--inhale", tmp_path / "mri.nii.gz", "--exhale", tmp_path / "again.nii.gz")
    refused("lung", *both, words=("inhale", "lung-breathing", "--inhale-labels"))


def test_what_cannot_be_told(expansion):
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    with pytest.raises(InputError, match="'inhale' or 'exhale'"):
        review(*at, reference="fixed")
    with pytest.raises(InputError, match="two phases of breathing"):
        review(at[0], at[0], transform=sitk.TranslationTransform(3))
    fold = sitk.AffineTransform(3)
    fold.SetMatrix(np.diag([1.0, 1, -1]).ravel().tolist())
    with pytest.raises(InputError, match="folds"):
        review(*at, transform=fold)


def test_a_transform_that_leads_elsewhere(expansion):
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    with pytest.raises(InputError, match=r"takes 100 % of the lungs outside the exhale image; give"):
        review(
            *at, transform=sitk.CompositeTransform([sitk.TranslationTransform(3, (0, 0, 900)), shrinking(expansion)])
        )


def shrinking(expansion: Path) -> sitk.Transform:
    return sitk.ReadTransform(str(expansion / "from_inhale.tfm"))


def with_values(path: Path, change) -> sitk.Image:
    """A label map whose (D, H, W) values are changed."""
    image = sitk.ReadImage(str(path))
    out = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    out.CopyInformation(image)
    return out


def test_labels_that_are_not_what_they_seem(expansion):
    """A single voxel, all of the image, sides that are exchanged in one scan, and names that name nothing."""
    at = [expansion / f"{phase}_Doe_John.nii.gz" for phase in ("inhale", "exhale")]
    labels = [expansion / f"{phase}_labels.nii.gz" for phase in ("inhale", "exhale")]
    transform = expansion / "from_inhale.tfm"

    def told(inhale_lungs, exhale_lungs, **options):
        given = {"inhale_lungs": inhale_lungs, "exhale_lungs": exhale_lungs, "transform": transform}
        return review(*at, **given, **options).report

    single = with_values(labels[0], lambda values: np.where(np.arange(values.size) == 5e4, 1, 0).reshape(values.shape))
    with pytest.raises(InputError, match="inhale: the label map holds but 1 voxel of lung"):
        told(sitk.Cast(single, sitk.sitkUInt8), labels[1])
    with pytest.raises(InputError, match="every voxel is 1, which outlines nothing"):
        told(labels[0], with_values(labels[1], np.ones_like))
    with pytest.raises(InputError, match="inhale: the label map leaves nothing outside the lungs"):
        told(with_values(labels[0], lambda values: values + np.uint8(1)), labels[1])
    swapped = with_values(labels[1], lambda values: np.array([0, 2, 1], np.uint8)[values])
    assert any("1 and 2 lie the other way round" in text for text in told(labels[0], swapped)["warnings"])
    names = {1: "right lung", 2: "left lung"}
    sides = [text for text in told(labels[0], swapped, names=names)["warnings"] if "left" in text]
    assert len(sides) == 1 and sides[0].startswith("exhale")
    typed = told(*labels, names={1: "right lung", 3: "left lung"})["warnings"]
    assert any("no label map holds 3 (left lung); label 2 has no name" in text for text in typed)
    assert any("the right one alone is named" in text for text in typed)
    assert not any("named" in text or "no name" in text for text in told(*labels, names=names)["warnings"])
    gray = with_values(labels[0], lambda values: np.arange(values.size, dtype=np.uint32).reshape(values.shape) % 99)
    with pytest.raises(InputError, match="inhale: the label map holds 98 labels: is it an image"):
        told(gray, labels[1])
    report = told(None, labels[1], names={1: "one", 2: "two"})
    assert [row["region"] for row in report["regions"]][1:3] == ["right lung", "left lung"]
    assert any("found by density" in note for note in report["notes"])


def test_the_folder_of_something_else_stays(expansion, refused, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    transform = ["--transform", expansion / "from_inhale.tfm"]
    refused("lung", *of(expansion), *transform, "--overwrite", output=other, words=("notes.txt",))
    assert (other / "notes.txt").read_text() == "mine"
