"""The module's panel, clicked through: real MRML, real worker processes, a stand-in for the desktop."""

from __future__ import annotations

import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import vtk
from samples import fixed_grid, motion, moving_grid, thing, volume

HERE = Path(__file__).resolve()
MODULE = HERE.parents[2] / "JointRegSeg"
KNOWN = motion(rotation=(4, -3, 5), shift=(3, -2, 2))
#: Long enough that it is still running whenever a test wants to stop it.
ENDLESS = 500


@pytest.fixture
def pair(scene):
    """Fixed and moving volume in the scene, and small settings."""
    from JointRegSegLib.scene import volumes

    nodes = []
    for name, image in (("F", volume(thing(), fixed_grid())), ("M", volume(thing(), moving_grid(), KNOWN))):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        volumes.fill(node, image)
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    return nodes


@pytest.fixture
def panel(pair, widget):
    widget._parameterNode.workingSize = 32
    return widget


@pytest.fixture
def endless(panel):
    """Settings with which a run takes far longer than the test."""
    panel._parameterNode.workingSize = 256
    panel._parameterNode.refine = True
    panel._parameterNode.refineSteps = ENDLESS
    return panel


def running(widget) -> bool:
    return widget.ui.applyButton.text == "Cancel"


def nodes_in(scene) -> set[str]:
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


@pytest.fixture
def run(panel, click, wait):
    """Click and wait for the result."""

    def go() -> None:
        click(panel.ui.applyButton)
        wait(lambda: not running(panel), 120)

    return go


def test_every_bound_widget_has_a_parameter_and_every_parameter_a_widget(module):
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "JointRegSeg.ui")
    bound = [p.findtext("string") for p in tree.iter("property") if p.get("name") == "SlicerParameterName"]
    parameters = set(module.JointRegSegParameterNode.allParameters)
    by_hand = {"model", "deformationSegment", "result"}  # the class says why
    assert len(bound) == len(set(bound)) and set(bound) == parameters - by_hand
    assert all(name in module.JointRegSegParameterNode.__doc__ for name in by_hand)


def test_every_widget_that_is_used_is_in_the_file():
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "JointRegSeg.ui")
    there = {w.get("name") for w in tree.iter("widget")}
    sources = [MODULE / "JointRegSeg.py", *(MODULE / "JointRegSegGui").glob("*.py")]
    used = {name for source in sources for name in re.findall(r"\bui\.(\w+)", source.read_text())}
    assert used and used <= there
    buttons = {w.get("name") for w in tree.iter("widget") if w.get("class") == "QPushButton"}
    assert buttons <= used
    tips = {w.get("name") for w in tree.iter("widget") if w.find("property[@name='toolTip']") is not None}
    taught = {"QPushButton", "QCheckBox", "QComboBox", "QSpinBox", "QLineEdit", "ctkSliderWidget", "qMRMLNodeComboBox"}
    assert not {w.get("name") for w in tree.iter("widget") if w.get("class") in taught} - tips - {"applyButton"}


def test_no_text_stays_untranslated():
    """Texts that users see go through the translation, with no f-string inside."""
    for source in [MODULE / "JointRegSeg.py", *(MODULE / "JointRegSegGui").glob("*.py")]:
        text = source.read_text()
        assert not re.findall(r"\b_\(\s*f[\"']", text), source
        assert not re.findall(r"(?:\.text|toolTip) = [\"'][A-Z]", text), source


def test_sizes():
    source = (MODULE / "JointRegSeg.py").read_text().splitlines()
    assert len(source) < 600
    starts = [i for i, line in enumerate(source) if line.startswith("class ")]
    first = next(i for i in starts if "Widget(" in source[i])
    assert next(i for i in starts if i > first) - first < 350


def test_importing_takes_no_torch_and_no_time(desktop, module):
    code = (
        "import sys, time; import slicer; sys.path[:0] = sys.argv[1:]; import standin; standin.install(); "
        "began = time.perf_counter(); import JointRegSeg; print(time.perf_counter() - began); "
        "assert not {'torch', 'SimpleITK._SimpleITK'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(HERE.parents[1]), str(MODULE)]
    took = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in "123"]
    assert min(took) < 0.3


