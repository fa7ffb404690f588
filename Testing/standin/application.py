"""`slicer.app` and `slicer.modules`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QObject, Signal

from .forward import stored
from .scene import Surroundings

LOGICS = {
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}


class qSlicerLoadableModule(QObject):
    """A module of Slicer in C++: its logic."""

    name, path = stored(str, "name", ""), stored(str, "path", "")

    def logic(self) -> Any:
        return self.__dict__.get("_logic")

    def widgetRepresentation(self) -> Any:
        return self.__dict__.get("_widget")


class qSlicerScriptedLoadableModule(qSlicerLoadableModule):
    """What the class of a scripted module describes itself to."""

    title, helpText, acknowledgementText = (stored(str, n, "") for n in ("title", "helpText", "acknowledgementText"))
    categories, dependencies, contributors, associatedNodeTypes = (
        stored("QStringList", name, [])
        for name in ("categories", "dependencies", "contributors", "associatedNodeTypes")
    )
    icon = stored(QtGui.QIcon, "icon", None)
    hidden = stored(bool, "hidden", False)
    index = stored(int, "index", -1)
    widgetRepresentationCreationEnabled = stored(bool, "widgetRepresentationCreationEnabled", True)


class qSlicerModuleManager(QObject):
    """The modules by name."""

    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)


class qSlicerApplication(QObject):
    """The application, without windows."""

    startupCompleted = Signal()
    aboutToQuit = Signal()
    applicationName = stored(str, "applicationName", "Slicer")
    applicationVersion = stored(str, "applicationVersion", "5.12.0")
    majorVersion, minorVersion = stored(int, "majorVersion", 5), stored(int, "minorVersion", 12)
    temporaryPath = stored(str, "temporaryPath", QtCore.QDir.tempPath())
    documentationBaseUrl = stored(str, "documentationBaseUrl", "https://slicer.readthedocs.io/en/latest/")

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__()
        self._surroundings, self._manager, self._views = surroundings, qSlicerModuleManager(), None

    def applicationLogic(self) -> Any:
        return self._surroundings.application

    def mrmlScene(self) -> Any:
        return self._surroundings.scene

    def moduleManager(self) -> qSlicerModuleManager:
        return self._manager

    def moduleLogic(self, name: str) -> Any:
        return self._manager.module(name).logic()

    def layoutManager(self) -> Any:
        """None, as without a main window; a test can lay one out in `_views`."""
        return self._views

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def topLevelWidgets(self) -> list[QtWidgets.QWidget]:
        return QtWidgets.QApplication.topLevelWidgets()

    def setOverrideCursor(self, cursor: Any) -> None:
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        QtWidgets.QApplication.restoreOverrideCursor()

    def testingEnabled(self) -> bool:
        return False

    def translate(self, context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def pauseRender(self) -> None:
        """Nothing is rendered."""

    def resumeRender(self) -> None:
        """Nothing is rendered."""


def modules(surroundings: Surroundings) -> SimpleNamespace:
    """Slicer's own modules that have a logic here."""
    found = SimpleNamespace(sampleDataSources={})
    logics = {name: getattr(slicer, kind)() for name, kind in LOGICS.items()}
    for logic in logics.values():
        logic.SetMRMLApplicationLogic(surroundings.application)
        logic.SetMRMLScene(surroundings.scene)
    for name, logic in (logics | {"Colors": surroundings.colors}).items():
        module = qSlicerLoadableModule()
        module.name, module._logic = name, logic
        setattr(found, name.lower(), module)
    return found
