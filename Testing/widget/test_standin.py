"""The stand-in itself: it takes what Slicer takes, and refuses what Slicer refuses."""

from __future__ import annotations

import pathlib
import typing
from pathlib import Path
from typing import Annotated

import pytest

SAMPLE = Path(__file__).parent / "sample" / "SampleModule.py"


@pytest.fixture
def sample(desktop):
    return desktop.load(SAMPLE)


@pytest.fixture
def panel(desktop, sample):
    panel = desktop.open_panel(sample)
    yield panel
    desktop.close_panel(panel)


@pytest.fixture
def nodes(scene):
    import slicer

    kinds = {"volume": "vtkMRMLScalarVolumeNode", "thing": "vtkMRMLTextNode"}
    assert slicer.mrmlScene is scene
    return {name: scene.AddNewNodeByClass(kind, name) for name, kind in kinds.items()}


@pytest.fixture
def values(sample, nodes):
    """A value for each parameter that is not its default."""
    return nodes | {
        "mode": sample.Mode.FAST,
        "size": "large",
        "flag": False,
        "pressed": True,
        "steps": 23,
        "count": 12,
        "weight": 0.625,
        "length": -4.25,
        "title": "a title",
        "notes": "two\nlines",
        "folder": pathlib.Path("some", "where"),
    }


SHOWN = {
    "volume": lambda w: w.currentNode(),
    "thing": lambda w: w.currentNode(),
    "mode": lambda w: w.currentText,
    "size": lambda w: w.currentText,
    "flag": lambda w: w.checked,
    "pressed": lambda w: w.checked,
    "steps": lambda w: w.value,
    "count": lambda w: w.value,
    "weight": lambda w: w.value,
    "length": lambda w: w.value,
    "title": lambda w: w.text,
    "notes": lambda w: w.toPlainText(),
    "folder": lambda w: w.currentPath,
}
TEXTS = {"mode": "Quick", "folder": str(pathlib.Path("some", "where"))}


def test_from_parameters_to_widgets(panel, values):
    for name, value in values.items():
        setattr(panel.node, name, value)
        assert SHOWN[name](getattr(panel.ui, f"{name}Widget")) == TEXTS.get(name, value), name


def test_from_widgets_to_parameters(panel, values):
    ui = panel.ui
    ui.volumeWidget.setCurrentNode(values["volume"])
    ui.thingWidget.setCurrentNodeID(values["thing"].GetID())
    ui.modeWidget.currentText = "Quick"
    ui.sizeWidget.currentIndex = 1
    ui.flagWidget.click()
    ui.pressedWidget.click()
    ui.stepsWidget.value = values["steps"]
    ui.countWidget.setValue(values["count"])
    ui.weightWidget.value = values["weight"]
    ui.lengthWidget.value = values["length"]
    ui.titleWidget.text = values["title"]
    ui.notesWidget.setPlainText(values["notes"])
    ui.folderWidget.currentPath = str(values["folder"])
    assert {name: panel.node.getValue(name) for name in values} == values


def test_parameters_survive_a_scene_as_text(desktop, sample, panel, scene, values):
    import slicer

    for name, value in values.items():
        panel.node.setValue(name, value)
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    scene.Clear(False)
    assert panel.node.steps == panel.node.default("steps").value and panel.node.volume is None
    assert panel.ui.stepsWidget.value == panel.node.steps and panel.ui.volumeWidget.currentNode() is None
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    scene.Import()
    found = sample.SampleModuleLogic().getParameterNode()
    for name, value in values.items():
        if isinstance(value, slicer.vtkMRMLNode):
            assert found.getValue(name).GetName() == value.GetName() == name
        else:
            assert found.getValue(name) == value
    assert panel.ui.stepsWidget.value == values["steps"] and panel.ui.volumeWidget.currentNode() is found.volume


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("weight", 1.01, ValueError),
        ("weight", "0.5", TypeError),
        ("weight", None, ValueError),
        ("steps", 2.0, TypeError),
        ("count", 0, ValueError),
        ("size", "middle", ValueError),
        ("mode", "fast", TypeError),
        ("flag", 1, TypeError),
        ("title", None, ValueError),
        ("folder", "some", TypeError),
        ("stpes", 3, AttributeError),
    ],
)
def test_parameters_refuse_what_the_original_refuses(panel, name, value, error):
    before = {known: panel.node.getValue(known) for known in panel.node.allParameters}
    with pytest.raises(error):
        setattr(panel.node, name, value)
    assert {known: panel.node.getValue(known) for known in panel.node.allParameters} == before


def test_nodes_of_another_type_are_refused(panel, nodes):
    with pytest.raises(TypeError):
        panel.node.volume = nodes["thing"]
    with pytest.raises(TypeError):
        panel.node.thing = nodes["volume"]


