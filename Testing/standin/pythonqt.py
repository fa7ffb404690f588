"""PySide6 with the manners of PythonQt, Slicer's binding of Qt.

There a Qt property is an attribute (`button.text = "x"`, never `button.text()`), `widget.name` is its object name, a
signal connects by attribute or by signature, and an attribute that Qt does not have cannot be set.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QObject
from shiboken6 import Shiboken

from .changes import Changes

GET = QObject.__getattribute__
BY_SIGNATURE = {"connect": QObject.connect, "disconnect": QObject.disconnect}
ONLY_PYSIDE = {"emit"}

loading = False
"""Whether a .ui file is being loaded."""


class Signal:
    """A signal of an object, as PythonQt has it: to connect, to disconnect, to call."""

    __slots__ = ("_owner", "_signal")

    def __init__(self, signal: Any, owner: QObject) -> None:
        self._signal, self._owner = signal, owner  # which lives as long as this

    def __call__(self, *values: Any) -> None:
        self._signal.emit(*values)

    def __getitem__(self, kind: Any) -> Signal:
        return Signal(self._signal[kind], self._owner)

    def connect(self, slot: Callable) -> bool:
        return bool(self._signal.connect(slot))

    def disconnect(self, slot: Callable) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # PythonQt just says False where nothing is connected
            return bool(self._signal.disconnect(slot))


def apply(changes: Changes) -> None:
    """Give PySide6's classes these manners."""
    changes.set(QObject, "__getattribute__", read)
    for kind in {value for value in names().values() if isinstance(value, type) and issubclass(value, Shiboken.Object)}:
        changes.set(kind, "__setattr__", write if issubclass(kind, QObject) else _write_value)


def names() -> dict[str, Any]:
    """The flat content of Slicer's module `qt`."""
    found = {}
    for module in (QtCore, QtGui, QtWidgets):
        found |= {name: getattr(module, name) for name in dir(module) if re.match(r"Q[A-Z]|Qt$", name)}
    return found


def read(self: QObject, name: str) -> Any:
    """An attribute, as PythonQt gives it."""
    if name.startswith("_"):
        return GET(self, name)
    own = GET(self, "__dict__").get(name)
    if own is not None and not isinstance(own, QtCore.SignalInstance):  # PySide6 keeps its signals there
        return own
    if name == "className":
        return lambda: GET(self, "metaObject")().className()
    if name in BY_SIGNATURE:
        return lambda signal, slot: _by_signature(BY_SIGNATURE[name], self, signal, slot)
    if owned := _property(self, name):
        value = _value(self, owned.name())
        return tuple(value) if isinstance(value, list) else value
    if name in ONLY_PYSIDE:
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}' in PythonQt")
    try:
        value = GET(self, name)
    except AttributeError:
        dynamic = GET(self, "property")(name)
        if dynamic is None:
            raise
        return dynamic
    return Signal(value, self) if isinstance(value, QtCore.SignalInstance) else value


def write(self: QObject, name: str, value: Any) -> None:
    """Set an attribute, where PythonQt can."""
    if isinstance(value, QtCore.SignalInstance) or (name.startswith("_") and not _from_qt(self)):
        _keep(self, name, value)  # PySide6 keeps its signals this way
    elif loading and isinstance(value, QObject):
        return  # PySide6 would make every named child an attribute of its root
    elif owned := _property(self, name):
        if not owned.isWritable():
            raise AttributeError(f"property '{name}' of '{type(self).__name__}' is not writable")
        _set(self, owned.name(), value)
    elif GET(self, "property")(name) is not None:
        GET(self, "setProperty")(name, value)
    elif _from_qt(self) or type(self).__module__.startswith(f"{__package__}."):
        raise AttributeError(f"'{type(self).__name__}' has no property '{name}'")
    else:
        _keep(self, name, value)  # a Python class of the module's own


def _from_qt(self: Any) -> bool:
    return type(self).__module__.startswith("PySide6.")


def _property(self: QObject, name: str) -> QtCore.QMetaProperty | None:
    meta = GET(self, "metaObject")()
    index = meta.indexOfProperty(name)
    if index < 0 and name == "name":
        index = meta.indexOfProperty("objectName")
    return meta.property(index) if index >= 0 else None


def _value(self: QObject, name: str) -> Any:
    """By the getter where there is one: it gives icons, flags and enumerations their type."""
    for getter in (name, *(prefix + name[0].upper() + name[1:] for prefix in ("is", "has"))):
        with suppress(AttributeError, TypeError):
            found = GET(self, getter)
            return found() if callable(found) else found
    return GET(self, "property")(name)


def _set(self: QObject, name: str, value: Any) -> None:
    """By the setter where there is one: it knows icons, flags and enumerations."""
    setter = getattr(type(self), f"set{name[0].upper()}{name[1:]}", None)
    if setter is None or isinstance(getattr(type(self), name, None), QtCore.Property):
        GET(self, "setProperty")(name, value)
    else:
        setter(self, value)


def _keep(self: Any, name: str, value: Any) -> None:
    """Set a Python attribute; the classes' own way is closed where `__setattr__` was replaced."""
    owner = getattr(type(self), name, None)
    if hasattr(type(owner), "__set__"):
        owner.__set__(self, value)
    else:
        self.__dict__[name] = value


def _by_signature(way: Callable, self: QObject, signal: str, slot: Callable) -> bool:
    meta = GET(self, "metaObject")()
    known = re.sub(r"vtk\w+\s*\*", "PyObject", signal)  # what PySide6 calls a pointer that it does not know
    signature = QtCore.QMetaObject.normalizedSignature(known).data().decode()
    if meta.indexOfSignal(signature) < 0:
        raise AttributeError(f"'{type(self).__name__}' has no signal '{signal}'")
    return bool(way(self, QtCore.SIGNAL(signature), slot))


def _write_value(self: Any, name: str, value: Any) -> None:
    if _from_qt(self):
        raise AttributeError(f"'{type(self).__name__}' has no property '{name}'")
    _keep(self, name, value)
