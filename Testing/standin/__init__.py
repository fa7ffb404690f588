"""A stand-in for Slicer's desktop: real MRML and real Qt widgets under the names and manners of the application.

`install` makes `qt`, `ctk`, `SampleData` and what PyPI's slicer-core leaves out of `slicer`; `uninstall` takes all that
back. It knows what modules commonly use; whatever it does not know fails.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
from PySide6 import QtCore, QtWidgets
from shiboken6 import Shiboken

from . import application, ctk, dialogs, loader, module, parameters, pythonqt, services, widgets, window
from .changes import Changes
from .scene import Surroundings

__all__ = ["close_panel", "complaints", "dialogs", "install", "load", "open_panel", "open_window", "uninstall"]

complaints: list[str] = []
"""What Qt itself had to complain about since `install`: connections that are none, properties that it does not have."""

_changes = Changes()
_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
_home = tempfile.TemporaryDirectory()


def install() -> None:
    """Put the stand-in in place, with an empty scene and no settings."""
    complaints.clear()
    services.asked.clear()
    QtCore.qInstallMessageHandler(_hear)
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, _home.name)
    QtCore.QSettings("standin", "Slicer").clear()
    for name, value in (("organizationName", "standin"), ("applicationName", "Slicer")):
        _application.setProperty(name, value)
    pythonqt.apply(_changes)
    dialogs.apply(_changes)
    _changes.add_module("qt", pythonqt.names() | {"QUiLoader": loader.QUiLoader})
    _changes.add_module("ctk", ctk.WIDGETS)
    _changes.add_module("SampleData", {"SampleDataLogic": services.SampleDataLogic})
    surroundings = Surroundings(_home.name)
    content = widgets.WIDGETS | {
        "mrmlScene": surroundings.scene,
        "app": application.qSlicerApplication(surroundings),
        "modules": application.modules(surroundings),
        "selfTests": {},
        "qSlicerLoadableModule": application.qSlicerLoadableModule,
        "qSlicerScriptedLoadableModule": application.qSlicerScriptedLoadableModule,
    }
    for name, value in content.items():
        _changes.set(slicer, name, value)
    names = ("pip_check", "pip_ensure", "pip_install")
    _changes.add_module("slicer.i18n", {"tr": services.tr, "translate": services.translate})
    _changes.add_module("slicer.packaging", {name: getattr(services, name) for name in names})
    _changes.add_module("slicer.ScriptedLoadableModule", module.CONTENT)
    _changes.add_module("slicer.parameterNodeWrapper", parameters.CONTENT)


def uninstall() -> None:
    """Take everything back and empty the scene."""
    slicer.mrmlScene.Clear(True)
    QtCore.qInstallMessageHandler(None)
    _changes.undo()


def load(path: Path) -> Any:
    """Load a scripted module from its file, as the application does at its start.

    Returns
    -------
    module
        The Python module; `slicer.modules` has it too.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    _changes.own_module(loaded)
    spec.loader.exec_module(loaded)
    described = application.qSlicerScriptedLoadableModule()
    described.name, described.path = path.stem, str(path)
    setattr(slicer.modules, path.stem.lower(), described)
    described._instance = getattr(loaded, path.stem)(described)
    return loaded


def open_panel(loaded: Any) -> Any:
    """Make a loaded module's panel and show it; returns the Python widget."""
    described = getattr(slicer.modules, loaded.__name__.lower())
    parent = widgets.qSlicerScriptedLoadableModuleWidget()
    parent.setMRMLScene(slicer.mrmlScene)
    described._widget = parent
    parent._python = getattr(loaded, f"{loaded.__name__}Widget")(parent)
    setattr(slicer.modules, f"{loaded.__name__}Widget", parent._python)
    parent._python.setup()
    parent.show()
    parent.enter()
    return parent._python


def open_window() -> Any:
    """Make the main window, whose module selector opens modules that were loaded; it lives with the caller."""

    def select(name: str) -> None:
        panel = getattr(slicer.modules, name.lower()).widgetRepresentation()
        if panel is None:
            open_panel(sys.modules[name])
        elif not panel.isEntered:
            panel.enter()

    return window.qSlicerMainWindow(select)


def close_panel(python: Any) -> None:
    """Leave the module and take its panel down, as the application does at its end."""
    python.parent.exit()
    slicer.app.moduleManager().moduleAboutToBeUnloaded(python.moduleName)
    Shiboken.delete(python.parent)


def _hear(kind: QtCore.QtMsgType, context: Any, text: str) -> None:
    if "does not support" not in text:  # what the offscreen platform cannot do
        complaints.append(text)
