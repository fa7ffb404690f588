"""Choosing volumes and a model in the panel."""

from __future__ import annotations

import shutil
from pathlib import Path

import SimpleITK as sitk
from panels import running


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


def test_missing_packages_are_offered(panel, click, monkeypatch):
    from JointRegSegLib.scene import requirements

    state = {"missing": ["tqdm"]}
    monkeypatch.setattr(requirements, "missing", lambda: list(state["missing"]))
    asked = []
    monkeypatch.setattr(requirements, "install", lambda modules: asked.append(modules) or False)
    click(panel.ui.applyButton)
    assert asked == [["tqdm"]] and not running(panel)


def test_missing_packages_are_offered_by_this_button_too(panel, click, monkeypatch):
    from JointRegSegLib.scene import requirements

    asked = []
    monkeypatch.setattr(requirements, "missing", lambda: ["tqdm"])
    monkeypatch.setattr(requirements, "install", lambda modules: asked.append(modules) or False)
    click(panel.ui.reviewLungsButton)
    assert asked == [["tqdm"]] and not panel.lung.busy and "Nothing was installed" in panel.ui.statusLabel.text


def test_who_declines_the_installation_is_told(panel, click, monkeypatch):
    from JointRegSegLib.scene import requirements
    from standin import services

    monkeypatch.setitem(requirements.PACKAGES, "no_such_module", "no-such-package>=2")
    monkeypatch.setattr(services, "declines", True)
    click(panel.ui.applyButton)
    assert not running(panel) and "Nothing was installed" in panel.ui.statusLabel.text
    monkeypatch.setattr(requirements, "missing", lambda: ["torch"])
    click(panel.ui.applyButton)
    assert "install the extension PyTorch" in panel.ui.statusLabel.text


def test_an_interpreter_that_cannot_start(widget, monkeypatch):
    widget.exit()
    widget.logic.worker.close()
    monkeypatch.setattr(widget.logic.worker, "start", _failing_start)
    widget.enter()
    assert "cannot be started" in widget.ui.statusLabel.text


def _failing_start() -> None:
    from JointRegSegLib.client import WorkerError

    raise WorkerError("the computing process cannot be started")


def test_volumes_that_cannot_be_registered_are_told_before_the_click(scene, panel, pair):
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "L")
    labels.SetAndObserveImageData(pair[1].GetImageData())
    panel._parameterNode.movingVolume = labels
    assert panel.ui.applyButton.text == "Choose another volume" and not panel.ui.applyButton.enabled
    assert "is a label map" in panel.ui.modelWarningLabel.text and "is a label map" in panel.ui.applyButton.toolTip
    panel._parameterNode.movingVolume = pair[1]
    assert panel.ui.applyButton.enabled
