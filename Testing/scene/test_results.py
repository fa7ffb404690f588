"""What a registration leaves in a scene: real results of the worker process in Slicer's real MRML."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
import vtk
from JointRegSegLib.errors import InputError
from JointRegSegLib.scene import results, volumes
from people import person
from samples import array

RAS = np.array([-1, -1, 1])


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
    assert [colors.GetColorName(i) for i in (1, 2)] == ["agree", "disagree"] and not colors.GetColorDefined(0)


def test_nothing_of_the_users_is_touched_and_removal_leaves_nothing(scene, add, images, answer):
    nodes = [add(image, name) for name, image in images.items()]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = {scene.GetNthNode(i).GetID(): scene.GetNthNode(i).GetMTime() for i in range(scene.GetNumberOfNodes())}
    items = hierarchy.GetNumberOfItems()
    first, second = (results.put(scene, *answer, *nodes) for _ in "12")
    assert first.nodes["warped"].GetName() != second.nodes["warped"].GetName()
    for node in nodes:
        assert node.GetMTime() == before[node.GetID()]
    gone = first.nodes["warped"]
    results.remove(scene, first)
    assert scene.IsNodePresent(second.nodes["warped"]) and not scene.IsNodePresent(gone)
    results.remove(scene, second)
    after = {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
    assert after == set(before), [scene.GetNodeByID(i).GetName() for i in after - set(before)]
    assert hierarchy.GetNumberOfItems() == items


def test_identifiers_and_roles_find_a_result_again(scene, add, images, answer):
    nodes = [add(image, name) for name, image in images.items()]
    first, second = (results.put(scene, *answer, *nodes) for _ in "12")
    assert results.identifiers(scene) == [first.identifier, second.identifier]
    found = results.find(scene, second.identifier)
    assert found == second
    results.remove(scene, second)
    assert results.find(scene, second.identifier) is None and results.identifiers(scene) == [first.identifier]
    assert results.find(scene, first.identifier).nodes == first.nodes


def test_a_saved_scene_brings_its_results_back(shown, scene, tmp_path):
    _, result = shown
    warped = volumes.values_of(result.nodes["warped"]).copy()
    kept = {role: node.GetName() for role, node in result.nodes.items()}
    results.hidden(scene, result, "vtkMRMLScalarVolumeNode", "helper")
    package = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(package))
    identifier, report = result.identifier, result.report
    scene.Clear(True)
    assert result.get("warped") is None and results.identifiers(scene) == []
    assert scene.ReadFromMRB(str(package))
    found = results.find(scene, identifier)
    assert {role: node.GetName() for role, node in found.nodes.items()} == kept
    assert found.report == report and found.verdict == result.verdict
    np.testing.assert_array_equal(volumes.values_of(found.nodes["warped"]), warped)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemName(found.folder) == "moving to fixed"
    results.remove(scene, found)
    assert results.identifiers(scene) == []


def test_what_the_user_removed_is_named_when_it_is_needed(shown, scene):
    _, result = shown
    assert result.get("warped") is result.need("warped")
    scene.RemoveNode(result.nodes["jacobian"])
    assert result.get("jacobian") is None
    for role, words in (
        ("jacobian", "no Jacobian map in the scene; tick Jacobian map under Advanced, Outputs"),
        ("inverse", "no inverse transform in the scene; tick Inverse transform under Advanced, Outputs, and register"),
        ("warped", "no warped volume in the scene; register again"),
    ):
        if result.get(role) is not None:
            scene.RemoveNode(result.nodes[role])
        with pytest.raises(InputError, match=words):
            result.need(role)
    with pytest.raises(InputError, match="no moving mesh"):
        result.need("moving_mesh")


def test_without_its_folder_a_result_still_works(shown, scene):
    _, result = shown
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.RemoveItem(result.folder, False, False)
    found = results.find(scene, result.identifier)
    assert found.folder == 0 and found.nodes == result.nodes
    extra = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    results.adopt(found, "extra", extra)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(extra)) == hierarchy.GetSceneItemID()
    results.remove(scene, found)
    assert results.identifiers(scene) == []


def test_a_folder_that_outlived_its_result_is_left_alone(scene, add, images, answer):
    nodes = [add(image, name) for name, image in images.items()]
    first = results.put(scene, *answer, *nodes)
    for node in first.nodes.values():
        scene.RemoveNode(node)
    second = results.put(scene, *answer, *nodes)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(second.nodes["warped"])
    assert hierarchy.GetItemParent(item) == second.folder != first.folder


def test_results_to_choose_from(scene, add, images, answer):
    nodes = [add(image, name) for name, image in images.items()]
    first, second = (results.put(scene, *answer, *nodes) for _ in "12")
    first.report["started"] = "2026-01-02T03:04:05+00:00"
    results.write_report(first)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.SetItemName(second.folder, "the better one")
    model = first.report["model"]["name"]
    assert results.entries(scene) == [
        results.Entry(first.identifier, "moving to fixed", "2026-01-02T03:04:05+00:00", model, first.verdict),
        results.Entry(second.identifier, "the better one", "", model, second.verdict),
    ]
    scene.RemoveNode(second.nodes["provenance"])
    assert results.entries(scene)[1] == results.Entry(second.identifier, "the better one", "", "", "")
    hierarchy.RemoveItem(second.folder, False, False)
    for role in ("warped", "transform"):
        assert len(results.entries(scene)) == 2
        scene.RemoveNode(second.nodes[role])
    assert [entry.identifier for entry in results.entries(scene)] == [first.identifier]


def test_a_copy_that_a_user_made_is_the_users_own(shown, scene):
    _, result = shown
    original = result.nodes["jacobian"]
    copy = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    copy.Copy(original)  # as Slicer clones: attributes, references and all
    copy.SetName("my copy")
    assert results.find(scene, result.identifier).nodes["jacobian"] is original
    scene.RemoveNode(original)
    found = results.find(scene, result.identifier)
    assert found.get("jacobian") is None
    results.sweep(scene)
    results.remove(scene, found)
    assert scene.IsNodePresent(copy) and results.identifiers(scene) == []


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"note": 1}', '{"verdict": [], "quality": {}}'])
def test_a_report_that_is_none_any_more(shown, scene, text):
    _, result = shown
    result.nodes["provenance"].SetText(text)
    assert results.find(scene, result.identifier).report == {}
    assert [entry.verdict for entry in results.entries(scene)] == [""]


def test_an_imported_scene_keeps_its_results_apart(shown, scene, tmp_path):
    """Import gives nodes other identifiers where theirs are taken; the references follow."""
    assert shown[1].nodes
    package = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(package))
    count = len([n for n in map(scene.GetNthNode, range(scene.GetNumberOfNodes())) if results.owns(n)])
    assert scene.ReadFromMRB(str(package), False)
    assert len([n for n in map(scene.GetNthNode, range(scene.GetNumberOfNodes())) if results.owns(n)]) == 2 * count
