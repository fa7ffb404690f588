"""Which widget can stand for which parameter, both ways: the pairs that the original knows, and no other."""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
from PySide6 import QtWidgets

from . import ctk, widgets
from .rules import Choice, Decimals, Maximum, Minimum, SingleStep, WithinRange

STRINGABLE = (int, float, str, bool)


@dataclass(frozen=True)
class Way:
    """How values of some types go in and out of widgets of one exact class."""

    widgets: tuple[type, ...]
    fits: Callable[[type], bool]
    signal: str
    read: Callable[[Any, Any], Any]
    write: Callable[[Any, Any, Any], None]
    prepare: Callable[[Any, Any], None] = lambda widget, parameter: None


class Connector:
    """One widget bound to one parameter.

    Raises
    ------
    RuntimeError
        Where the original knows no way between this widget and this type.
    """

    def __init__(self, widget: Any, parameter: Any) -> None:
        self._widget, self._parameter, self._callback = widget, parameter, None
        ways = (way for way in WAYS if type(widget) in way.widgets and way.fits(parameter.kind))
        self._way = next(ways, None)
        if self._way is None:
            raise RuntimeError(f"no connector from {parameter.kind} ('{parameter.name}') to {type(widget)}")
        self._way.prepare(widget, parameter)

    def read(self) -> Any:
        return self._way.read(self._widget, self._parameter)

    def write(self, value: Any) -> None:
        self._way.write(self._widget, self._parameter, value)

    def on_changed(self, callback: Callable[[], None] | None) -> None:
        """Call this whenever the widget changes; nothing any more with None."""
        signal = getattr(self._widget, self._way.signal)
        if callback is None:
            signal.disconnect(self._changed)
        elif self._callback is None:
            signal.connect(self._changed)
        self._callback = callback

    def _changed(self) -> None:
        self._callback()


def _attribute(name: str) -> dict[str, Callable]:
    """A widget whose value is one of its properties."""
    return {
        "read": lambda widget, parameter: getattr(widget, name),
        "write": lambda widget, parameter, value: setattr(widget, name, value),
    }


def _note(parameter: Any, kind: type) -> Any:
    return next((note for note in parameter.notes if isinstance(note, kind)), None)


def _limits(widget: Any, parameter: Any) -> None:
    within = _note(parameter, WithinRange)
    least, most = (within or _note(parameter, kind) for kind in (Minimum, Maximum))
    if type(widget) in (QtWidgets.QSlider, ctk.ctkSliderWidget) and not (least and most):
        raise RuntimeError(f"a slider needs a range for '{parameter.name}'")
    for name, kind in (("decimals", Decimals), ("singleStep", SingleStep)):
        if note := _note(parameter, kind):
            setattr(widget, name, note.value)
    lowest, highest = (-(2**31), 2**31 - 1) if parameter.kind is int else (float("-inf"), float("inf"))
    widget.minimum = least.minimum if least else lowest
    widget.maximum = most.maximum if most else highest


def _entries(parameter: Any) -> list[tuple[str, Any]]:
    """Texts and values of a combo box."""
    if issubclass(parameter.kind, enum.Enum):
        label = getattr(parameter.kind, "label", lambda member: member.name)
        return [(label(member), member) for member in parameter.kind]
    choice = _note(parameter, Choice)
    if choice is None:
        raise RuntimeError(f"a combo box needs Choice for '{parameter.name}'")
    return [(str(value), value) for value in choice.choices]


def _fill(widget: Any, parameter: Any) -> None:
    widget.clear()
    for text, _ in _entries(parameter):
        widget.addItem(text)


def _choose(widget: Any, parameter: Any, value: Any) -> None:
    widget.currentIndex = [entry for _, entry in _entries(parameter)].index(value)


def _make_checkable(widget: Any, parameter: Any) -> None:
    widget.checkable = True


def _filter(widget: Any, parameter: Any) -> None:
    widget.nodeTypes = [kind().GetClassName() for kind in parameter.kinds]


WAYS = (
    Way((QtWidgets.QCheckBox,), lambda kind: kind is bool, "stateChanged", **_attribute("checked")),
    Way(
        (QtWidgets.QPushButton,), lambda kind: kind is bool, "toggled", **_attribute("checked"), prepare=_make_checkable
    ),
    Way(
        (QtWidgets.QSlider, QtWidgets.QSpinBox),
        lambda kind: kind is int,
        "valueChanged",
        **_attribute("value"),
        prepare=_limits,
    ),
    Way(
        (QtWidgets.QDoubleSpinBox, ctk.ctkSliderWidget),
        lambda kind: kind is float,
        "valueChanged",
        **_attribute("value"),
        prepare=_limits,
    ),
    Way(
        (QtWidgets.QComboBox,),
        lambda kind: kind in STRINGABLE or issubclass(kind, enum.Enum),
        "currentIndexChanged",
        lambda widget, parameter: _entries(parameter)[widget.currentIndex][1],
        _choose,
        _fill,
    ),
    Way((QtWidgets.QLineEdit,), lambda kind: kind is str, "textChanged", **_attribute("text")),
    Way(
        (QtWidgets.QTextEdit,),
        lambda kind: kind is str,
        "textChanged",
        lambda widget, parameter: widget.toPlainText(),
        lambda widget, parameter, value: widget.setPlainText(value),
    ),
    Way(
        (ctk.ctkPathLineEdit,),
        lambda kind: issubclass(kind, pathlib.PurePath),
        "currentPathChanged",
        lambda widget, parameter: parameter.kind(widget.currentPath),
        lambda widget, parameter, value: setattr(widget, "currentPath", str(value)),
    ),
    Way(
        (ctk.ctkDirectoryButton,),
        lambda kind: issubclass(kind, pathlib.PurePath),
        "directoryChanged",
        lambda widget, parameter: parameter.kind(widget.directory),
        lambda widget, parameter, value: setattr(widget, "directory", str(value)),
    ),
    Way(
        (widgets.qMRMLNodeComboBox,),
        lambda kind: issubclass(kind, slicer.vtkMRMLNode),
        "currentNodeChanged",
        lambda widget, parameter: widget.currentNode(),
        lambda widget, parameter, value: widget.setCurrentNode(value),
        _filter,
    ),
)
