"""Windows that would wait for a person: they take the answer that a test has laid out, and refuse to wait without."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .changes import Changes

answers: list[Any] = []
"""What the next windows return, in order."""
shown: list[tuple[str, str]] = []
"""Class or function, and text, of the windows so far; pages that a browser would have opened too."""

STATIC = {
    "QMessageBox": ("about", "critical", "information", "question", "warning"),
    "QFileDialog": ("getExistingDirectory", "getOpenFileName", "getOpenFileNames", "getSaveFileName"),
    "QInputDialog": ("getDouble", "getInt", "getItem", "getMultiLineText", "getText"),
}


def apply(changes: Changes) -> None:
    """Let no window wait."""
    answers.clear()
    shown.clear()
    for kind in (QtWidgets.QDialog, QtWidgets.QMessageBox, QtWidgets.QFileDialog, QtWidgets.QMenu):
        for name in ("exec", "exec_"):
            changes.set(kind, name, lambda self, *_: _answer(type(self).__name__, _text(self)))
    for owner, names in STATIC.items():
        for name in names:
            # PythonQt gives the path alone, without the filter that PySide6 adds: the answer is what comes back.
            changes.set(getattr(QtWidgets, owner), name, staticmethod(_asking(f"{owner}.{name}")))
    changes.set(QtGui.QDesktopServices, "openUrl", staticmethod(_open))


def _open(url: QtCore.QUrl) -> bool:
    shown.append(("QDesktopServices.openUrl", url.toString()))
    return True


def _asking(name: str) -> Any:
    return lambda *arguments, **_: _answer(name, " | ".join(a for a in arguments if isinstance(a, str)))


def _text(window: QtWidgets.QWidget) -> str:
    return window.text if hasattr(window, "text") else window.windowTitle


def _answer(name: str, text: str) -> Any:
    shown.append((name, text))
    if not answers:
        raise AssertionError(f"{name} would wait for an answer: {text}")
    return answers.pop(0)