def test_wrappers_that_cannot_be(desktop, sample):
    import slicer
    from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

    def wrapped(annotation):
        return parameterNodeWrapper(type("Wrong", (), {"__annotations__": {"member": annotation}}))

    for annotation in (list[int], complex, typing.Union[int, str], int | str):  # noqa: UP007
        with pytest.raises(TypeError, match="no serializer"):
            wrapped(annotation)
    node = sample.SampleModuleLogic().createParameterNode()
    with pytest.raises(TypeError, match="not NoneType"):  # several types of nodes, and None none of them
        wrapped(typing.Union[slicer.vtkMRMLModelNode, slicer.vtkMRMLTextNode])(node)  # noqa: UP007
    for annotation in (Annotated[float, WithinRange(2, 3)], Annotated[str, Choice(["a"])]):
        with pytest.raises(ValueError, match="breaks"):  # the natural default is none of them
            wrapped(annotation)(node)
    with pytest.raises(ValueError, match="reserved"):
        parameterNodeWrapper(type("Wrong", (), {"__annotations__": {"default": int}}))


def test_widgets_that_cannot_show_a_parameter(panel):
    import ctk
    import qt
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Own(qt.QCheckBox):
        pass

    wrong = {
        "flag": (qt.QLineEdit, qt.QToolButton, Own),
        "steps": (qt.QDoubleSpinBox, qt.QComboBox, ctk.ctkSliderWidget),
        "count": (qt.QSlider,),
        "weight": (qt.QSpinBox, ctk.ctkDoubleSlider),
        "length": (ctk.ctkSliderWidget,),
        "title": (qt.QLabel, qt.QPlainTextEdit, qt.QComboBox, ctk.ctkSearchBox),
        "mode": (qt.QLineEdit,),
        "folder": (qt.QLineEdit,),
        "volume": (qt.QComboBox, slicer.qMRMLWidget),
    }
    for name, kinds in wrong.items():
        for kind in kinds:
            with pytest.raises(RuntimeError):
                panel.node.connectParametersToGui({name: kind()})
    wrapper = parameterNodeWrapper(type("Wrong", (), {"__annotations__": {"any": slicer.vtkMRMLVolumeNode}}))
    with pytest.raises(TypeError, match="abstract class"):  # the original makes one to ask for its name
        wrapper(panel.node.parameterNode).connectParametersToGui({"any": slicer.qMRMLNodeComboBox()})
    with pytest.raises(ValueError, match="no parameter 'nothing'"):
        panel.node.connectParametersToGui({"nothing": qt.QLineEdit()})


def test_a_disconnected_widget_is_left_alone(panel):
    import qt

    box = qt.QSpinBox()
    tag = panel.node.connectParametersToGui({"steps": box})
    panel.node.steps = 11
    assert box.value == 11 and box.maximum == 40
    panel.node.disconnectGui(tag)
    box.value = 5
    assert panel.node.steps == 11


def test_what_is_connected_by_name_cannot_be_disconnected(panel):
    """As in Slicer, where `connectGui` gives no tag: a second one resets choices while it fills their lists."""
    from types import SimpleNamespace

    import qt

    box = qt.QComboBox()
    box.setProperty("SlicerParameterName", "size")
    for _ in range(2):
        panel.node.size = "large"
        panel.node.disconnectGui(panel.node.connectGui(SimpleNamespace(box=box)))
    assert panel.node.size == "small"


def test_properties_are_attributes(desktop):
    import ctk
    import qt

    button = qt.QPushButton("text")
    button.name, button.toolTip, button.enabled = "named", "tip", False
    assert (button.text, button.objectName, button.toolTip, button.enabled) == ("text", "named", "tip", False)
    assert not button.isEnabled() and button.className() == "QPushButton"
    with pytest.raises(TypeError):
        button.text()
    button.setProperty("SlicerParameterName", "x")
    assert button.SlicerParameterName == button.property("SlicerParameterName") == "x"
    section = ctk.ctkCollapsibleButton()
    section.collapsed = True
    assert not section.checked
    combo = qt.QComboBox()
    combo.addItems(["a", "b"])
    combo.currentText = "b"
    assert (combo.count, combo.currentIndex) == (2, 1)
    label = qt.QLabel()
    label.alignment = qt.Qt.AlignRight
    assert label.alignment == qt.Qt.AlignRight
    table = qt.QTableWidget(1, 1)
    header = table.horizontalHeader()
    header.stretchLastSection = True
    assert header.stretchLastSection


def test_unknown_attributes_are_refused(desktop):
    import ctk
    import qt
    import slicer

    for thing in (qt.QPushButton(), qt.QTimer(), ctk.ctkSliderWidget(), slicer.qMRMLNodeComboBox(), slicer.app):
        with pytest.raises(AttributeError):
            thing.txet = "x"
        with pytest.raises(AttributeError):
            thing.txet  # noqa: B018
    item = qt.QTableWidgetItem("x")
    with pytest.raises(AttributeError):
        item.text = "y"
    assert item.text() == "x"
    with pytest.raises(AttributeError):
        qt.QPushButton().clicked.emit()
    with pytest.raises(AttributeError):
        qt.QPushButton().width = 3
    with pytest.raises(AttributeError):
        qt.Signal  # noqa: B018


