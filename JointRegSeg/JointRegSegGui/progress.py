"""What happens, as a sentence, a bar and a log."""

from __future__ import annotations

import time
from typing import Any

from JointRegSegLib.client import Worker
from JointRegSegLib.scene.results import SceneResult
from JointRegSegLib.scene.runs import Run
from slicer.i18n import tr as _

from . import words


class ProgressPanel:
    """Fills ``ui.statusLabel``, ``ui.progressBar``, ``ui.deviceLabel`` and ``ui.logTextEdit``.

    The log is the worker's own, with a line for each stage among what the computing process prints.
    """

    def __init__(self, ui: Any, worker: Worker) -> None:
        self.ui, self._worker = ui, worker
        self.running = False
        self._stage = ""
        self._shown: list[str] = []

    def tell(self, text: str) -> None:
        """A sentence for the user, below the button."""
        if self.ui.statusLabel.text != text:
            self.ui.statusLabel.text = text

    def note(self, text: str) -> None:
        """A line for the log, with the time."""
        self._worker.log.append(f"{time.strftime('%H:%M:%S')}  {text}")

    def begin(self, title: str) -> None:
        """A run begins: clean slate. There is one at a time."""
        self.running, self._stage = True, ""
        self.note(title)
        self.tell("")
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.visible = True

    def follow(self, run: Run) -> None:
        """Where a run is."""
        stage, left = words.stage(run.stage), run.seconds_left
        if run.stage != self._stage:
            self._stage = run.stage
            self.note(stage)
        text = _("{stage} …").format(stage=stage)
        if left is not None:
            text = _("{stage}, about {seconds:.0f} s left").format(stage=stage, seconds=left)
        self.ui.progressBar.setValue(round(100 * run.fraction))
        self.tell(text)

    def end(self, text: str) -> None:
        """A run has ended, and how."""
        self.running = False
        self.ui.progressBar.visible = False
        self.tell(text)
        self.note(text)

    def keep(self, result: SceneResult) -> None:
        """What came of a run, for the log."""
        report = result.report
        line = _("Model: {model}; device: {device}")
        self.note(line.format(model=report["settings"]["model"], device=report["device"]))
        for text in report["warnings"]:
            self.note(_("Warning: {text}").format(text=text))
        for text in report["notes"]:
            self.note(_("Note: {text}").format(text=text))

    def update(self) -> None:
        """Show what is new in the log, and the device once it is known."""
        log = list(self._worker.log)
        if log != self._shown:
            box, old = self.ui.logTextEdit, self._shown
            if log[: len(old)] == old:  # who reads above is not thrown back to the top
                for line in log[len(old) :]:
                    box.appendPlainText(line)
            else:
                box.plainText = "\n".join(log)
            self._shown = log
        if self._worker.device and self.ui.deviceLabel.text != self._worker.device:
            self.ui.deviceLabel.text = self._worker.device
