"""A small module with a parameter for each kind of widget, to try the stand-in with."""

import enum
import pathlib
from typing import Annotated, Union

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import (
    Choice,
    Default,
    Minimum,
    WithinRange,
    findChildWidgetForParameter,
    parameterNodeWrapper,
)
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Mode(enum.Enum):
    FAST = "fast"
    GOOD = "good"

    @staticmethod
    def label(member):
        return {Mode.FAST: _("Quick"), Mode.GOOD: _("Thorough")}[member]


@parameterNodeWrapper
class SampleModuleParameterNode:
    volume: slicer.vtkMRMLScalarVolumeNode
    thing: Union[slicer.vtkMRMLModelNode, slicer.vtkMRMLTextNode, None]  # noqa: UP007 (the original knows no A | B)
    mode: Mode = Mode.GOOD
    size: Annotated[str, Choice(["small", "large"]), Default("small")]
    flag: bool = True
    pressed: bool
    steps: Annotated[int, WithinRange(0, 40)] = 7
    count: Annotated[int, Minimum(1)] = 3
    weight: Annotated[float, WithinRange(0, 1)] = 0.25
    length: float = 1.5
    title: str = "none"
    notes: str
    folder: pathlib.Path


class SampleModule(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Sample"
        parent.categories = ["Examples"]
        self.started = False
        slicer.app.connect("startupCompleted()", self.onStart)

    def onStart(self):
        self.started = True


class SampleModuleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.panel = slicer.util.loadUI(self.resourcePath("UI/SampleModule.ui"))
        self.layout.addWidget(self.panel)
        self.ui = slicer.util.childWidgetVariables(self.panel)
        self.panel.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleModuleLogic()
        self.node = None
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self.onSceneChanged)

    def enter(self):
        if self.node is not None:
            self.node.disconnectGui(self.tag)
        self.node = self.logic.getParameterNode()
        widgets = {name: findChildWidgetForParameter(self.panel, name) for name in self.node.allParameters}
        self.tag = self.node.connectParametersToGui(widgets)

    def onSceneChanged(self, caller, event):
        self.enter()

    def cleanup(self):
        self.removeObservers()


class SampleModuleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return SampleModuleParameterNode(super().getParameterNode())
