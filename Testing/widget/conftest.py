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
from panels import KNOWN, running  # noqa: E402
from samples import fixed_grid, moving_grid, thing, volume  # noqa: E402

MODULE = TESTING.parent / "JointRegSeg" / "JointRegSeg.py"
#: Steps of refinement: long enough that it is still running whenever a test wants to stop it.
ENDLESS = 500


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


@pytest.fixture
def pair(scene: Any) -> list[Any]:
    """Fixed and moving volume in the scene."""
    from JointRegSegLib.scene import volumes

    nodes = []
    for name, image in (("F", volume(thing(), fixed_grid())), ("M", volume(thing(), moving_grid(), KNOWN))):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        volumes.fill(node, image)
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    return nodes


@pytest.fixture
def panel(pair: list[Any], widget: Any) -> Any:
    """The panel with a pair chosen, and small settings."""
    widget._parameterNode.workingSize = 32
    return widget


@pytest.fixture
def endless(panel: Any) -> Any:
    """Settings with which a run takes far longer than the test."""
    panel._parameterNode.workingSize = 256
    panel._parameterNode.refine = True
    panel._parameterNode.refineSteps = ENDLESS
    return panel


@pytest.fixture
def run(panel: Any, click: Callable, wait: Callable) -> Callable:
    """Click and wait for the result."""

    def go() -> None:
        click(panel.ui.applyButton)
        wait(lambda: not running(panel), 120)

    return go