def test_signals_both_ways(desktop):
    import qt
    import slicer

    heard = []
    button = qt.QPushButton()
    button.checkable = True
    button.connect("clicked(bool)", heard.append)
    button.connect("clicked()", lambda: heard.append("nothing"))
    button.toggled.connect(lambda on: heard.append(("toggled", on)))
    button.click()
    assert sorted(map(str, heard)) == ["('toggled', True)", "True", "nothing"]
    button.disconnect("clicked(bool)", heard.append)
    heard.clear()
    button.click()
    assert sorted(map(str, heard)) == ["('toggled', False)", "nothing"]
    assert not button.toggled.disconnect(print)
    with pytest.raises(AttributeError, match="clikced"):
        button.connect("clikced()", print)
    started = []
    slicer.app.connect("startupCompleted()", lambda: started.append(True))
    slicer.app.startupCompleted()
    assert started == [True]


def test_a_node_selector_follows_its_scene(scene):
    import slicer

    heard = []
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: heard.append(node and node.GetName()))
    selector.connect("currentNodeChanged(bool)", heard.append)
    selector.setMRMLScene(scene)
    first = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    assert selector.currentNode() is first and sorted(map(str, heard)) == ["True", "first"]  # without None, the first
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    hidden = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.UnRegister(None)
    hidden.SetHideFromEditors(True)
    scene.AddNode(hidden)
    assert selector.nodeCount() == 2
    selector.showChildNodeTypes = False
    assert selector.nodeCount() == 1
    selector.showHidden = selector.showChildNodeTypes = True
    assert selector.nodeCount() == 3 and selector.currentNode() is first
    selector.noneEnabled = True
    assert selector.nodeCount() == 3 and selector.currentNodeID == first.GetID()
    selector.setCurrentNode(labels)
    scene.RemoveNode(labels)
    assert selector.currentNode() is not labels and selector.nodeCount() == 2
    selector.setCurrentNode(None)
    assert selector.currentNode() is None and selector.currentNodeID == ""
    selector.setCurrentNode(first)
    scene.Clear(True)
    assert selector.currentNode() is None and selector.nodeCount() == 0


def test_the_application_around_a_module(desktop, sample, panel, wait):
    import qt
    import slicer

    assert slicer.util.modulePath("SampleModule") == str(SAMPLE)
    assert slicer.modules.samplemodule.title == "Sample" and "SampleModule" in slicer.selfTests
    assert slicer.util.getModuleLogic("SampleModule") is panel.logic
    instance = slicer.modules.samplemodule
    slicer.app.startupCompleted()
    assert slicer.selfTests["SampleModule"].__self__.started and instance.categories == ("Examples",)
    assert panel.parent.isEntered and slicer.util.settingsValue("x/y", 3) == 3
    ticks = []
    timer = qt.QTimer()
    timer.interval = 1
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start()
    wait(lambda: len(ticks) > 3, 20)
    assert timer.active


def test_windows_do_not_wait(desktop):
    import qt
    import slicer

    with pytest.raises(AssertionError, match="would wait for an answer: Sure"):
        slicer.util.confirmYesNoDisplay("Sure?")
    desktop.dialogs.answers += [qt.QMessageBox.Yes, "a path"]
    assert slicer.util.confirmYesNoDisplay("Sure?")
    assert qt.QFileDialog.getExistingDirectory(None, "Folder") == "a path"
    assert qt.QDesktopServices.openUrl(qt.QUrl("file:///report.html"))
    assert desktop.dialogs.shown[1:] == [
        ("ctkMessageBox", "Sure?"),
        ("QFileDialog.getExistingDirectory", "Folder"),
        ("QDesktopServices.openUrl", "file:///report.html"),
    ]


def test_packages_and_sample_data(desktop):
    import SampleData
    import slicer.packaging

    assert slicer.packaging.pip_check("pytest>=8") and not slicer.packaging.pip_check("pytest>=800")
    slicer.packaging.pip_ensure("pytest no-such-package>=2", requester="test")
    assert desktop.services.asked == ["no-such-package>=2"]
    made = []
    SampleData.SampleDataLogic.registerCustomSampleDataSource("c", "s", customDownloader=made.append)
    SampleData.SampleDataLogic().downloadSamples("s")
    assert made == slicer.modules.sampleDataSources["c"]


def test_nothing_is_left_behind():
    import sys

    import standin
    from PySide6.QtWidgets import QPushButton

    before = set(sys.modules)
    standin.install()
    standin.uninstall()
    button = QPushButton("x")
    button.own = 3
    assert set(sys.modules) == before and "qt" not in before and button.text() == "x"
