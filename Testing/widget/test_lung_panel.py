"""The lung review, clicked through: real worker processes, a stand-in for the desktop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from breath import known_registration, thorax


@pytest.fixture(scope="module")
def pair():
    return thorax()


@pytest.fixture(scope="module")
def known(pair, tmp_path_factory):
    return known_registration(tmp_path_factory.mktemp("known"), pair)


@pytest.fixture
def breathing(scene, widget, pair, known):
    """The panel with a registered breath; the inhale is the fixed scan."""
    from JointRegSegLib.scene import results

    nodes = scans(scene, pair)
    assert not widget.ui.reviewLungsButton.enabled and "Choose" in widget.ui.reviewLungsButton.toolTip
    widget._parameterNode.result = results.put(scene, *known, *nodes).identifier
    return widget


def scans(scene, pair) -> list:
    """Inhale and exhale in the scene."""
    from JointRegSegLib.scene import volumes

    nodes = []
    for name, image in (("I", pair.fixed), ("E", pair.moving)):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        volumes.fill(node, image)
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    return nodes


@pytest.fixture
def review(breathing, click, wait):
    """Clicks and waits until the lungs are reviewed, or there is a reason why not."""

    def go(button="reviewLungsButton") -> str:
        click(getattr(breathing.ui, button))
        assert breathing.ui.reviewLungsButton.text == "Cancel"
        wait(lambda: not breathing.lung.busy, 120)
        return breathing.ui.statusLabel.text

    return go


def cells(table, row: int) -> list[str]:
    return [table.item(row, column).text() for column in range(table.columnCount)]


def cut_through(scene, center) -> bool:
    """Whether the first reading view cuts through a place, LPS mm."""
    from JointRegSegLib.scene import layout, volumes

    matrix = volumes.to_numpy(layout.slice_node(scene, layout.FIXED).GetSliceToRAS())
    return abs((center * np.array([-1, -1, 1]) - matrix[:3, 3]) @ matrix[:3, 2]) < 0.01


def test_from_click_to_reading(scene, breathing, review, click, wait, monkeypatch, tmp_path):
    import qt
    from JointRegSegLib.scene import layout, lung

    ui, result = breathing.ui, breathing.show.result
    assert not ui.lungLayoutButton.enabled and not ui.lungReportButton.enabled and ui.lungTable.rowCount == 0
    assert review() == "The lungs are reviewed: AMBER."
    assert "<b>AMBER</b>" in ui.lungOrderLabel.text and "#f9a825" in ui.lungOrderLabel.styleSheet
    assert "Inhale: lungs of" in ui.lungOrderLabel.text and "exchange" not in ui.lungOrderLabel.text
    assert "thicker than" in ui.lungWarningsLabel.text
    names = [cells(ui.lungTable, row)[0] for row in range(ui.lungTable.rowCount)]
    assert names[:3] == ["lungs", "right lung", "left lung"] and "core" in names
    assert "±" in cells(ui.lungTable, 0)[3] and "volume change" in ui.lungTable.horizontalHeaderItem(3).text()

    # The reading layout came by itself: the map over the inhale.
    view = layout.composite(scene, layout.COMPARISON)
    assert view.GetForegroundVolumeID() == result.get("lung_map_ventilation").GetID()
    wait(lambda: True)  # the views get their sizes
    assert cut_through(scene, lung.find(scene, result).report["regions"][0]["center_mm"])
    assert layout.composite(scene, layout.WARPED).GetBackgroundVolumeID() == result.get("warped").GetID()
    ui.lungMeasureSelector.currentIndex = ui.lungMeasureSelector.findData("strain_1")
    assert view.GetForegroundVolumeID() == result.get("lung_map_strain_1").GetID()
    assert (
        breathing._parameterNode.lungMeasure == "strain_1" and "strain" in ui.lungTable.horizontalHeaderItem(3).text()
    )
    breathing.ui.playSlider.value = 50  # half a breath
    assert layout.composite(scene, layout.WARPED).GetBackgroundVolumeID() == result.get("played").GetID()
    breathing.ui.playSlider.value = 100

    # A row's region is in all views.
    row = names.index("upper zone")
    ui.lungTable.cellClicked(row, 1)
    assert cut_through(scene, lung.find(scene, result).report["regions"][row]["center_mm"])
    ui.lungMeasureSelector.currentIndex = ui.lungMeasureSelector.findData("parametric_response")
    assert "Emphysema" in ui.lungTable.horizontalHeaderItem(3).text() and " / " in cells(ui.lungTable, 0)[3]
    ui.lungMeasureSelector.currentIndex = ui.lungMeasureSelector.findData("strain_1")

    outline = result.get("lung_outline").GetDisplayNode()
    assert outline.GetVisibility()
    click(ui.layoutButton)  # back to that of the registration
    assert not outline.GetVisibility() and view.GetForegroundVolumeID() != result.get("lung_map_strain_1").GetID()
    click(ui.lungLayoutButton)
    assert outline.GetVisibility() and view.GetForegroundVolumeID() == result.get("lung_map_strain_1").GetID()

    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    click(ui.lungReportButton)
    wait(lambda: opened, 60)
    page = Path(opened[0]).read_text(encoding="utf-8")
    assert "Lung review" in page and "not named in this report" in page
    pdf = tmp_path / "review.pdf"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(pdf))
    click(ui.lungPdfButton)
    wait(lambda: not breathing.lung.busy, 60)
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 50_000
    assert str(pdf) in ui.statusLabel.text


def test_the_swap_is_offered_and_the_error_told(scene, breathing, review, pair):
    """Called the wrong way round, that is said; with landmarks and the patient's name as wanted."""
    from JointRegSegGui.parameters import Phase
    from JointRegSegLib.scene import lung

    parameters, ui = breathing._parameterNode, breathing.ui
    parameters.fixedIs = Phase.EXHALE
    for side in ("fixed", "moving"):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side)
        for x, y, z in getattr(pair, f"{side}_points"):
            node.AddControlPoint(-x, -y, z)
        setattr(parameters, f"{side}Points", node)
    parameters.namePatient = True
    review()
    assert "exchange the two" in ui.lungOrderLabel.text and "exchange the two" in ui.lungWarningsLabel.text
    parameters.fixedVolume, parameters.movingVolume = lung.scans(breathing.show.result)
    assert ui.reviewLungsButton.text == "Review lungs"  # what is registered is not registered again
    parameters.fixedIs = Phase.INHALE  # which that review was not about
    review("exchangeButton")
    assert parameters.fixedIs is Phase.INHALE and "exchange" not in ui.lungOrderLabel.text
    report = lung.find(scene, breathing.show.result).report
    assert "landmarks" in report["error"]["source"] and report["error"]["deviation_mm"] < 0.5
    assert report["patient"]["Volume"] == "I"


