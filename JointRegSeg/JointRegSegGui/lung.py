"""The lung review: computed in the worker process, read in the panel and the views, and kept as a report."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from JointRegSegLib.errors import Canceled, JointRegSegError
from JointRegSegLib.scene import lung
from JointRegSegLib.scene.results import SceneResult
from JointRegSegLib.scene.runs import private_folder
from slicer.i18n import tr as _

from . import words
from .parameters import Phase
from .pdf import write_pdf

#: What the table shows of each region beside the chosen measure: key, digits.
COLUMNS = (("exhale_ml", 0), ("inhale_ml", 0))


class LungPanel:
    """Serves the section *Lung review*.

    Parameters
    ----------
    logic : Registrar
        Begins reviews.
    tell : callable
        Takes a sentence for the user.
    lay_out : callable
        Shows the result in the reading layout, which the review's layout builds on.
    """

    def __init__(self, ui: Any, logic: Any, tell: Callable[[str], None], lay_out: Callable[[], None]) -> None:
        self.ui, self._logic, self._tell, self._lay_out = ui, logic, tell, lay_out
        self._parameters: Any = None
        self._result: SceneResult | None = None
        self._review: lung.LungReview | None = None
        self._run: lung.LungRun | None = None
        self._page: tuple[int, str] | None = None  # the request for the page, and the PDF that it is for, if for one
        self._last: tuple[str, int, int] | None = None  # the result, the worker's process, and the request
        self._folder: Path | None = None
        self._seen: tuple[Any, ...] = ()
        for button, slot in (
            (ui.reviewLungsButton, self.review),
            (ui.exchangeButton, self.exchange),
            (ui.lungLayoutButton, self.show),
            (ui.lungReportButton, self.draw),
            (ui.lungPdfButton, self.draw_pdf),
            (ui.layoutButton, self.hide),
        ):
            button.connect("clicked(bool)", slot)
        ui.lungTable.connect("cellClicked(int,int)", self.jump)
        ui.lungMeasureSelector.connect("currentIndexChanged(int)", self._on_measure)

    @property
    def busy(self) -> bool:
        """Whether something is being computed or drawn."""
        return self._run is not None or self._page is not None

    def update(self, parameters: Any, result: SceneResult | None) -> None:
        """Bring the section into step with the parameters and the result that is shown."""
        self._parameters, self._result = parameters, result
        last, self._review = self._review, lung.find(slicer.mrmlScene, result)
        shown = None if self._review is None else self._review.result.identifier
        if last is not None and last.result.identifier != shown:
            lung.hide(slicer.mrmlScene, last)
        self._enable()
        made = 0 if self._review is None else self._review.result.get(lung.REPORT).GetMTime()
        seen = (shown, made, parameters.lungMeasure)
        if seen != self._seen:
            self._seen = seen
            self._fill()

    def _enable(self) -> None:
        reviewing, review = self._run is not None, self._review
        self.ui.reviewLungsButton.enabled = reviewing or self._result is not None
        self.ui.reviewLungsButton.text = _("Cancel") if reviewing else _("Review lungs")
        self.ui.reviewLungsButton.toolTip = (
            _("Measure how each part of the lungs moves and expands.")
            if self._result is not None
            else _("Register the two scans first, or choose a result.")
        )
        self.ui.lungLayoutButton.enabled = self.ui.lungMeasureSelector.enabled = review is not None
        self.ui.exchangeButton.enabled = review is not None and not reviewing
        there = review is not None and self._last is not None and self._logic.worker.running
        there = there and self._last[:2] == (self._result.identifier, self._logic.worker.starts)
        for button in (self.ui.lungReportButton, self.ui.lungPdfButton):
            button.enabled = bool(there)

    def _fill(self) -> None:
        """Sentences, list of measures and table."""
        review, ui = self._review, self.ui
        ui.lungOrderLabel.text = "" if review is None else html.escape(order(review.report))
        warnings = [] if review is None else review.report["warnings"]
        ui.lungWarningsLabel.text = "⚠ " + "<br>".join(map(html.escape, warnings)) if warnings else ""
        box = ui.lungMeasureSelector
        blocked = box.blockSignals(True)
        box.clear()
        for name in [] if review is None else review.maps:
            box.addItem(review.report["measures"][name]["title"], name)
        box.setCurrentIndex(max(box.findData(self._parameters.lungMeasure), 0))
        box.blockSignals(blocked)
        rows = [] if review is None else review.report["regions"]
        measure = box.itemData(box.currentIndex) if review is not None else None
        title = box.currentText if review is not None else ""
        ui.lungTable.setRowCount(len(rows))
        ui.lungTable.setHorizontalHeaderLabels([_("Region"), _("Exhale, ml"), _("Inhale, ml"), title or _("Measure")])
        for number, row in enumerate(rows):
            texts = [row["region"], *(f"{row[key]:.{digits}f}" for key, digits in COLUMNS), value(row, measure)]
            for column, text in enumerate(texts):
                ui.lungTable.setItem(number, column, qt.QTableWidgetItem(text))
        ui.lungTable.resizeColumnsToContents()

    def review(self) -> None:
        """Begin, or cancel."""
        if self._run is not None:
            self._run.cancel()
            return
        parameters = self._parameters
        try:
            fixed, moving = lung.scans(self._result)
            self._run = self._logic.startReview(
                self._result,
                fixed,
                moving,
                parameters.fixedIs.value,
                {"fixed": parameters.fixedLungs, "moving": parameters.movingLungs},
                {"fixed": parameters.fixedPoints, "moving": parameters.movingPoints},
                lung.patient_of(fixed) if parameters.namePatient else None,
            )
        except JointRegSegError as error:
            self._tell(words.problem(error))
            return
        self._enable()

    def exchange(self) -> None:
        """Take the fixed scan for the other phase, and review again."""
        parameters = self._parameters
        parameters.fixedIs = Phase.EXHALE if parameters.fixedIs is Phase.INHALE else Phase.INHALE
        self.review()

    def poll(self) -> None:
        """Follow what is under way."""
        if self._run is not None:
            self._follow(self._run)
        if self._page is not None:
            number, target = self._page
            for event in self._logic.worker.events(number):
                self._page = None
                self._opened(event, target)

    def _follow(self, run: lung.LungRun) -> None:
        if not run.poll():
            self._tell(_("{stage} …").format(stage=words.stage(run.stage)))
            return
        self._run = None
        if run.result is not None:
            self._tell(_("The lungs are reviewed."))
            self._last = run.result.result.identifier, self._logic.worker.starts, run.result.request
        else:
            canceled = isinstance(run.error, Canceled)
            self._tell(_("Canceled; the scene is as it was.") if canceled else words.problem(run.error))
        if self._parameters is None:
            return
        self.update(self._parameters, self._result)
        if run.result is not None and self._result is not None and self._last[0] == self._result.identifier:
            self.show()

    def show(self) -> None:
        """The reading layout of the review."""
        self._lay_out()
        self._try(lambda: lung.show(slicer.mrmlScene, self._review, self._measure()))

    def hide(self) -> None:
        """For the reading layout of the registration, which comes in place of the review's."""
        self._try(lambda: lung.hide(slicer.mrmlScene, self._review))

    def jump(self, row: int, column: int = 0) -> None:
        """To the region of a row."""
        self._try(lambda: lung.jump(slicer.mrmlScene, self._review.report["regions"][row]["center_mm"]))

    def _measure(self) -> str:
        box = self.ui.lungMeasureSelector
        return box.itemData(box.currentIndex) or "ventilation"

    def _on_measure(self, index: int) -> None:
        if self._review is None:
            return
        self._parameters.lungMeasure = self._measure()
        self._try(lambda: lung.show_map(slicer.mrmlScene, self._review, self._measure()))

    def draw(self) -> None:
        """Have the page drawn; it opens when it is there."""
        self._draw("")

    def draw_pdf(self) -> None:
        """Have the page drawn for paper, and kept as PDF where the user wants it."""
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save the lung review"), "lung-review.pdf", "PDF (*.pdf)"
        )
        path = path if isinstance(path, str) else path[0]  # bindings of Qt differ
        if path:
            self._draw(path)

    def _draw(self, target: str) -> None:
        try:
            self._folder = self._folder or private_folder("lung-")
            file = str(self._folder / ("printed.html" if target else "report.html"))
            request = {"of": self._last[2], "file": file, "printed": bool(target)}
            self._page = self._logic.worker.submit("report", **request), target
        except JointRegSegError as error:
            self._tell(words.problem(error))
            return
        self._tell(_("Drawing the report …"))

    def _opened(self, event: dict[str, Any], target: str) -> None:
        if event["event"] == "error":
            self._last = None
            self._tell(event["message"])
            self._enable()
            return
        if not target:
            self._tell("")
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(event["file"]))
            return
        try:
            write_pdf(Path(event["file"]).read_text(encoding="utf-8"), target)
        except (JointRegSegError, OSError) as error:
            self._tell(str(error))
            return
        self._tell(_("Saved '{name}'").format(name=target))

    def _try(self, act: Callable[[], None]) -> None:
        if self._review is None:
            return
        try:
            act()
        except JointRegSegError as error:  # a node was removed
            self._tell(words.problem(error))

    def forget(self) -> None:
        """The scene is closed: nobody waits for the review."""
        if self._run is not None:
            self._run.cancel()
        self._run = self._review = self._last = None

    def close(self) -> None:
        """Leave no file behind."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def order(report: dict[str, Any]) -> str:
    """Which scan is the inhale, as the lungs say, as a sentence."""
    text = _("Inhale: lungs of {inhale:.0f} ml; exhale: {exhale:.0f} ml.").format(**report["volumes_ml"])
    if report["exchanged"]:
        return _("{text} The smaller lungs are called inhale: exchange the two.").format(text=text)
    return text


def value(row: dict[str, Any], measure: str | None) -> str:
    """A region's mean of a measure, with its error where that is known."""
    mean, error = row.get(measure), row.get(f"{measure}_error")
    if mean is None:
        return "–"
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ± {error:.3f}"
