"""The widgets of CTK that modules use, with their documented properties and no looks."""

from __future__ import annotations

from typing import Any

from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from .forward import forward, stored


def _row(widget: QtWidgets.QWidget, *inner: QtWidgets.QWidget) -> None:
    row = QtWidgets.QHBoxLayout(widget)
    row.setContentsMargins(0, 0, 0, 0)
    for part in inner:
        row.addWidget(part)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that hides what lies below it; down is open."""

    contentsCollapsed = Signal(bool)
    flat = stored(bool, "flat", False)

    def __init__(self, *args: Any) -> None:
        text = args[0] if args and isinstance(args[0], str) else ""
        super().__init__(args[-1] if args and args[-1] is not text else None)
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._on_toggled)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))

    def _on_toggled(self, opened: bool) -> None:
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(opened)
        self.contentsCollapsed(not opened)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Nothing: the base class asks for one."""


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group that folds by its check mark."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.setCheckable(True)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with its spin box."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    tracking = stored(bool, "tracking", True)
    tickInterval = stored(float, "tickInterval", 0.0)
    pageStep = stored(float, "pageStep", 10.0)
    spinBoxVisible = stored(bool, "spinBoxVisible", True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox()
        _row(self, self._box)
        self._box.valueChanged.connect(self._changed)

    minimum, maximum, singleStep, value = (
        forward(float, "_box", name) for name in ("minimum", "maximum", "singleStep", "value")
    )
    decimals = forward(int, "_box", "decimals")
    suffix, prefix = forward(str, "_box", "suffix"), forward(str, "_box", "prefix")

    def _changed(self, value: float) -> None:
        self.valueChanged(value)

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._box.setRange(minimum, maximum)


class ctkDoubleSlider(QtWidgets.QWidget):
    """A slider of real numbers."""

    valueChanged = Signal(float)
    sliderMoved = Signal(float)
    sliderPressed = Signal()
    sliderReleased = Signal()
    tracking = stored(bool, "tracking", True)
    pageStep = stored(float, "pageStep", 10.0)

    def __init__(self, *args: Any) -> None:
        """`args` are the orientation and the parent, both optional."""
        super().__init__(args[-1] if args and isinstance(args[-1], QtWidgets.QWidget) else None)
        self._box = QtWidgets.QDoubleSpinBox()
        self._slider = QtWidgets.QSlider(*(args[:1] if args and not isinstance(args[0], QtWidgets.QWidget) else ()))
        _row(self, self._slider)
        self._box.setDecimals(6)
        self._box.valueChanged.connect(self._changed)

    minimum, maximum, singleStep, value = (
        forward(float, "_box", name) for name in ("minimum", "maximum", "singleStep", "value")
    )
    orientation = forward(object, "_slider", "orientation")

    def _changed(self, value: float) -> None:
        self.valueChanged(value)

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._box.setRange(minimum, maximum)


class ctkSearchBox(QtWidgets.QLineEdit):
    """A line to search with."""

    showSearchIcon = stored(bool, "showSearchIcon", False)
    alwaysShowClearIcon = stored(bool, "alwaysShowClearIcon", False)


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a text for no choice."""

    defaultText = stored(str, "defaultText", "")


class _Place(QtWidgets.QWidget):
    """What the two widgets for paths share: a line that holds the path."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._line = QtWidgets.QLineEdit()
        _row(self, self._line)
        self._line.textChanged.connect(self._changed)


class ctkPathLineEdit(_Place):
    """A path and its history."""

    currentPathChanged = Signal(str)
    settingKey = stored(str, "settingKey", "")
    showBrowseButton = stored(bool, "showBrowseButton", True)
    showHistoryButton = stored(bool, "showHistoryButton", True)
    nameFilters = stored("QStringList", "nameFilters", [])
    currentPath = forward(str, "_line", "text")

    def _changed(self, text: str) -> None:
        self.currentPathChanged(text)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    def addCurrentPathToHistory(self) -> None:
        """Remembered nowhere."""


class ctkDirectoryButton(_Place):
    """A button that names a folder."""

    directoryChanged = Signal(str)
    caption = stored(str, "caption", "")
    directory = forward(str, "_line", "text")

    def _changed(self, text: str) -> None:
        self.directoryChanged(text)


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message that can be kept from coming again."""

    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")
    dontShowAgainVisible = stored(bool, "dontShowAgainVisible", False)


WIDGETS = {
    kind.__name__: kind
    for kind in (
        ctkCollapsibleButton,
        ctkCollapsibleGroupBox,
        ctkSliderWidget,
        ctkDoubleSlider,
        ctkSearchBox,
        ctkComboBox,
        ctkPathLineEdit,
        ctkDirectoryButton,
        ctkMessageBox,
    )
}
