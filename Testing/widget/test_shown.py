"""From a click to what is shown, carried over and reported: real worker processes, a stand-in for the desktop."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from panels import KNOWN, nodes_in
from samples import fixed_grid, thing


def test_from_click_to_result(scene, panel, run, click, wait, monkeypatch):
    import qt
    from JointRegSegLib.scene import layout

    before = nodes_in(scene)
    assert not panel.ui.propagateButton.enabled and not panel.ui.reportButton.enabled
    run()
    assert "Done in" in panel.ui.statusLabel.text
    assert re.search("GREEN|AMBER|RED", panel.ui.verdictLabel.text) and "research" in panel.ui.verdictLabel.text
    table = panel.ui.resultsTable
    lines = {table.item(i, 0).text(): table.item(i, 1).text() for i in range(table.rowCount)}
    assert "%" in lines["Folded voxels"] and "%" in lines["Slicer's own warping differs by"]
    assert "Last run on this computer" in panel.ui.modelDescriptionLabel.text
    result = panel.show.result
    shown = layout.composite(scene, layout.WARPED).GetBackgroundVolumeID()
    assert shown == result.nodes["warped"].GetID() and nodes_in(scene) > before
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    click(panel.ui.reportButton)
    wait(lambda: opened, 60)
    assert "<html" in Path(opened[0]).read_text().lower()[:200]


def test_how_it_is_shown_follows_the_parameters(scene, panel, run, click):
    from JointRegSegGui.parameters import Comparison, Deformation
    from JointRegSegLib.scene import layout

    run()
    parameters, result = panel._parameterNode, panel.show.result
    extent = max(s * n for s, n in zip(parameters.fixedVolume.GetSpacing(), fixed_grid().size, strict=True))
    assert parameters.deformationSpacing == pytest.approx(extent / 20, abs=0.5)
    compared = layout.composite(scene, layout.COMPARISON)
    parameters.comparison = Comparison.DIFFERENCE
    assert compared.GetBackgroundVolumeID() == result.get("difference").GetID()
    panel.ui.blendSlider.value = 0.25
    assert compared.GetForegroundOpacity() == pytest.approx(0.25) and parameters.comparison is Comparison.BLEND
    assert compared.GetForegroundVolumeID() == result.get("warped").GetID()
    click(panel.ui.layoutButton)
    assert compared.GetForegroundOpacity() == pytest.approx(0.25)  # the view and the slider say the same
    shown = []
    for _ in "12":
        click(panel.ui.flickerButton)
        shown.append((compared.GetForegroundOpacity(), panel.ui.blendSlider.value))
    assert shown == [(1, 1), (0, 0)]
    display = result.get("transform").GetDisplayNode()
    assert display.GetVisibility2D() and display.GetVisualizationMode() == display.VIS_MODE_GRID
    parameters.deformationMode = Deformation.GLYPHS
    assert display.GetVisualizationMode() == display.VIS_MODE_GLYPH
    panel.ui.deformationSpacingSlider.value = 7.0
    assert display.GetGlyphSpacingMm() == 7.0
    parameters.deformationMode = Deformation.OFF
    assert not display.GetVisibility()
    panel.ui.showJacobianCheckBox.checked = True
    deformed = layout.composite(scene, layout.DEFORMATION)
    assert deformed.GetForegroundVolumeID() == result.get("jacobian").GetID()
    panel.ui.playSlider.value = 50
    moved = layout.composite(scene, layout.WARPED)
    assert moved.GetBackgroundVolumeID() == result.get("played").GetID()
    click(panel.ui.layoutButton)
    assert moved.GetBackgroundVolumeID() == result.get("played").GetID()  # still halfway, as the slider says
    panel.ui.playSlider.value = 100
    assert moved.GetBackgroundVolumeID() == result.get("warped").GetID()
    # `generic` segments nothing: there is nothing to switch on.
    assert not panel.ui.showAgreementCheckBox.enabled and not panel.ui.segmentationDisplaySelector.enabled
    scene.RemoveNode(result.nodes["warped"])
    click(panel.ui.layoutButton)
    assert "no warped" in panel.ui.statusLabel.text


def test_the_controls_go_on_after_nodes_are_removed_and_after_coming_back(scene, panel, run):
    from JointRegSegGui.parameters import Comparison
    from JointRegSegLib.scene import layout

    run()
    parameters, compared = panel._parameterNode, layout.composite(scene, layout.COMPARISON)

    def play() -> None:
        panel.ui.playSlider.value = 50
        panel.ui.playSlider.value = 100  # whose helpers go

    def leave() -> None:
        panel.exit()
        panel.enter()

    for act in (play, leave, lambda: scene.RemoveNode(panel.show.result.get("jacobian"))):
        parameters.comparison = Comparison.BLEND
        act()
        parameters.comparison = Comparison.DIFFERENCE
        assert compared.GetBackgroundVolumeID() == panel.show.result.get("difference").GetID()
    layout.offer(scene).SetViewArrangement(1)  # the user's own layout, which a control does not replace
    leave()
    parameters.comparison = Comparison.BLEND
    assert layout.offer(scene).GetViewArrangement() == 1
    assert compared.GetBackgroundVolumeID() == panel.show.result.get("difference").GetID()


def test_carrying_over(scene, panel, run, click, pair):
    from JointRegSegGui.parameters import Direction

    run()
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "point")
    there = (KNOWN @ [*thing().centers[1], 1])[:3]
    markups.AddControlPoint(-there[0], -there[1], there[2])
    panel._parameterNode.propagateNode = markups
    click(panel.ui.propagateButton)
    assert "point carried" in panel.ui.statusLabel.text
    copy = scene.GetFirstNodeByName("point carried")
    place = [0.0] * 3
    copy.GetNthControlPointPosition(0, place)
    assert [-place[0], -place[1], place[2]] == pytest.approx(list(thing().centers[1]), abs=2.0)
    scene.RemoveNode(panel.show.result.nodes["inverse"])
    assert not panel.ui.propagateButton.enabled
    panel._parameterNode.direction = Direction.TO_MOVING  # which takes the other transform
    assert panel.ui.propagateButton.enabled
    panel._parameterNode.direction = Direction.TO_FIXED
    assert not panel.ui.propagateButton.enabled and "Inverse transform" in panel.ui.propagateButton.toolTip
    panel._parameterNode.propagateNode = pair[1]  # and so does an image
    assert panel.ui.propagateButton.enabled


@pytest.mark.parametrize("kind", ["vtkMRMLMarkupsPlaneNode", "vtkMRMLMarkupsROINode"])
def test_planes_and_boxes_are_carried_over(scene, panel, run, click, kind):
    """Their middle goes where the deformation takes it, and they turn with the place that they are at."""
    run()
    middle = thing().centers[1]
    there = (KNOWN @ [*middle, 1])[:3]
    node = scene.AddNewNodeByClass(kind, "it")
    node.SetCenter(-there[0], -there[1], there[2])
    if kind.endswith("ROINode"):
        node.SetSize(20, 20, 20)
    else:
        node.SetNormal(0, 0, 1)
        node.SetSize(20, 20)
    panel.ui.propagateSelector.setCurrentNode(node)
    assert panel._parameterNode.propagateNode is node  # it is offered
    click(panel.ui.propagateButton)
    copy = scene.GetFirstNodeByName("it carried")
    assert np.array(copy.GetCenter()) * (-1, -1, 1) == pytest.approx(np.array(middle), abs=2.0)
    if kind.endswith("ROINode"):
        axis = [copy.GetObjectToNodeMatrix().GetElement(i, 2) for i in range(3)]
    else:
        axis = copy.GetNormal()
    axis = np.array(axis) * (-1, -1, 1)
    turned = KNOWN[:3, :3].T @ [0, 0, 1]
    assert axis @ turned > np.cos(np.radians(2)) and turned[2] < np.cos(np.radians(4))


def test_each_result_can_be_looked_at_again(scene, panel, run, tmp_path):
    from JointRegSegLib.scene import layout

    box = panel.ui.resultSelector
    assert not box.enabled
    run()
    first = panel.show.result
    panel.ui.inverseCheckBox.checked = False
    run()
    assert [box.itemText(i) for i in range(box.count)] == ["M to F", "M to F_1"] and box.currentIndex == 1
    assert not first.get("transform").GetDisplayNode().GetVisibility()  # the views hold one result
    box.setCurrentIndex(0)
    assert panel._parameterNode.result == first.identifier == panel.show.result.identifier
    shown = layout.composite(scene, layout.WARPED).GetBackgroundVolumeID()
    assert shown == first.get("warped").GetID() and first.get("transform").GetDisplayNode().GetVisibility()
    assert not panel.ui.reportButton.enabled and "last run" in panel.ui.reportButton.toolTip
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    scene.Clear(False)
    assert box.count == 0 and not box.enabled
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    scene.Import()
    assert [box.itemText(i) for i in range(box.count)] == ["M to F", "M to F_1"] and box.currentIndex == 0


def test_what_serves_a_node_goes_with_it(scene, panel, run):
    run()
    kind = "vtkMRMLColorLegendDisplayNode"
    assert scene.GetNumberOfNodesByClass(kind) == 1
    scene.RemoveNode(panel.show.result.get("transform"))
    assert scene.GetNumberOfNodesByClass(kind) == 0


def test_the_log_tells_of_a_run_that_went_well(panel, run, wait):
    panel._parameterNode.alignment = type(panel._parameterNode.alignment).CENTER
    run()
    wait(lambda: "Done in" in panel.ui.logTextEdit.plainText)
    lines = panel.ui.logTextEdit.plainText.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    text = "\n".join(lines)
    assert "Register 'M' to 'F'" in text and "Finding the deformation" in text
    assert "Model: generic; device: cpu" in text


def test_nobody_looks_once_the_user_has_gone(panel, click, wait):
    assert panel.timer.active
    click(panel.ui.applyButton)
    panel.exit()
    panel.parent._entered = False  # as the application has it then
    wait(lambda: panel._run is None, 120)
    wait(lambda: not panel.timer.active)
    panel.parent._entered = True
    panel.enter()
    assert panel.timer.active


def test_no_report_of_a_process_that_is_gone(panel, run, wait):
    run()
    wait(lambda: panel.ui.reportButton.enabled)
    os.kill(panel.logic.worker._process.pid, signal.SIGKILL)
    wait(lambda: not panel.ui.reportButton.enabled)
    assert "register again" in panel.ui.reportButton.toolTip
    panel.logic.worker.start()  # another one, which knows nothing of the result
    panel.onTimer()
    assert panel.logic.worker.running and not panel.ui.reportButton.enabled


def test_fill_does_not_mix_with_the_agreement_map(scene, panel, run):
    from JointRegSegGui.parameters import Segmentations
    from JointRegSegLib.scene import results, volumes

    run()
    nodes = {"fixed_segmentation": "vtkMRMLSegmentationNode", "agreement": "vtkMRMLLabelMapVolumeNode"}
    made = {role: scene.AddNewNodeByClass(kind) for role, kind in nodes.items()}
    for role, node in made.items():
        results.adopt(panel.show.result, role, node)
    volumes.fill(made["agreement"], sitk.Image([4, 4, 4], sitk.sitkUInt8))
    made["agreement"].CreateDefaultDisplayNodes()
    made["agreement"].GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    parameters = panel._parameterNode
    parameters.segmentationDisplay = Segmentations.FILL
    display = made["fixed_segmentation"].GetDisplayNode()
    assert display.GetVisibility2DFill()
    parameters.showAgreement = True
    assert display.GetVisibility() and not display.GetVisibility2DFill()
    parameters.showAgreement = False
    assert display.GetVisibility2DFill()


def test_errors_name_their_cure_in_the_panel(panel, pair, run):
    matrix = vtk.vtkMatrix4x4()
    pair[1].GetIJKToRASMatrix(matrix)
    matrix.SetElement(0, 3, 9999)
    pair[1].SetIJKToRASMatrix(matrix)
    run()
    text = panel.ui.statusLabel.text
    assert "do not overlap" in text and text.endswith("(Advanced, Begin: Middle on middle)") and "--" not in text


def test_names_are_not_taken_for_markup(panel, module):
    import qt
    from JointRegSegGui.models import describe
    from JointRegSegLib import catalog

    entry = catalog.GENERIC_ENTRY | {"description": "<b>bold</b>", "license": "<i>"}
    assert "&lt;b&gt;bold" in describe(entry) and "<i>" not in describe(entry)
    assert panel.ui.statusLabel.textFormat == qt.Qt.PlainText
    text = describe(catalog.GENERIC_ENTRY)
    assert "Expects: two volumes of the same body part" in text and "any of any" not in text


def test_run_again_beside_or_in_place_of_the_last(scene, panel, run):
    run()
    first = panel.show.result.nodes["warped"]
    run()
    second = panel.show.result.nodes["warped"]
    assert scene.IsNodePresent(first) and scene.IsNodePresent(second)
    panel.ui.replaceCheckBox.checked = True
    run()
    assert scene.IsNodePresent(first) and not scene.IsNodePresent(second)
    third = panel.show.result.nodes["warped"]
    panel._parameterNode.movingVolume = third  # in two steps: the second begins where the first ended
    run()
    assert scene.IsNodePresent(third) and panel._parameterNode.movingVolume is third
    assert any("not replaced" in note for note in panel.show.result.report["notes"])


def test_only_what_is_wanted(panel, run):
    panel.ui.fillMissingCheckBox.checked = True
    for box in ("inverse", "segmentations", "jacobian", "agreement"):
        getattr(panel.ui, f"{box}CheckBox").checked = False
    run()
    assert {"inverse", "jacobian"}.isdisjoint(panel.show.result.nodes)
    assert panel.show.result.report["settings"]["fill"] == 0


def test_what_is_deleted_is_shown_no_more(scene, panel, run, click):
    run()
    first = panel.show.result
    run()
    second = panel.show.result
    assert panel.ui.resultSelector.count == 2 and panel.ui.resultsTable.rowCount > 3
    for node in list(second.nodes.values()):
        scene.RemoveNode(node)
    assert panel.ui.resultSelector.count == 1 and panel.ui.resultsTable.rowCount == 0
    assert panel.show.result is None and not panel.ui.layoutButton.enabled and not panel.ui.reportButton.enabled
    panel.ui.resultSelector.setCurrentIndex(0)
    assert panel.show.result.identifier == first.identifier and panel.ui.resultsTable.rowCount > 3


def test_a_report_that_was_edited_is_none(scene, panel, run):
    run()
    node = panel.show.result.nodes["provenance"]
    node.SetText('{"verdict": {}, "quality": {}, "model": {}, "warnings": [], "notes": [], "seconds": {}}')
    panel.exit()
    panel.enter()
    assert panel.ui.resultsTable.rowCount == 0 and panel.ui.verdictLabel.text == "No result yet."


def test_figures_that_there_are_not_are_dashes(scene, panel, run):
    """Images that did not overlap before have no likeness then; the verdict stays to be seen."""
    run()
    node = panel.show.result.nodes["provenance"]
    report = json.loads(node.GetText())
    report["quality"]["similarity"]["local_correlation"]["before"] = None
    report["quality"]["regularity"] |= {
        "log_jacobian_spread": None,
        "inverse_consistency_mm": {"mean": None, "max": None},
    }
    node.SetText(json.dumps(report))
    panel.exit()
    panel.enter()
    assert re.search("GREEN|AMBER|RED", panel.ui.verdictLabel.text)
    values = [panel.ui.resultsTable.item(row, 1).text() for row in range(panel.ui.resultsTable.rowCount)]
    assert values[0].startswith("– → 0.") and values[2] == "–" and values[3].startswith("– mm")
    report["verdict"]["color"] = "blue"
    node.SetText(json.dumps(report))
    panel.exit()
    panel.enter()
    assert panel.ui.verdictLabel.text == "No result yet."


def test_helpers_are_not_offered_as_inputs(scene, panel, run, click):
    run()
    click(panel.ui.layoutButton)
    assert panel.show.result.get("checkerboard") is not None
    offered = [panel.ui.movingVolumeSelector.nodeFromIndex(i) for i in range(panel.ui.movingVolumeSelector.nodeCount())]
    assert "F, checkerboard" not in [node.GetName() for node in offered if node is not None]


def test_a_volume_is_carried_over_while_the_window_lives(scene, panel, run, click, wait, pair):
    run()
    panel._parameterNode.propagateNode = pair[1]
    click(panel.ui.propagateButton)
    assert not panel.ui.propagateButton.enabled and "Carrying" in panel.ui.statusLabel.text
    wait(lambda: "Made" in panel.ui.statusLabel.text)
    assert scene.GetFirstNodeByName("M carried") is not None and panel.ui.propagateButton.enabled


def test_a_report_without_room_is_a_sentence(panel, run, click, monkeypatch):
    import tempfile

    run()
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no/such/folder")
    click(panel.ui.reportButton)
    assert "no temporary folder can be made" in panel.ui.statusLabel.text
