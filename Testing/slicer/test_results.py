"""What a registration leaves in a scene: real results of the worker process in Slicer's real MRML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.client import Worker
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from JointRegSegLib.scene import results, volumes
from samples import CENTER, Scene, array, label_map, motion, volume

KNOWN = motion((4, 0, -5), (1, 1, 1), (2, -2, 1))
RAS = np.array([-1, -1, 1])
PATIENCE = 240


def person(seed: int) -> Scene:
    """About as large as what `symmetric-hippocampus` knows."""
    places, radii = [[0, 0, 0], [-2, 8, 2], [2, -8, -2]], [[14, 22, 14], [6, 9, 6], [5, 10, 5]]
    scene = Scene(CENTER + places, np.array(radii, float), np.array([100.0, 90.0, -40.0]), 1.5, 60.0)
    return scene.varied(seed, 1.0)


@pytest.fixture(scope="module")
def images() -> dict[str, sitk.Image]:
    tilted = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.diag([1, -1, 1])
    grids = (
        Grid.centered(CENTER, (34, 50, 36), (1, 1, 1), np.eye(3)),
        Grid.centered(CENTER, (36, 48, 30), (1, 1.1, 1.2), tilted),
    )
    return {"fixed": volume(person(0), grids[0]), "moving": volume(person(1), grids[1], KNOWN)}


@pytest.fixture(scope="module")
def answer(images, tmp_path_factory) -> tuple[Path, dict]:
    """Folder and 'result' event of the worker."""
    folder = tmp_path_factory.mktemp("job")
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    options = {"model": "symmetric-hippocampus", "refine": 3}
    with Worker() as worker:
        number = worker.submit(
            "register", folder=str(folder), fixed="fixed.nrrd", moving="moving.nrrd", options=options
        )
        event = worker.wait(number, timeout=PATIENCE)
    # The model finds nothing in an image from formulas: the scene gets segmentations of known content instead.
    for name, scene, known in (("fixed", person(0), None), ("moving", person(1), KNOWN), ("warped", person(1), None)):
        image = images["moving" if name == "moving" else "fixed"]
        sitk.WriteImage(label_map(scene, grid_of(image), known), str(folder / event["files"][f"{name}_segmentation"]))
    return folder, event


@pytest.fixture
def shown(scene, add, images, answer) -> tuple[dict, results.SceneResult]:
    nodes = {name: add(image, name) for name, image in images.items()}
    nodes["moving"].GetDisplayNode().SetAutoWindowLevel(False)
    nodes["moving"].GetDisplayNode().SetWindowLevel(123, 45)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    item = hierarchy.GetItemByDataNode(nodes["moving"]) or hierarchy.CreateItem(patient, nodes["moving"])
    hierarchy.SetItemParent(item, patient)
    nodes["patient"] = patient
    return nodes, results.put(scene, *answer, nodes["fixed"], nodes["moving"])


def test_everything_is_there_and_named(shown):
    _, result = shown
    assert set(result.nodes) == {
        "warped",
        "transform",
        "inverse",
        "jacobian",
        "fixed_segmentation",
        "moving_segmentation",
        "warped_segmentation",
        "agreement",
        "agreement_colors",
        "provenance",
    }
    assert result.nodes["warped"].GetName() == "moving warped"
    assert result.nodes["transform"].GetName() == "moving to fixed"
    assert json.loads(result.nodes["provenance"].GetText())["model"]["sha256"]
    assert result.verdict in ("green", "amber", "red")


def test_the_folder_lies_beside_the_moving_volume(shown, scene):
    nodes, result = shown
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemParent(result.folder) == nodes["patient"]
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(result.folder, children)
    found = {hierarchy.GetItemDataNode(children.GetId(i)).GetID() for i in range(children.GetNumberOfIds())}
    assert found == {n.GetID() for key, n in result.nodes.items() if key != "agreement_colors"}


def test_the_warped_volume_lies_on_the_fixed_one_and_looks_like_the_moving_one(shown, answer):
    nodes, result = shown
    warped = result.nodes["warped"]
    np.testing.assert_allclose(volumes.affine_of(warped), volumes.affine_of(nodes["fixed"]), atol=1e-5)
    expected = array(answer[0] / answer[1]["files"]["warped"])
    assert np.array_equal(volumes.values_of(warped), expected)
    assert (warped.GetDisplayNode().GetWindow(), warped.GetDisplayNode().GetLevel()) == (123, 45)


def test_slicer_makes_the_same_warped_volume_from_the_transform_node(shown, resampled):
    nodes, result = shown
    nodes["moving"].SetAndObserveTransformNodeID(result.nodes["transform"].GetID())
    there = volumes.values_of(resampled(nodes["moving"], nodes["fixed"])).astype(float)
    here = volumes.values_of(result.nodes["warped"]).astype(float)
    inner = (slice(6, -6), slice(8, -8), slice(6, -6))
    assert np.abs(there - here)[inner].max() < 0.01 * np.ptp(here)


def test_forward_and_inverse_bring_markups_back(shown, images):
    _, result = shown
    points = person(0).centers + np.array([2, 3, -4])
    for there, back in (("transform", "inverse"), ("inverse", "transform")):
        for point in points:
            middle, end = [0.0] * 3, [0.0] * 3
            result.nodes[there].GetTransformFromParent().TransformPoint(list(point * RAS), middle)
            result.nodes[back].GetTransformFromParent().TransformPoint(middle, end)
            assert np.linalg.norm(np.array(end) * RAS - point) < 0.5
    references = [
        result.nodes["inverse"].GetNodeReference(f"spatialRegistration{x}").GetName() for x in ("Fixed", "Moving")
    ]
    assert references == ["moving", "fixed"]


def test_segments_have_names_colors_codes_and_every_voxel(shown, answer):
    nodes, result = shown
    folder, event = answer
    for key, reference in (("fixed_segmentation", "fixed"), ("moving_segmentation", "moving")):
        node = result.nodes[key]
        expected = array(folder / event["files"][key])
        names = [
            node.GetSegmentation().GetNthSegment(i).GetName()
            for i in range(node.GetSegmentation().GetNumberOfSegments())
        ]
        labels = [label for label in event["labels"] if label["value"] in expected]
        assert labels and names == [label["name"] for label in labels]
        assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is nodes[reference]
        for label in labels:
            segment = node.GetSegmentation().GetSegment(f"label_{label['value']}")
            assert segment.GetLabelValue() == label["value"]
            assert [round(255 * c) for c in segment.GetColor()] == [
                int(label["color"][i : i + 2], 16) for i in (1, 3, 5)
            ]
            tag = vtk.reference("")
            assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag) and "SCT^5366008" in str(tag)
            mask = slicer.vtkOrientedImageData()
            node.GetBinaryLabelmapRepresentation(f"label_{label['value']}", mask)
            assert (volumes.vtk_to_numpy(mask.GetPointData().GetScalars()) > 0).sum() == (
                expected == label["value"]
            ).sum()


def test_agreement_says_where_labels_differ(shown, answer):
    _, result = shown
    folder, event = answer
    a, b = (array(folder / event["files"][f"{x}_segmentation"]) for x in ("fixed", "warped"))
    found = volumes.values_of(result.nodes["agreement"])
    assert (found == 2).sum() == (a != b).sum() and (found == 1).sum() == ((a == b) & (a > 0)).sum()
    colors = result.nodes["agreement"].GetDisplayNode().GetColorNode()
    assert [colors.GetColorName(i) for i in range(3)] == ["background", "agree", "disagree"]


def test_nothing_of_the_users_is_touched_and_removal_leaves_nothing(scene, add, images, answer):
    nodes = [add(image, name) for name, image in images.items()]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = {scene.GetNthNode(i).GetID(): scene.GetNthNode(i).GetMTime() for i in range(scene.GetNumberOfNodes())}
    items = hierarchy.GetNumberOfItems()
    first, second = (results.put(scene, *answer, *nodes) for _ in "12")
    assert first.nodes["warped"].GetName() != second.nodes["warped"].GetName()
    for node in nodes:
        assert node.GetMTime() == before[node.GetID()]
    results.remove(scene, first)
    assert scene.IsNodePresent(second.nodes["warped"]) and not scene.IsNodePresent(first.nodes["warped"])
    results.remove(scene, second)
    after = {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
    assert after == set(before), [scene.GetNodeByID(i).GetName() for i in after - set(before)]
    assert hierarchy.GetNumberOfItems() == items
