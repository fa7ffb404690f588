"""How the last result is looked at: follows the parameters, and keeps what is shown in step with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from JointRegSegLib.errors import InputError, JointRegSegError
from JointRegSegLib.scene import layout, motion, overlays
from JointRegSegLib.scene.files import FIXED_REFERENCE, MOVING_REFERENCE
from JointRegSegLib.scene.results import SceneResult
from slicer.i18n import tr as _

from . import words
from .parameters import Comparison, Segmentations

#: Grid lines along the longest side, unless the user chooses.
LINES = 20


class ShowPanel:
    """Shows a `SceneResult` as the parameters say.

    Parameters
    ----------
    tell : callable
        Takes a sentence for the user when something cannot be shown.
    """

    def __init__(self, ui: Any, tell: Callable[[str], None]) -> None:
        self.ui, self._tell = ui, tell
        self.result: SceneResult | None = None
        self._parameters: Any = None
        self._shown: dict[str, Any] = {}
        self._laid_out = False
        self._spaced_for: str | None = None
        self._seen: SceneResult | None = None  # what the views hold
        ui.layoutButton.connect("clicked(bool)", self.lay_out)
        ui.flickerButton.connect("clicked(bool)", self.flicker)
        ui.deformationSegmentSelector.connect("currentIndexChanged(int)", self._on_segment)

    def attach(self, result: SceneResult | None, parameters: Any) -> None:
        """Look at another result, or at none."""
        self.result, self._parameters = result, parameters
        if result is not None and not self._holds(result):
            self._shown, self._laid_out = {}, False
        self._fill_segments()
        self.ui.layoutButton.enabled = result is not None
        self.ui.flickerButton.enabled = result is not None
        for control, role in (
            (self.ui.showAgreementCheckBox, "agreement"),
            (self.ui.showJacobianCheckBox, "jacobian"),
            (self.ui.segmentationDisplaySelector, "fixed_segmentation"),
        ):
            control.enabled = result is None or result.get(role) is not None  # not every model gives all

    def _holds(self, result: SceneResult) -> bool:
        """Whether the views hold this result, as after one of its nodes was removed, or the module was left."""
        if self._seen is None or self._seen.identifier != result.identifier:
            return False
        return layout.offer(slicer.mrmlScene).GetViewArrangement() == layout.LAYOUT

    def forget(self) -> None:
        """The scene is closed: its images need no memory."""
        self.result = self._seen = None
        self._shown, self._laid_out = {}, False

    def suggest_spacing(self) -> None:
        """A spacing that suits the size of the fixed volume; once for each, so that the user's own choice stays."""
        fixed = self._volume(FIXED_REFERENCE)
        if fixed is not None and fixed.GetID() != self._spaced_for:
            self._spaced_for = fixed.GetID()
            longest = max(s * n for s, n in zip(fixed.GetSpacing(), fixed.GetImageData().GetDimensions(), strict=True))
            self._parameters.deformationSpacing = float(min(max(round(longest / LINES), 1), 50))

    def lay_out(self) -> None:
        """The reading layout, and over it what the parameters ask for."""
        self._try(self._lay_out)

    def _lay_out(self) -> None:
        wanted = self._parameters
        if self.result is None:
            raise InputError(_("the result is not in the scene anymore; choose another one, or register again"))
        if self._seen is not None and self._seen.identifier != self.result.identifier:
            self._clear(self._seen)
        self._seen = self.result
        layout.show(slicer.mrmlScene, self.result, self._fixed(), wanted.comparison.value, wanted.blend)
        qt.QTimer.singleShot(0, self._fit)  # once more, when the views have their sizes
        self._laid_out = True
        self._shown = {"comparison": wanted.comparison, "blend": wanted.blend, "play": 100.0}
        self.update()

    def _clear(self, result: SceneResult) -> None:
        """Take what was laid over the images from view: it is of another result."""
        scene = slicer.mrmlScene
        motion.deformation(scene, result, "off")
        motion.stop(scene, result)
        overlays.segmentations(result, "off")
        overlays.jacobian(scene, result, False)
        overlays.agreement(scene, result, False)

    def _fit(self) -> None:
        fixed = self._volume(FIXED_REFERENCE)
        if fixed is not None:
            layout.fit(slicer.mrmlScene, fixed, self.result.get("fixed_segmentation"))

    def flicker(self) -> None:
        """From the fixed to the warped volume and back."""
        if not self._laid_out:
            self.lay_out()
        self._parameters.blend = 0.0 if self._parameters.blend > 0.5 else 1.0
        self._parameters.comparison = Comparison.BLEND

    def update(self) -> None:
        """Bring into view what has changed among the parameters since the last time."""
        if self.result is None or self._parameters is None or not self._laid_out:
            return
        scene, result, wanted = slicer.mrmlScene, self.result, self._parameters
        actions = {
            ("blend",): self._blend,
            ("comparison",): self._compare,
            ("segmentationDisplay", "showAgreement"): self._segment,
            ("showJacobian",): lambda: overlays.jacobian(scene, result, self._has(wanted.showJacobian, "jacobian")),
            ("showAgreement",): lambda: overlays.agreement(scene, result, self._has(wanted.showAgreement, "agreement")),
            ("deformationMode", "deformationSpacing", "deformationSegment"): self._deform,
            ("play",): self._play,
        }
        values = {name: getattr(wanted, name) for names in actions for name in names}
        changed = {name for name, value in values.items() if name not in self._shown or self._shown[name] != value}
        self._shown |= values
        for names, act in actions.items():
            if changed.intersection(names):
                self._try(act)

    def _segment(self) -> None:
        """Fill would mix its colors with those of the agreement map."""
        mode = self._parameters.segmentationDisplay
        if mode is Segmentations.FILL and self._has(self._parameters.showAgreement, "agreement"):
            mode = Segmentations.OUTLINE
        overlays.segmentations(self.result, mode.value)

    def _has(self, on: bool, role: str) -> bool:
        return on and self.result.get(role) is not None

    def _blend(self) -> None:
        """Whoever moves the slider wants to see it."""
        if self._parameters.comparison is Comparison.BLEND:
            self._compare()
        else:
            self._parameters.comparison = Comparison.BLEND

    def _compare(self) -> None:
        wanted = self._parameters
        fixed = self._fixed()
        layout.show_comparison(slicer.mrmlScene, self.result, fixed, wanted.comparison.value, wanted.blend)

    def _deform(self) -> None:
        name = self._parameters.deformationSegment
        node = self.result.get("fixed_segmentation")
        segment = (node, name) if name and node is not None else None
        motion.deformation(
            slicer.mrmlScene,
            self.result,
            self._parameters.deformationMode.value,
            self._parameters.deformationSpacing,
            segment,
        )

    def _play(self) -> None:
        moving = self._volume(MOVING_REFERENCE)
        if moving is None or self._parameters.play >= 100:
            motion.stop(slicer.mrmlScene, self.result)
        else:
            motion.play(slicer.mrmlScene, self.result, moving, self._parameters.play)

    def _fill_segments(self) -> None:
        box = self.ui.deformationSegmentSelector
        blocked = box.blockSignals(True)
        box.clear()
        box.addItem(_("everywhere"), "")
        node = self.result.get("fixed_segmentation") if self.result is not None else None
        if node is not None and self.result.get("inverse") is not None:
            segmentation = node.GetSegmentation()
            for i in range(segmentation.GetNumberOfSegments()):
                box.addItem(segmentation.GetNthSegment(i).GetName(), segmentation.GetNthSegmentID(i))
        if self._parameters is not None:
            box.setCurrentIndex(max(box.findData(self._parameters.deformationSegment), 0))
        box.blockSignals(blocked)

    def _on_segment(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.deformationSegment = self.ui.deformationSegmentSelector.itemData(index) or ""

    def _volume(self, role: str) -> Any:
        transform = self.result.get("transform") if self.result is not None else None
        return transform.GetNodeReference(role) if transform is not None else None

    def _fixed(self) -> slicer.vtkMRMLScalarVolumeNode:
        fixed = self.result.need("transform").GetNodeReference(FIXED_REFERENCE)
        if fixed is None:
            raise InputError(_("the fixed volume is not in the scene anymore; load it and register again"))
        return fixed

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except JointRegSegError as error:  # a node was removed
            self._tell(words.problem(error))
