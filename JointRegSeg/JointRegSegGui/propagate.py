"""Carries what the user chooses over to the other side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from JointRegSegLib.errors import JointRegSegError
from JointRegSegLib.scene import propagate
from JointRegSegLib.scene.results import SceneResult
from slicer.i18n import tr as _

from . import words
from .parameters import Direction


class PropagatePanel:
    """Serves ``ui.propagateButton``; ``tell`` takes a sentence for the user."""

    def __init__(self, ui: Any, tell: Callable[[str], None]) -> None:
        self.ui, self._tell = ui, tell
        self._parameters: Any = None
        self._result: SceneResult | None = None
        self._carrying: propagate.Carrying | None = None
        ui.propagateButton.connect("clicked(bool)", self.carry)

    def update(self, parameters: Any, result: SceneResult | None) -> None:
        """Enable the button for what this result can carry; it says what is missing."""
        self._parameters, self._result = parameters, result
        missing = None
        if self.busy:
            missing = _("Something is being carried over.")
        elif result is None:
            missing = _("Register two volumes first, or choose a result.")
        elif parameters.propagateNode is None:
            missing = _("Choose what to carry over.")
        elif result.get(needed(parameters.propagateNode, self._backward)) is None:
            missing = _(
                "The result lacks the transform that this takes. Run again, with Inverse transform ticked in Advanced."
            )
        self.ui.propagateButton.enabled = missing is None
        self.ui.propagateButton.toolTip = missing or _("Make the carried-over copy.")

    @property
    def busy(self) -> bool:
        """Whether a copy is being made."""
        return self._carrying is not None

    @property
    def _backward(self) -> bool:
        return self._parameters.direction is Direction.TO_MOVING

    def carry(self) -> None:
        """Begin with the copy; `poll` goes on with it."""
        node = self._parameters.propagateNode
        try:
            self._carrying = propagate.Carrying(slicer.mrmlScene, node, self._result, self._backward)
        except JointRegSegError as error:
            self._tell(words.problem(error))
            return
        self._tell(_("Carrying '{name}' over …").format(name=node.GetName()))
        self.update(self._parameters, self._result)
        self.poll()  # points are there at once

    def poll(self) -> None:
        """Go on with the copy, and tell when it is there."""
        carrying = self._carrying
        if carrying is None or not carrying.poll():
            return
        self._carrying = None
        if carrying.error is not None:
            self._tell(words.problem(carrying.error))
        else:
            self._tell(_("Made '{name}'").format(name=carrying.copy.GetName()))
        if self._parameters is not None:
            self.update(self._parameters, self._result)

    def forget(self) -> None:
        """The scene is closed: nobody waits for the copy, and its images need no memory."""
        self._carrying = self._result = None


def needed(node: slicer.vtkMRMLNode, backward: bool) -> str:
    """Which of a result's transforms carries a node: images go by the one, points by the other."""
    image = node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode")
    return "transform" if image != backward else "inverse"
