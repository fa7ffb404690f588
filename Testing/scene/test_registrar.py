"""What scripts call, without a window: one pair, a sequence, a table; on real worker processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from JointRegSegLib import catalog
from JointRegSegLib.errors import Canceled, InputError, JointRegSegError, OutputError
from JointRegSegLib.scene import check, registrar, requirements, results, runs, volumes
from packaging.requirements import Requirement
from samples import fixed_grid, label_map, motion, moving_grid, thing, volume
from surroundings import image_of

KNOWN = motion(rotation=(4, -3, 5), shift=(3, -2, 2))
QUICK = {"working_size": 32}


@pytest.fixture(scope="module")
def logic():
    registrar_ = registrar.Registrar()
    yield registrar_
    registrar_.close()


@pytest.fixture
def pair(add):
    return add(volume(thing(), fixed_grid()), "F"), add(volume(thing(), moving_grid(), KNOWN), "M")


def markups(scene, points: np.ndarray) -> slicer.vtkMRMLMarkupsFiducialNode:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for x, y, z in points:
        node.AddControlPoint(-x, -y, z)
    return node


def test_a_script_gets_nodes_and_figures(logic, scene, pair):
    here = thing().centers
    there = here @ KNOWN[:3, :3].T + KNOWN[:3, 3]
    seen = []
    result = logic.registerAndSegment(
        *pair,
        points={"fixed": markups(scene, here), "moving": markups(scene, there)},
        outputs=("inverse",),
        progress=lambda stage, fraction: seen.append(stage),
    )
    assert result.verdict == "green" and "affine" in seen
    assert {"warped", "transform", "inverse", "provenance"} == set(result.nodes)
    landmarks = result.report["quality"]["landmarks"]
    shift = np.linalg.norm(here - there, axis=1).mean()
    assert landmarks["before_mm"]["mean"] == pytest.approx(shift, abs=1e-3) and landmarks["after_mm"]["mean"] < 1.5
    found = result.report["slicer_difference"]
    assert found["p99"] < 0.01 and found["compared"] > 1000
    first = result.nodes["warped"]
    again = logic.registerAndSegment(*pair, replace=result, **QUICK)
    assert not scene.IsNodePresent(first) and scene.IsNodePresent(again.nodes["warped"])
    with pytest.raises(Canceled):
        logic.registerAndSegment(*pair, progress=lambda stage, fraction: False)


def test_the_check_finds_a_wrong_axis(scene, pair):
    """Were one sign wrong, what Slicer shows would differ, and the check has to say so."""
    fixed, moving = pair
    image = image_of(moving, "moving volume")
    field = sitk.TransformToDisplacementField(
        sitk.TranslationTransform(3, (3.0, -2.0, 2.0)),
        sitk.sitkVectorFloat64,
        [20, 20, 20],
        image_of(fixed, "fixed volume").GetOrigin(),
        [3.0] * 3,
        image_of(fixed, "fixed volume").GetDirection(),
    )
    target = image_of(fixed, "fixed volume")
    warped = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volumes.fill(
        warped, sitk.Resample(image, target, sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.sitkLinear)
    )
    difference = {}
    for name, signs in (("right", (1, 1, 1)), ("wrong", (1, -1, 1))):
        vectors = sitk.GetImageFromArray(sitk.GetArrayFromImage(field) * signs, isVector=True)
        vectors.CopyInformation(field)
        transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
        transform.SetAndObserveTransformFromParent(volumes.grid_transform(vectors))
        difference[name] = check.transform_difference(image, warped, transform)
    assert difference["right"]["mean"] < 1e-3 < 0.01 < difference["wrong"]["mean"]


def test_the_check_knows_that_whole_numbers_have_no_fractions(scene, pair):
    """A warped volume of few whole numbers is the right one, and one that is off by two units is not."""
    fixed, moving = (image_of(node, "v") for node in pair)
    small = sitk.Cast(sitk.RescaleIntensity(moving, 0, 20), sitk.sitkUInt8)
    shift = sitk.TranslationTransform(3, (1.3, -0.7, 0.4))
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    field = sitk.TransformToDisplacementField(
        shift, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    transform.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    right = sitk.Resample(small, fixed, shift, sitk.sitkLinear)
    found = []
    for image in (right, right + 2):
        warped = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        volumes.fill(warped, image)
        found.append(check.transform_difference(small, warped, transform))
    assert found[0]["mean"] < 1e-3 < 0.02 < found[1]["mean"]


def test_labels_are_refused_wherever_nodes_are_given(logic, scene, pair):
    fixed, _ = pair
    labels = slicer.vtkMRMLLabelMapVolumeNode()
    volumes.fill(labels, label_map(thing(), fixed_grid()))
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "breath")
    sequence.SetDataNodeAtValue(labels, "0")
    with pytest.raises(InputError, match="'breath': holds no images"):
        logic.registerSequence(fixed, sequence)
    inserted = scene.AddNode(labels)
    for call in (logic.registerAndSegment, logic.registerSequence):
        with pytest.raises(InputError, match="is a label map; choose the image it was drawn on"):
            call(inserted, sequence if call == logic.registerSequence else fixed)


def test_points_that_were_not_placed_are_no_landmarks(scene):
    node = markups(scene, np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]))
    assert runs.points_of(node) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    node.SetNthControlPointLabel(1, "carina")
    node.UnsetNthControlPointPosition(1)
    with pytest.raises(InputError, match=r"1 of its points are not placed \('carina'\); place or delete"):
        runs.points_of(node)
    node.RemoveNthControlPoint(1)
    node.SetNthControlPointPositionMissing(0)
    with pytest.raises(InputError, match="1 of its points are not placed"):
        runs.points_of(node)
    node.UnsetAllControlPoints()
    with pytest.raises(InputError, match="2 of its points"):
        runs.points_of(node)


def test_a_list_of_cases_is_called_that(logic, tmp_path):
    for cases in ([{"case": "a", "fixed": "f.nrrd"}], [{"fixed": "f.nrrd", "moving": "m.nrrd", "speed": "9"}]):
        with pytest.raises(InputError, match=r"^cases: ") as caught:
            logic.registerBatch(cases, tmp_path / "out")
        assert "cases.csv" not in str(caught.value)
    table = tmp_path / "table.csv"
    table.write_text("fixed\nf.nrrd\n")
    with pytest.raises(InputError, match=r"table\.csv: lacks"):
        logic.registerBatch(table, tmp_path / "out")


def test_missing_packages_are_named_and_nothing_starts(logic, pair, monkeypatch):
    monkeypatch.setattr(requirements, "missing", lambda: ["torch"])
    with pytest.raises(requirements.MissingPackages, match="torch"):
        logic.registerAndSegment(*pair)


def test_packages_that_are_too_old_count_as_missing(monkeypatch):
    assert not requirements.missing()
    monkeypatch.setitem(requirements.PACKAGES, "tqdm", "tqdm>=1000")
    monkeypatch.setattr(requirements, "TORCH", Requirement("torch>=1000"))
    assert requirements.missing() == ["torch", "tqdm"]
    with pytest.raises(requirements.MissingPackages, match=r"PyTorch 2\S* is installed, and >=1000 is needed"):
        requirements.install(["torch"])


def test_bad_arguments_are_named_and_leave_nothing(logic, scene, pair, tmp_path):
    fixed, moving = pair
    empty = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    text = scene.AddNewNodeByClass("vtkMRMLTextNode")
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    sequence.SetDataNodeAtValue(moving, "0")
    register, frames, batch = logic.registerAndSegment, logic.registerSequence, logic.registerBatch
    before = scene.GetNumberOfNodes()
    for call, message in (
        (lambda: register(fixed, moving, outputs=["foo"]), "unknown output 'foo'"),
        (lambda: register(fixed, moving, speed=9), "unknown option 'speed'"),
        (lambda: register(fixed, moving, refine="x"), "whole number"),
        (lambda: register(fixed, moving, seed=10**30), "whole number"),
        (lambda: register(fixed, "moving.nrrd"), "is no volume node but str"),
        (lambda: register(fixed, text), "is no volume node"),
        (lambda: register(fixed, moving, labels={"foo": fixed}), "not by 'foo'"),
        (lambda: register(fixed, moving, points={"fixed": empty, "moving": empty}), "at least one point"),
        (lambda: register(fixed, moving, points={"fixed": markups(scene, thing().centers)}), "for both images"),
        (lambda: frames(fixed, sequence, speed=9), "unknown option 'speed'"),
        (lambda: batch([{"fixed": "f", "moving": "m"}], tmp_path, speed=9), "unknown option 'speed'"),
        (lambda: frames(fixed, None), "no sequence"),
        (lambda: frames(None, sequence), "no fixed volume"),
        (lambda: frames(fixed, sequence, model="none"), "no model 'none'"),
        (lambda: batch([fixed, moving], tmp_path), "list of dictionaries"),
        (lambda: batch([{"fixed": fixed, "moving": moving}], tmp_path), "cases name files"),
        (lambda: batch(7, tmp_path), "list of dictionaries"),
    ):
        with pytest.raises(JointRegSegError, match=message):
            call()
    for node in scene.GetNodesByClass("vtkMRMLMarkupsFiducialNode"):
        if node is not empty:
            scene.RemoveNode(node)
    assert scene.GetNumberOfNodes() == before
    assert register(fixed, moving, seed=np.int64(3), **QUICK).report["settings"]["seed"] == 3


def test_two_runs_at_once_both_come_to_an_end(logic, pair):
    first = logic.start(*pair, {"model": "generic", **QUICK})
    second = logic.registerAndSegment(*pair, **QUICK)
    assert first.wait().nodes["warped"] is not second.nodes["warped"]


def test_a_result_that_cannot_be_shown_leaves_the_last_one(logic, scene, pair, monkeypatch):
    last = logic.registerAndSegment(*pair, **QUICK)
    before = scene.GetNumberOfNodes()
    monkeypatch.setattr(results, "_text", lambda *a: (_ for _ in ()).throw(MemoryError("no memory")))
    with pytest.raises(JointRegSegError, match="could not be put into the scene"):
        logic.registerAndSegment(*pair, replace=last, **QUICK)
    assert scene.GetNumberOfNodes() == before and scene.IsNodePresent(last.nodes["warped"])


def test_volumes_that_are_next_to_nothing_are_refused(logic, scene, pair):
    fixed, moving = pair
    flat = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "flat")
    flat.SetMatrixTransformToParent(volumes.to_vtk(np.diag([0.0, 1, 1, 1])))
    moving.SetAndObserveTransformNodeID(flat.GetID())
    with pytest.raises(InputError, match="'flat' flattens it"):
        logic.registerAndSegment(fixed, moving)
    moving.SetAndObserveTransformNodeID(None)
    moving.SetSpacing(1e-9, 1, 1)
    with pytest.raises(InputError, match="next to nothing"):
        logic.registerAndSegment(fixed, moving)


def test_no_place_for_temporary_files(logic, pair, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="TMPDIR"):
        logic.registerAndSegment(*pair)


def test_all_frames_of_a_sequence(logic, scene, pair):
    fixed, _ = pair
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "breath")
    sequence.SetIndexName("phase")
    shifts = (1.0, 3.0)
    for shift in shifts:
        frame = slicer.vtkMRMLScalarVolumeNode()
        volumes.fill(frame, volume(thing(), moving_grid(), motion(shift=(shift, 0, 0))))
        sequence.SetDataNodeAtValue(frame, str(shift))
    sequence.SetDataNodeAtValue(slicer.vtkMRMLScalarVolumeNode(), "9")
    sequence.SetDataNodeAtValue(slicer.vtkMRMLModelNode(), "99")
    before = scene.GetNumberOfNodes()
    out = logic.registerSequence(fixed, sequence, **QUICK)
    assert scene.GetNumberOfNodes() == before + 2  # the two sequences, no frame and no result beside them
    assert out.warped.GetNumberOfDataNodes() == out.transforms.GetNumberOfDataNodes() == 2
    assert "holds no image" in out.failures[2] and "no scalar volume" in out.failures[3]
    assert out.reports[2] is out.reports[3] is None
    point = thing().centers[1]
    for number, shift in enumerate(shifts):
        assert out.warped.GetNthIndexValue(number) == str(shift)
        end = [0.0] * 3
        transform = out.transforms.GetNthDataNode(number).GetTransformFromParent()
        transform.TransformPoint(list(point * (-1, -1, 1)), end)
        assert np.array(end) * (-1, -1, 1) - point == pytest.approx([shift, 0, 0], abs=1.0)
    with pytest.raises(InputError, match="holds no images"):
        logic.registerSequence(fixed, scene.AddNewNodeByClass("vtkMRMLSequenceNode"))


def test_a_table_with_a_bad_case_and_one_that_kills_the_process(logic, tmp_path):
    sitk.WriteImage(volume(thing(), fixed_grid()), str(tmp_path / "f.nrrd"))
    sitk.WriteImage(volume(thing(), moving_grid(), KNOWN), str(tmp_path / "m.nrrd"))
    good = {"fixed": str(tmp_path / "f.nrrd"), "moving": str(tmp_path / "m.nrrd")}
    cases = [
        {"case": "a", **good},
        {"case": "deadly", **good},
        {"case": "bad", "fixed": good["fixed"], "moving": str(tmp_path / "none.nrrd")},
        {"case": "z", **good},
    ]
    killed = []

    def follow(case: str, fraction: float) -> None:
        if case == "deadly" and not killed:
            killed.append(case)
            os.kill(logic.worker._process.pid, signal.SIGKILL)

    out = logic.registerBatch(cases, tmp_path / "out", progress=follow, **QUICK)
    assert [row["status"] for row in out.rows] == ["kept", "failed", "failed", "done"]
    reasons = {row["case"]: row["reason"] for row in out.failed}
    assert "ended by itself" in reasons["deadly"] and "no such file" in reasons["bad"]
    with out.summary.open() as stream:
        assert [row["case"] for row in csv.DictReader(stream)] == ["a", "deadly", "bad", "z"]
    again = logic.registerBatch(cases, tmp_path / "out", **QUICK)
    assert [row["status"] for row in again.rows] == ["kept", "done", "failed", "kept"]
    with pytest.raises(InputError, match="empty"):
        logic.registerBatch([], tmp_path / "out")


def test_domain_and_memory_are_known_before_a_run(add):
    entry = next(e for e in catalog.entries() if e["name"] == "symmetric-hippocampus")
    high = entry["domain"]["spacing"][1]
    size = int(entry["domain"]["extent"][1] / high)
    image = sitk.Image([size] * 3, sitk.sitkInt16)
    fits, coarse = add(image, "fits"), sitk.Image(image)
    fits.SetSpacing([high] * 3)
    coarse.SetSpacing([4 * high] * 3)
    assert registrar.outside_domain(fits, "Fixed", entry) is None
    assert "spacing" in registrar.outside_domain(add(coarse, "coarse"), "Fixed", entry)
    assert registrar.outside_domain(fits, "Fixed", catalog.GENERIC_ENTRY) is None
    small = registrar.memory_needed(fits, fits, entry, 112)
    large = registrar.memory_needed(add(sitk.Image([4 * size] * 3, sitk.sitkInt16), "large"), fits, entry, 112)
    anew = {"preprocessing": {"size": [16] * 3}, "refinement": {"anew": True}}  # it needs as much as generic does
    assert registrar.memory_needed(fits, fits, anew, 112) == registrar.memory_needed(fits, fits, {}, 112)
    own = registrar.memory_needed(fits, fits, anew | {"refinement": {}}, 112)
    assert own < registrar.memory_needed(fits, fits, anew, 112)
    assert 0 < small < large


def test_importing_the_library_for_a_window_takes_no_torch(tmp_path):
    code = (
        "import sys; import JointRegSegLib.scene.registrar, JointRegSegLib.samples; assert 'torch' not in sys.modules"
    )
    library = Path(registrar.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(library)})
