"""What tests of the panel ask of it and of the scene."""

from __future__ import annotations

from typing import Any

from samples import motion

#: How the moving volume of the tests' pair lies to the fixed one.
KNOWN = motion(rotation=(4, -3, 5), shift=(3, -2, 2))


def running(widget: Any) -> bool:
    """What a user sees of a run."""
    return widget.ui.applyButton.text == "Cancel"


def nodes_in(scene: Any) -> set[str]:
    """Identifiers of everything in the scene."""
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
