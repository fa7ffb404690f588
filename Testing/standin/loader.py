"""A loader of .ui files that knows the widgets of CTK and Slicer by their class names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk, pythonqt, widgets


class QUiLoader(QtUiTools.QUiLoader):
    """As Slicer's own, which has all its widgets built in."""

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        for kind in (ctk.WIDGETS | widgets.WIDGETS).values():
            self.registerCustomWidget(kind)

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        """PySide6 cannot connect signals with pointers to MRML: that is done here instead."""
        root = ET.fromstring(device.readAll().data())
        ours = []
        for table in root.findall("connections"):
            for connection in [c for c in table if "vtk" in c.findtext("signal", "")]:
                ours.append({part.tag: part.text for part in connection})
                table.remove(connection)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        pythonqt.loading = True
        try:
            widget = super().load(buffer, parent)
        finally:
            pythonqt.loading = False
        for way in ours:
            sender, receiver = (_named(widget, way[end]) for end in ("sender", "receiver"))
            sender.connect(way["signal"], getattr(receiver, way["slot"].partition("(")[0]))
        return widget


def _named(widget: QtWidgets.QWidget, name: str) -> Any:
    return widget if widget.name == name else widget.findChild(QtCore.QObject, name)