def test_the_logic_runs_without_qt(module, tmp_path):
    """As where Slicer is built without a desktop; the stand-in's own Qt stays out of reach."""
    code = (
        "import sys; import slicer; sys.path[:0] = sys.argv[1:]; import standin; standin.install(); "
        "del sys.modules['qt'], sys.modules['ctk']\n"
        "import JointRegSeg\n"
        "logic = JointRegSeg.JointRegSegLogic()\n"
        "from samples import fixed_grid, thing, volume\n"
        "from JointRegSegLib.scene import volumes\n"
        "nodes = [slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode') for _ in '12']\n"
        "for node in nodes: volumes.fill(node, volume(thing(), fixed_grid()))\n"
        "result = logic.registerAndSegment(*nodes, working_size=16, device_name='cpu')\n"
        "print(result.verdict, sorted(result.nodes)); logic.close()\n"
        "assert logic.getParameterNode().model == 'generic' and not {'qt', 'ctk'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(HERE.parents[1]), str(HERE.parents[1] / "integration"), str(MODULE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "'warped'" in done.stdout, done.stderr


def self_test(module):
    """As Slicer runs it as a CTest: each test by itself."""
    suite = unittest.TestLoader().loadTestsFromTestCase(module.JointRegSegTest)
    return unittest.TextTestRunner(stream=io.StringIO()).run(suite)


def test_the_self_test_passes(desktop, module):
    window = desktop.open_window()
    try:
        outcome = self_test(module)
    finally:
        if hasattr(module.slicer.modules, "JointRegSegWidget"):
            desktop.close_panel(module.slicer.modules.JointRegSegWidget)
        window.deleteLater()
    assert outcome.wasSuccessful(), outcome.errors + outcome.failures
    assert outcome.testsRun == 3 and not outcome.skipped


def test_the_self_test_is_skipped_without_its_packages(desktop, module, monkeypatch):
    from JointRegSegLib.scene import requirements

    monkeypatch.setattr(requirements, "missing", lambda: ["torch"])
    outcome = self_test(module)
    assert outcome.wasSuccessful() and len(outcome.skipped) == outcome.testsRun == 3
    assert all("torch" in reason for _, reason in outcome.skipped)


def test_the_button_says_what_is_missing(scene, widget):
    button = widget.ui.applyButton
    assert (button.text, button.enabled) == ("Choose two volumes", False)
    one, other = (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
    widget._parameterNode.fixedVolume = one
    assert (button.text, button.enabled) == ("Choose a moving volume", False)
    widget._parameterNode.movingVolume = one
    assert (button.text, button.enabled) == ("Choose two different volumes", False)
    widget._parameterNode.movingVolume = other
    assert (button.text, button.enabled) == ("Register && Segment", True)
    widget._parameterNode.fixedVolume = None
    assert (button.text, button.enabled) == ("Choose a fixed volume", False)
    widget._parameterNode.fixedVolume, widget._parameterNode.model = one, "unheard-of"
    assert (button.text, button.enabled) == ("Choose a model that is installed", False)
    assert "not installed" in widget.ui.modelDescriptionLabel.text


def test_the_first_two_volumes_are_suggested_and_can_be_swapped(pair, widget, click):
    assert [widget._parameterNode.fixedVolume, widget._parameterNode.movingVolume] == pair
    click(widget.ui.swapButton)
    assert [widget.ui.fixedVolumeSelector.currentNode(), widget.ui.movingVolumeSelector.currentNode()] == pair[::-1]


def test_sample_data_in_one_click(scene, widget, click):
    click(widget.ui.sampleDataButton)
    chosen = widget._parameterNode.fixedVolume, widget._parameterNode.movingVolume
    assert [node.GetName() for node in chosen] == ["ThoraxInhale", "ThoraxExhale"]
    assert widget.ui.applyButton.enabled and "GB" in widget.ui.memoryLabel.text


def test_models_are_searched_grouped_and_described(widget):
    box, search = widget.ui.modelSelector, widget.ui.modelSearchBox

    def names() -> list[str]:
        return [box.itemData(i) for i in range(box.count) if box.itemData(i)]

    everything = names()
    groups = [i for i in range(box.count) if not box.itemData(i)]
    assert {"generic", "symmetric-hippocampus"} <= set(everything) and len(groups) > 1
    assert any("hippocampus" in box.itemText(i) for i in groups)
    box.setCurrentIndex(groups[-1])  # a heading stands for the first of its group
    assert widget._parameterNode.model == box.itemData(groups[-1] + 1)
    widget._parameterNode.model = "generic"
    search.text = "mri HEAD"
    assert "symmetric-hippocampus" in names()
    search.text = "no such thing"
    assert names() == ["generic"]  # the chosen one stays
    search.text = ""
    box.setCurrentIndex(box.findData("symmetric-hippocampus"))
    assert widget._parameterNode.model == "symmetric-hippocampus"
    text = widget.ui.modelDescriptionLabel.text
    assert "License" in text and "Segments" in text and "Expects" in text
    widget._parameterNode.model = "generic"
    assert box.itemData(box.currentIndex) == "generic"


def test_a_volume_outside_the_models_domain_is_warned_of(scene, widget):
    from JointRegSegLib.scene import volumes

    coarse = sitk.Image([20, 20, 20], sitk.sitkInt16)
    coarse.SetSpacing([9.0, 9.0, 9.0])
    for name in ("fixedVolume", "movingVolume"):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        volumes.fill(node, coarse)
        setattr(widget._parameterNode, name, node)
    assert widget.ui.modelWarningLabel.text == ""
    widget._parameterNode.model = "symmetric-hippocampus"
    assert "spacing of 9 x 9 x 9 mm" in widget.ui.modelWarningLabel.text


def test_models_come_and_go(widget, click, tmp_path, monkeypatch, desktop):
    import json

    import slicer
    from JointRegSegLib import catalog

    monkeypatch.setenv(catalog.HOME_VARIABLE, str(tmp_path / "home"))
    shipped = Path(next(e["folder"] for e in catalog.entries() if "folder" in e))
    shutil.copytree(shipped, tmp_path / "mine")
    manifest = json.loads((tmp_path / "mine" / "model.json").read_text())
    (tmp_path / "mine" / "model.json").write_text(json.dumps({**manifest, "name": "mine"}))
    desktop.dialogs.answers += [str(tmp_path / "mine")] * 4
    assert not widget.ui.removeModelButton.enabled
    click(widget.ui.importModelButton)
    assert widget._parameterNode.model == "mine"
    (tmp_path / "mine" / "model.json").write_text(json.dumps({**manifest, "name": "mine", "title": "Newer"}))
    for answer, title in ((False, manifest["title"]), (True, "Newer")):  # a second one of this name
        asked = []
        ask = lambda text, asked=asked, answer=answer, **_: asked.append(text) or answer  # noqa: E731
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask)
        click(widget.ui.importModelButton)
        assert "'mine' is installed already" in asked[0] and widget.models.entry["title"] == title
    said = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **k: said.append(text) or True)
    click(widget.ui.removeModelButton)
    assert "mine" in said[0] and widget._parameterNode.model == "generic" and not list(catalog.user_folder().iterdir())
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **k: said.append(text))
    (tmp_path / "mine" / "weights.safetensors").write_bytes(b"")
    click(widget.ui.importModelButton)
    assert "checksum" in said[1] and widget._parameterNode.model == "generic"


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


