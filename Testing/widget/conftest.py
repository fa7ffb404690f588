"""The module under the stand-in for Slicer's desktop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING / "integration"))
pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 or a library that it needs is missing", exc_type=ImportError)

import standin  # noqa: E402

MODULE = TESTING.parent / "JointRegSeg" / "JointRegSeg.py"


@pytest.fixture
def desktop() -> Iterator[ModuleType]:
    """The stand-in, in place; an exception in a slot or observer, or a complaint of Qt, fails the test."""
    standin.install()
    errors, before = [], sys.excepthook
    sys.excepthook = lambda *error: errors.append(error[1])
    yield standin
    standin.uninstall()
    sys.excepthook = before
    assert not standin.complaints
    if errors:
        raise errors[0]


@pytest.fixture
def scene(desktop: ModuleType) -> Any:
    """The scene of the application."""
    import slicer

    return slicer.mrmlScene


@pytest.fixture
def module(desktop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module's file, freshly imported, its class made as at the application's start."""
    monkeypatch.syspath_prepend(MODULE.parent)
    return desktop.load(MODULE)


@pytest.fixture
def widget(desktop: ModuleType, module: ModuleType) -> Iterator[Any]:
    """The module's panel, opened."""
    panel = desktop.open_panel(module)
    yield panel
    desktop.close_panel(panel)


@pytest.fixture
def click() -> Callable:
    """Clicks a button that a user could click."""

    def press(button: Any) -> None:
        assert button.enabled, f"'{button.name}' is disabled: {button.toolTip}"
        button.click()

    return press


@pytest.fixture
def wait(desktop: ModuleType) -> Callable:
    """Runs the event loop until something holds."""
    import slicer

    def until(condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            slicer.app.processEvents()
            time.sleep(0.002)

    return until
