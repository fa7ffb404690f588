"""The main window, as far as scripts ask for it: its module selector."""

from __future__ import annotations

from collections.abc import Callable

from PySide6 import QtWidgets


class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """Where users choose a module."""

    def __init__(self, select: Callable[[str], None]) -> None:
        super().__init__()
        self._select = select

    def selectModule(self, name: str) -> None:
        self._select(name)


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """Found by its name among the windows."""

    def __init__(self, select: Callable[[str], None]) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar(select)

    def moduleSelector(self) -> qSlicerModuleSelectorToolBar:
        return self._selector