def test_only_what_is_wanted(panel, run):
    panel.ui.fillMissingCheckBox.checked = True
    for box in ("inverse", "segmentations", "jacobian", "agreement"):
        getattr(panel.ui, f"{box}CheckBox").checked = False
    run()
    assert {"inverse", "jacobian"}.isdisjoint(panel.show.result.nodes)
    assert panel.show.result.report["settings"]["fill"] == 0


def test_an_error_is_a_sentence_and_the_next_click_works(scene, panel, run, pair):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    panel._parameterNode.movingVolume = empty
    run()
    assert "'empty': holds no image" in panel.ui.statusLabel.text
    panel._parameterNode.movingVolume = pair[1]
    run()
    assert "Done in" in panel.ui.statusLabel.text


def test_cancel_in_mid_run(scene, endless, click, wait):
    before = nodes_in(scene)
    click(endless.ui.applyButton)
    assert running(endless) and endless.ui.progressBar.visible
    wait(lambda: endless._run.stage == "deformation", 60)
    click(endless.ui.applyButton)
    assert not running(endless) and not endless.ui.progressBar.visible and nodes_in(scene) == before
    assert "Canceled" in endless.ui.statusLabel.text


def test_worker_killed_in_mid_run(scene, endless, click, wait, run):
    before = nodes_in(scene)
    click(endless.ui.applyButton)
    wait(lambda: endless._run.stage == "deformation", 60)
    os.kill(endless.logic.worker._process.pid, signal.SIGKILL)
    wait(lambda: not running(endless))
    assert "killed" in endless.ui.statusLabel.text and nodes_in(scene) == before
    endless._parameterNode.refine, endless._parameterNode.workingSize = False, 32
    run()
    assert "Done in" in endless.ui.statusLabel.text


def test_scene_closed_in_mid_run(scene, endless, click, wait):
    click(endless.ui.applyButton)
    wait(lambda: endless._run.stage == "deformation", 60)
    scene.Clear(False)
    assert not running(endless) and endless.ui.applyButton.text == "Choose two volumes"
    assert endless._parameterNode.fixedVolume is None
    assert endless.ui.statusLabel.text == "Canceled: the scene was closed."
    scene.Clear(False)
    assert endless.ui.statusLabel.text == ""  # what was said was about the scene before
    click(endless.ui.sampleDataButton)
    assert endless.ui.applyButton.enabled


