"""Runs that fail, end early, outlive the panel or are saved: nothing is lost and nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time

import psutil
import pytest
from panels import nodes_in, running


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


def test_coming_back_connects_nothing_twice(panel):
    """Whatever the wrapper connects observes the node for as long as that lives."""
    parameters, written = panel._parameterNode, []
    for _ in range(3):
        panel.exit()
        panel.enter()
    assert panel._parameterNode is parameters and panel.logic.getParameterNode() is parameters
    spin = panel.ui.refineStepsSpinBox
    spin.connect("valueChanged(int)", written.append)
    parameters.refineSteps = 41
    assert written == [41]
    spin.setValue(42)
    assert parameters.refineSteps == 42


def test_a_cleared_scene_has_defaults(scene, panel):
    panel._parameterNode.refineSteps = 41
    scene.Clear(False)
    assert panel._parameterNode.refineSteps == 30 == panel.ui.refineStepsSpinBox.value
    panel.ui.refineStepsSpinBox.setValue(42)
    assert panel._parameterNode.refineSteps == 42


def test_another_parameter_node_takes_over(scene, panel):
    """The widgets are free of the one that somebody removed."""
    old = panel._parameterNode
    old.refineSteps = 41
    panel.exit()
    scene.RemoveNode(old.parameterNode)
    panel.enter()
    new = panel._parameterNode
    assert new is not old and new.refineSteps == 30
    panel.ui.refineStepsSpinBox.setValue(42)
    assert new.refineSteps == 42 and old.refineSteps == 41


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "TPU"), ("refineSteps", "many"), ("refineSteps", "0"), ("blend", "nan"), ("play", "101")],
)
def test_values_that_this_version_does_not_know(scene, panel, name, value):
    """A scene of another version opens; what cannot be understood has its default, the rest is kept."""
    parameters = panel._parameterNode
    default = getattr(parameters, name)
    parameters.replaceLast = True
    panel.exit()
    node = parameters.parameterNode
    node.SetDisableModifiedEvent(1)  # as in a file, where nobody looks at single values
    node.SetParameter(name, value)
    node.SetDisableModifiedEvent(0)
    panel.enter()
    assert getattr(panel._parameterNode, name) == default and panel._parameterNode.replaceLast


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
    wait(lambda: "something else was registered since" in panel.ui.statusLabel.text, 60)
    wait(lambda: not panel.ui.reportButton.enabled)


def test_one_thing_is_computed_at_a_time(endless, click):
    panel = endless
    click(panel.ui.applyButton)
    assert not panel.ui.reviewLungsButton.enabled
    click(panel.ui.applyButton)
    assert panel.ui.reviewLungsButton.enabled and panel.ui.reviewLungsButton.text == "Register && review lungs"