def test_a_review_that_ends_while_another_module_is_open(scene, breathing, click, wait):
    """It takes no layout away from what the user does there."""
    from JointRegSegLib.scene import layout, lung

    result = breathing.show.result
    layout.offer(scene).SetViewArrangement(1)
    click(breathing.ui.reviewLungsButton)
    breathing.exit()
    wait(lambda: not breathing.lung.busy, 120)
    assert "reviewed" in breathing.ui.statusLabel.text and lung.find(scene, result) is not None
    assert layout.offer(scene).GetViewArrangement() == 1
    breathing.enter()
    assert breathing.ui.lungTable.rowCount > 3 and breathing.ui.lungLayoutButton.enabled


def test_a_result_that_is_removed_meanwhile(scene, breathing, click, wait):
    from JointRegSegLib.scene import results

    result, before = breathing.show.result, scene.GetNumberOfNodes()
    click(breathing.ui.reviewLungsButton)
    results.remove(scene, result)
    wait(lambda: not breathing.lung.busy, 120)
    assert "was removed meanwhile" in breathing.ui.statusLabel.text
    assert scene.GetNumberOfNodes() < before and not scene.GetNodesByName("Lungs").GetNumberOfItems()


def test_what_cannot_be_reviewed_is_told(scene, breathing, review, click, wait):
    from JointRegSegLib.scene import volumes

    parameters, ui = breathing._parameterNode, breathing.ui
    parameters.fixedPoints = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "lonely")
    parameters.fixedPoints.AddControlPoint(0, 0, 0)
    ui.reviewLungsButton.click()
    assert "choose the other list" in ui.statusLabel.text
    parameters.fixedPoints = None
    transform = breathing.show.result.get("transform")
    moving = transform.GetNodeReference("spatialRegistrationMoving")
    volumes.values_of(moving)[:] += 1100  # no CT any more
    assert "Lung review, Lungs" in review()
    click(ui.reviewLungsButton)
    click(ui.reviewLungsButton)  # which is Cancel now
    wait(lambda: not breathing.lung.busy)
    assert "Canceled" in ui.statusLabel.text
    scene.RemoveNode(moving)
    click(ui.reviewLungsButton)
    assert "not in the scene anymore" in ui.statusLabel.text