def test_the_window_never_waits(panel, click, wait):
    """Between click and result no turn of the event loop takes a tenth of a second; putting the result in may."""
    import slicer

    for _ in "12":
        click(panel.ui.applyButton)
        longest, end = 0.0, time.monotonic() + 120
        while running(panel) and time.monotonic() < end:
            began = time.perf_counter()
            slicer.app.processEvents()
            took = time.perf_counter() - began
            if running(panel):
                longest = max(longest, took)
            time.sleep(0.002)
        assert "Done in" in panel.ui.statusLabel.text
    assert longest < 0.1


def test_twenty_clicks_leave_nothing_behind(scene, panel, click, wait, monkeypatch, tmp_path):
    import slicer
    from JointRegSegLib.scene import results

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, memory = None, []
    others = {p for p in psutil.Process().children() if p.pid != getattr(panel.logic.worker._process, "pid", None)}
    for i in range(20):
        click(panel.ui.applyButton)
        if i % 3 == 1:
            wait(lambda: panel._run is None or panel._run.fraction > 0.1)
            if running(panel):
                click(panel.ui.applyButton)
        elif i % 3 == 2:
            wait(lambda: panel.logic.worker.running)
            os.kill(panel.logic.worker._process.pid, signal.SIGKILL)
        wait(lambda: not running(panel), 120)
        if panel.show.result is not None and panel.show.result.nodes:
            results.remove(scene, panel.show.result)
            panel.showResult(None)
        slicer.app.processEvents()
        gc.collect()
        if i == 6:
            before = nodes_in(scene)
        memory.append(psutil.Process().memory_info().rss)
    assert nodes_in(scene) == before
    assert list(tmp_path.iterdir()) == []
    alive = {p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE}
    assert len(alive - others) <= 1
    assert memory[-1] - memory[6] < 20e6
    panel.logic.close()
    assert not set(psutil.Process().children()) - others


def test_a_saved_scene_reopens_as_it_was(scene, panel, run, tmp_path):
    run()
    verdict = panel.ui.verdictLabel.text
    panel._parameterNode.refineSteps = 77
    warped = panel.show.result.nodes["warped"].GetName()
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    assert "77" in text
    scene.Clear(False)
    assert "No result" in panel.ui.verdictLabel.text
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    scene.Import()
    assert panel._parameterNode.refineSteps == 77 and panel.show.result.nodes["warped"].GetName() == warped
    assert panel.ui.verdictLabel.text == verdict and panel.ui.reportButton.enabled
    panel.logic.close()  # as in another session: nobody can draw the pictures any more
    panel.exit()
    panel.enter()
    assert panel.ui.verdictLabel.text == verdict and not panel.ui.reportButton.enabled


def test_leaving_and_coming_back(panel, pair):
    panel.exit()
    pair[0].SetName("renamed")
    panel.enter()
    assert panel.ui.fixedVolumeSelector.currentNode() is pair[0]


def test_a_run_goes_on_while_another_module_is_open(scene, panel, click, wait):
    click(panel.ui.applyButton)
    panel.exit()
    wait(lambda: panel._run is None, 120)
    panel.enter()
    assert panel.show.result is not None and "GREEN" in panel.ui.verdictLabel.text
    assert panel.ui.reportButton.enabled


def test_a_script_runs_beside_the_panel(panel, pair, click, wait):
    """A script gets the panel's own logic; both come to their results, and no report shows the other one's."""
    click(panel.ui.applyButton)
    result = panel.logic.registerAndSegment(*pair, working_size=32)
    wait(lambda: not running(panel), 60)
    assert panel.show.result.nodes["warped"] is not result.nodes["warped"]
    panel.logic.registerAndSegment(*pair, working_size=32)  # which the process has now, and the panel does not show
    click(panel.ui.reportButton)
    wait(lambda: "another pair was registered since" in panel.ui.statusLabel.text, 60)
    wait(lambda: not panel.ui.reportButton.enabled)


def test_missing_packages_are_offered(panel, click, monkeypatch):
    from JointRegSegLib.scene import requirements

    state = {"missing": ["tqdm"]}
    monkeypatch.setattr(requirements, "missing", lambda: list(state["missing"]))
    asked = []
    monkeypatch.setattr(requirements, "install", lambda modules: asked.append(modules) or False)
    click(panel.ui.applyButton)
    assert asked == [["tqdm"]] and not running(panel)


def test_sample_data_is_registered_at_startup(module, desktop):
    import slicer
    from JointRegSegLib import samples

    module.registerSampleData()
    assert [s.sampleName for s in slicer.modules.sampleDataSources["JointRegSeg"]] == [
        s.name for s in samples.samples()
    ]
