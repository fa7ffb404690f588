"""A lung review from nodes to nodes: real worker processes, and what is seen of it."""

from __future__ import annotations

import numpy as np
import pytest
import rendering
import SimpleITK as sitk
import slicer
import vtk
from breath import known_registration, thorax
from JointRegSegLib.client import Worker
from JointRegSegLib.errors import InputError
from JointRegSegLib.scene import layout, lung, results, volumes
from JointRegSegLib.scene.registrar import Registrar

SIZE = (240, 240)


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


@pytest.fixture(scope="module")
def pair():
    return thorax()


@pytest.fixture(scope="module")
def known(pair, tmp_path_factory):
    return known_registration(tmp_path_factory.mktemp("known"), pair)


@pytest.fixture
def breathing(scene, add, pair, known):
    """Both scans and their registration in the scene."""
    nodes = {"fixed": add(pair.fixed, "Inhale"), "moving": add(pair.moving, "Exhale")}
    return nodes, results.put(scene, *known, nodes["fixed"], nodes["moving"])


@pytest.fixture
def reviewed(worker, scene, breathing):
    """A review in the scene."""
    nodes, result = breathing
    return nodes, lung.LungRun(worker, scene, result, *nodes.values()).wait()


def point_list(scene, points: np.ndarray) -> slicer.vtkMRMLMarkupsFiducialNode:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for x, y, z in points:
        node.AddControlPoint(-x, -y, z)
    return node


def test_from_nodes_to_nodes(scene, pair, reviewed):
    _, review = reviewed
    rows = {row["region"]: row for row in review.report["regions"]}
    assert {"lungs", "right lung", "left lung", "upper zone", "core"} <= rows.keys()
    ventilation = volumes.values_of(review.maps["ventilation"])
    assert rows["lungs"]["ventilation"] > 0.05 and np.isfinite(ventilation).any()
    # Displacements are those of the known motion, where the lungs are.
    moved = volumes.values_of(review.maps["displacement"])
    inside = volumes.values_of(review.result.nodes[lung.LABELS]) > 0
    assert (np.isfinite(moved) == inside).all()
    place = np.argwhere(inside)[:, ::-1]
    here = volumes.placed(volumes.affine_of(review.maps["displacement"]), place)
    expected = np.linalg.norm(pair.motion(here) - here, axis=1)
    np.testing.assert_allclose(moved[inside], expected, atol=0.05)
    text = review.result.nodes[lung.REPORT].GetText()
    assert lung.find(scene, review.result).report == review.report and "Inhale" not in text
    assert results.find(scene, review.result.identifier).nodes.keys() == review.result.nodes.keys()


def test_again_replaces_and_removing_leaves_nothing(worker, scene, pair, breathing, reviewed):
    nodes, review = reviewed
    count = scene.GetNumberOfNodes()
    right = np.argwhere(sitk.GetArrayViewFromImage(pair.fixed_labels) == 1)[::-1, ::-1]
    two = (right[len(right) // 4], right[len(right) // 2])
    inside = np.array([pair.fixed_labels.TransformIndexToPhysicalPoint(place.tolist()) for place in two])
    lists = {side: point_list(scene, inside) for side in nodes}
    run = lung.LungRun(worker, scene, review.result, *nodes.values(), "exhale", None, lists, {"Patient": "Doe"})
    again = run.wait()
    assert scene.GetNumberOfNodes() == count + len(lists)
    assert any("exchange the two" in text for text in again.report["warnings"])
    assert again.report["patient"] == {"Patient": "Doe"} and "2 landmarks" in again.report["error"]["source"]
    lung.remove(again.result)
    assert lung.find(scene, again.result) is None and not again.maps


def test_lungs_of_a_segmentation_bring_their_names(worker, scene, add, pair, breathing):
    nodes, result = breathing  # segments have names of their own
    labels = {side: add(getattr(pair, f"{side}_labels"), side, "vtkMRMLLabelMapVolumeNode") for side in nodes}
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "lungs")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels["fixed"], node)
    segmentation = node.GetSegmentation()
    for i, name in enumerate(("R", "L")):
        segmentation.GetNthSegment(i).SetName(name)
    for identifier in [segmentation.GetNthSegmentID(i) for i in (2, 3)]:  # liver and heart
        segmentation.RemoveSegment(identifier)
    values = volumes.values_of(labels["moving"])
    values[values > 2] = 0
    lungs = {"fixed": node, "moving": labels["moving"]}
    review = lung.LungRun(worker, scene, result, *nodes.values(), "inhale", lungs).wait()
    assert [row["region"] for row in review.report["regions"]][:3] == ["lungs", "R", "L"]
    assert review.report["inputs"]["inhale"]["lungs"] == "given"