def test_lungs_are_chosen(scene, breathing, review, pair):
    from JointRegSegLib.scene import lung, volumes

    for side in ("fixed", "moving"):
        node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{side} lungs")
        volumes.fill(node, getattr(pair, f"{side}_labels") * (getattr(pair, f"{side}_labels") <= 2))
        getattr(breathing.ui, f"{side}LungsSelector").setCurrentNode(node)
    assert breathing._parameterNode.movingLungs.GetName() == "moving lungs"
    review()
    report = lung.find(scene, breathing.show.result).report
    assert [row["region"] for row in report["regions"]][:3] == ["lungs", "label 1", "label 2"]


def test_a_closed_scene_leaves_nothing(scene, breathing, click):
    click(breathing.ui.reviewLungsButton)
    scene.Clear(False)
    assert not breathing.lung.busy and breathing.ui.lungTable.rowCount == 0
    assert not breathing.ui.reviewLungsButton.enabled


def test_one_click_registers_and_reviews(scene, widget, pair, click, wait, monkeypatch):
    """Two scans that nobody registered: the bar goes on to the end, and then everything is there."""
    import qt
    from JointRegSegLib.scene import layout, lung

    ui, parameters = widget.ui, widget._parameterNode
    parameters.fixedVolume, parameters.movingVolume = scans(scene, pair)
    parameters.workingSize = 32
    assert ui.reviewLungsButton.text == "Register && review lungs" and "'E' to 'I'" in ui.reviewLungsButton.toolTip
    before = scene.GetNumberOfNodes()
    click(ui.reviewLungsButton)
    assert ui.reviewLungsButton.text == "Cancel" and ui.progressBar.visible
    assert not ui.applyButton.enabled and "being reviewed" in ui.applyButton.text
    seen = set()
    wait(lambda: seen.add(ui.progressBar.value) or ui.progressBar.value > 10, 120)
    assert " left" in ui.lungOrderLabel.text and ui.lungOrderLabel.text == ui.statusLabel.text
    click(ui.reviewLungsButton)
    wait(lambda: not widget.lung.busy, 20)
    assert "Canceled" in ui.statusLabel.text and "Canceled" in ui.lungOrderLabel.text
    assert scene.GetNumberOfNodes() == before and not ui.progressBar.visible
    assert ui.applyButton.enabled and ui.reviewLungsButton.text == "Register && review lungs"

    click(ui.reviewLungsButton)
    wait(lambda: seen.add(ui.progressBar.value) or not widget.lung.busy, 240)
    assert ui.statusLabel.text.startswith("The lungs are reviewed: ") and len(seen) > 5
    result = widget.show.result
    assert result.report["model"]["name"] == "generic" and parameters.result == result.identifier
    assert lung.is_of(result, parameters.fixedVolume, parameters.movingVolume)
    assert result.get("inverse") is not None and not ui.resultsCollapsibleButton.collapsed
    found = lung.find(scene, result)
    assert found.report["evidence"]["dice_after"] > found.report["evidence"]["dice_before"]
    view = layout.composite(scene, layout.COMPARISON)
    assert view.GetForegroundVolumeID() == result.get("lung_map_ventilation").GetID()
    assert ui.reviewLungsButton.text == "Review lungs" and ui.applyButton.enabled
    # Both pages can be drawn.
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    wait(lambda: ui.reportButton.enabled, 5)
    for button, title in ((ui.reportButton, "registered to"), (ui.lungReportButton, "Lung review")):
        opened.clear()
        click(button)
        wait(lambda: opened, 60)
        assert title in Path(opened[0]).read_text(encoding="utf-8")
