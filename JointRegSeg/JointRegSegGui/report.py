"""The report page of the last run, drawn by the computing process when it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from JointRegSegLib.client import Worker
from JointRegSegLib.errors import OutputError
from JointRegSegLib.scene.results import SceneResult
from JointRegSegLib.scene.runs import private_folder
from slicer.i18n import tr as _

from . import words


class ReportPanel:
    """Serves ``ui.reportButton``; ``tell`` takes a sentence for the user."""

    def __init__(self, ui: Any, worker: Worker, tell: Callable[[str], None]) -> None:
        self.ui, self._worker, self._tell = ui, worker, tell
        self._folder: Path | None = None
        self._request: int | None = None
        # The result that the computing process still has, which process that was, and the number of the request.
        self._last: tuple[str, int, int | None] | None = None
        self._there: bool | None = None

    @property
    def busy(self) -> bool:
        """Whether a page is being drawn."""
        return self._request is not None

    def remember(self, result: SceneResult | None) -> None:
        """A run has ended with this result, or one begins."""
        self._last = (result.identifier, self._worker.starts, result.request) if result is not None else None

    def update(self, result: SceneResult | None) -> None:
        """Enable the button if the page of this result can be drawn."""
        there = (
            self._worker.running
            and result is not None
            and self._last is not None
            and self._last[:2] == (result.identifier, self._worker.starts)
        )
        if there is not self._there:
            self._there = there
            self.ui.reportButton.enabled = there
            self.ui.reportButton.toolTip = (
                _("The report with pictures in three planes opens in your browser; nothing leaves this computer.")
                if there
                else _("Pictures can be drawn of the last run only, as long as its process runs; register again.")
            )

    def draw(self) -> None:
        """Have the page drawn; it opens when it is there."""
        try:
            self._folder = self._folder or private_folder("report-")
        except OutputError as error:
            self._tell(words.problem(error))
            return
        file = str(self._folder / "report.html")
        self._request = self._worker.submit("report", of=self._last[2] if self._last else None, file=file)
        self._tell(_("Drawing the report …"))

    def poll(self) -> None:
        """Open the page if it is there, or tell why it is not to be had."""
        for event in self._worker.events(self._request) if self.busy else ():
            self._request = None
            if event["event"] == "error":
                self._last = None  # as when a script registered another pair meanwhile
                self._tell(event["message"])
            else:
                self._tell("")
                qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(event["file"]))

    def close(self) -> None:
        """Leave no file behind."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