@pytest.mark.parametrize(
    ("kind", "regions"), [("User", ["R", "L"]), ("Labels", ["label 1", "label 2"])], ids=["own", "of Slicer"]
)
def test_lungs_of_a_label_map_bring_the_names_of_their_own_colors(worker, scene, add, pair, breathing, kind, regions):
    nodes, result = breathing
    lungs = {side: add(getattr(pair, f"{side}_labels"), side, "vtkMRMLLabelMapVolumeNode") for side in nodes}
    for node in lungs.values():
        values = volumes.values_of(node)
        values[values > 2] = 0  # liver and heart
    colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "colors")
    colors.SetType(getattr(colors, kind))
    if kind == "User":
        colors.SetNumberOfColors(3)
        for value, name in enumerate(("background", "R", "L")):
            colors.SetColor(value, name, 1, 0, 0, 1)
    lungs["fixed"].CreateDefaultDisplayNodes()
    lungs["fixed"].GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
    review = lung.LungRun(worker, scene, result, *nodes.values(), "inhale", lungs).wait()
    assert [row["region"] for row in review.report["regions"]][1:3] == regions


def test_a_transform_of_several_steps_is_reviewed_as_it_is(worker, scene, pair, breathing, tmp_path):
    """What the command line writes, a matrix after a displacement grid, is the same map in a node, and reviewed."""
    nodes, result = breathing
    grid = volumes.itk_transform(result.nodes["transform"])()
    steps = sitk.CompositeTransform(3)
    shift = sitk.AffineTransform(3)
    shift.Rotate(0, 1, 0.02)
    shift.SetTranslation((1.0, -2.0, 0.5))
    steps.AddTransform(shift)
    steps.AddTransform(sitk.CompositeTransform(grid).GetBackTransform())
    sitk.WriteTransform(steps, str(tmp_path / "transform.h5"))
    node, storage = (scene.AddNewNodeByClass(f"vtkMRMLTransform{kind}Node") for kind in ("", "Storage"))
    storage.SetFileName(str(tmp_path / "transform.h5"))
    assert storage.ReadData(node)
    place = pair.fixed.TransformIndexToPhysicalPoint([n // 2 for n in pair.fixed.GetSize()])
    there = volumes.itk_transform(node)().TransformPoint(place)
    np.testing.assert_allclose(there, steps.TransformPoint(place), atol=1e-4)
    assert np.linalg.norm(np.subtract(there, grid.TransformPoint(place))) > 1  # mm
    run = lung.LungRun(worker, scene, results.SceneResult(nodes={"transform": node}), *nodes.values())
    assert run.wait().report["regions"]
    turned = scene.AddNewNodeByClass("vtkMRMLTransformNode", "turned")  # the same the other way round
    turned.SetAndObserveTransformToParent(node.GetTransformFromParent())
    with pytest.raises(InputError, match="no displacement grid from parent"):
        volumes.itk_transform(turned)


def test_what_cannot_be_reviewed(worker, scene, breathing):
    nodes, result = breathing
    with pytest.raises(InputError, match="'inhale' or 'exhale'"):
        lung.LungRun(worker, scene, result, *nodes.values(), "fixed")
    with pytest.raises(InputError, match="choose the other list"):
        lung.LungRun(worker, scene, result, *nodes.values(), points={"fixed": point_list(scene, np.zeros((1, 3)))})
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    with pytest.raises(InputError, match="holds no segment"):
        lung.LungRun(worker, scene, result, *nodes.values(), lungs={"fixed": empty})
    bspline = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "spline")
    bspline.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    with pytest.raises(InputError, match="convert it"):
        lung.LungRun(worker, scene, results.SceneResult(nodes={"transform": bspline}), *nodes.values())
    before = scene.GetNumberOfNodes()
    still = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "still")
    run = lung.LungRun(worker, scene, results.SceneResult(nodes={"transform": still}), *nodes.values())
    with pytest.raises(InputError, match="two phases of breathing"):
        run.wait()
    assert scene.GetNumberOfNodes() == before + 1


def test_scans_that_nobody_registered(worker, scene, add, pair):
    """Registered first, with chosen lungs of which one segmentation numbers its segments otherwise."""
    nodes = {"fixed": add(pair.fixed, "Inhale"), "moving": add(pair.moving, "Exhale")}
    lungs = {}
    for side, order in (("fixed", (1, 2)), ("moving", (2, 1))):
        node = lungs[side] = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{side} lungs")
        labels = getattr(pair, f"{side}_labels")
        for value in order:
            map_ = add(labels == value, f"{side} {value}", "vtkMRMLLabelMapVolumeNode")
            slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(map_, node)
            segment = node.GetSegmentation().GetNthSegment(node.GetSegmentation().GetNumberOfSegments() - 1)
            segment.SetName("right lung" if value == 1 else "left lung")
    options = {"working_size": 40}
    stages = []
    run = lung.LungRun(worker, scene, None, *nodes.values(), "inhale", lungs, options=options, outputs=("inverse",))
    review = run.wait(lambda stage, fraction: stages.append((stage, fraction)))
    assert review.result.report["quality"]["similarity"]["local_correlation"]["after"] > 0.5
    assert review.result.get("inverse") is not None and review.result.get("jacobian") is None
    assert lung.is_of(review.result, *nodes.values()) and not lung.is_of(review.result, *reversed(nodes.values()))
    assert lung.registration(scene, *nodes.values()).identifier == review.result.identifier
    assert lung.registration(scene, *reversed(nodes.values())) is None
    # Another frame in the same node, or the volume at another place: what was found is of something else.
    kept = volumes.values_of(nodes["moving"]).copy()
    slicer.util.updateVolumeFromArray(nodes["moving"], kept[::-1].copy())
    assert lung.registration(scene, *nodes.values()) is None
    with pytest.raises(InputError, match="'Exhale' holds other voxels, or lies elsewhere"):
        lung.LungRun(worker, scene, review.result, *nodes.values())
    slicer.util.updateVolumeFromArray(nodes["moving"], kept)
    assert lung.registration(scene, *nodes.values()) is not None
    shift = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 25)
    shift.SetMatrixTransformToParent(matrix)
    nodes["fixed"].SetAndObserveTransformNodeID(shift.GetID())
    assert lung.registration(scene, *nodes.values()) is None
    nodes["fixed"].SetAndObserveTransformNodeID(None)
    report = review.report
    assert [row["region"] for row in report["regions"]][1:3] == ["right lung", "left lung"]
    assert not any("other way round" in text or "not there" in text for text in report["warnings"])
    assert report["evidence"]["dice_after"] > report["evidence"]["dice_before"]
    assert [x for _, x in stages] == sorted(x for _, x in stages) and "deformation" in {s for s, _ in stages}
    with pytest.raises(InputError, match="reviewed as it is"):
        lung.LungRun(worker, scene, review.result, *nodes.values(), options=options)


def test_from_the_console(scene, breathing, tmp_path):
    """A transform of one's own, without a window; the page names nobody."""
    nodes, result = breathing
    registrar = Registrar()
    try:
        review = registrar.reviewLungs(result.nodes["transform"], nodes["fixed"], nodes["moving"])
        page = registrar.writeLungReport(review, tmp_path / "report.html").read_text(encoding="utf-8")
        for wrong, words in (({"patient": True}, "patient is a dictionary"), ({"lungs": nodes["fixed"]}, "lungs is a")):
            with pytest.raises(InputError, match=words):
                registrar.reviewLungs(result, *nodes.values(), **wrong)
        with pytest.raises(InputError, match="result is what registerAndSegment returned"):
            registrar.reviewLungs("abc", *nodes.values())
    finally:
        registrar.close()
    assert review.report["regions"][0]["ventilation"] > 0.05
    assert "not named in this report" in page


def test_what_the_scene_knows_of_the_patient(scene, breathing):
    nodes, _ = breathing
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe, Jane")
    hierarchy.SetItemAttribute(patient, constants.GetDICOMPatientIDAttributeName(), "4711")
    hierarchy.SetItemAttribute(
        patient, constants.GetSubjectHierarchyLevelAttributeName(), constants.GetDICOMLevelPatient()
    )
    item = hierarchy.GetItemByDataNode(nodes["fixed"]) or hierarchy.CreateItem(patient, nodes["fixed"])
    hierarchy.SetItemParent(item, patient)
    assert lung.patient_of(nodes["fixed"]) == {"Volume": "Inhale", "Patient": "Doe, Jane", "ID": "4711"}


@pytest.mark.skipif(not rendering.available(), reason="no EGL: install libegl1 libgl1 libgl1-mesa-dri")
def test_what_is_seen(scene, reviewed):
    """The lung window; the map on the lungs only, as far as their value says; the motion within the lungs."""
    nodes, review = reviewed
    for tag in layout.VIEWS:
        layout.slice_node(scene, tag).SetDimensions(*SIZE, 1)
        layout.slice_node(scene, tag).SetOrientation("Coronal")
    lung.show(scene, review, "displacement")
    layout.fit(scene, nodes["fixed"])
    lung.jump(scene, review.report["regions"][0]["center_mm"])
    assert nodes["fixed"].GetDisplayNode().GetLevel() == -600 and nodes["fixed"].GetDisplayNode().GetWindow() == 1500
    review.result.nodes[lung.OUTLINE].GetDisplayNode().SetVisibility(False)
    for node in (*review.maps.values(), review.result.nodes["part"]):  # legends would count as color
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None:
            legend.SetVisibility(False)
    pixels = {tag: rendering.render(scene, tag, SIZE).astype(float) for tag in layout.VIEWS}
    colored = {tag: np.ptp(picture, axis=-1) > 30 for tag, picture in pixels.items()}
    assert not colored[layout.FIXED].any()
    over = colored[layout.COMPARISON]
    dark = pixels[layout.FIXED].mean(-1) < 150
    lungs = dark & (pixels[layout.FIXED].mean(-1) > 20)
    assert 0.05 < over.mean() < 0.6
    assert (over & ~lungs).sum() < 0.15 * over.sum()  # all but the border lies on lung
    arrows = colored[layout.DEFORMATION]
    assert 0.002 < arrows.mean() < 0.3
    assert (arrows & ~over).sum() < 0.35 * arrows.sum()
    lung.show_map(scene, review, "ventilation")
    other = rendering.render(scene, layout.COMPARISON, SIZE).astype(float)
    assert np.abs(other - pixels[layout.COMPARISON])[over].mean() > 10
    lung.hide(scene, review)
    assert not (np.ptp(rendering.render(scene, layout.COMPARISON, SIZE).astype(float), axis=-1) > 30).any()


def test_jumping_goes_to_the_region(scene, reviewed):
    _, review = reviewed
    lung.show(scene, review, "ventilation")
    row = review.report["regions"][2]
    lung.jump(scene, row["center_mm"])
    for tag in layout.VIEWS:
        matrix = volumes.to_numpy(layout.slice_node(scene, tag).GetSliceToRAS())
        center = np.array(row["center_mm"]) * (-1, -1, 1)
        assert abs((center - matrix[:3, 3]) @ matrix[:3, 2]) < 0.01


def test_what_dicom_says_comes_along(worker, scene, breathing, monkeypatch):
    """Slicer's volumes keep their instances' numbers only: thickness, kernel and person are its database's."""
    nodes, result = breathing
    told = {"a": {"0018,1210": "B70f", "0018,0050": "7.5", "0010,0020": "4711"}, "b": {"0018,1210": "B30f"}}
    told["b"]["0010,0020"] = "4712"

    class Database:
        def instanceValue(self, instance, tag):
            return told[instance].get(tag, "")

    for node, instances in zip(nodes.values(), ("a c", "b d"), strict=True):
        node.SetAttribute("DICOM.instanceUIDs", instances)
    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    review = lung.LungRun(worker, scene, result, *nodes.values()).wait()
    warnings = review.report["warnings"]
    assert any("B70f (inhale) and B30f (exhale)" in text for text in warnings)
    assert any(text.startswith("inhale: slices of 7.5 mm") for text in warnings)
    assert any("different number" in text for text in warnings)
    assert not any(number in str(review.report) for number in ("'4711'", "'4712'"))
