"""The lung review: one click computes it in the worker process; read in the panel and the views, kept as a report."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from JointRegSegLib.catalog import GENERIC
from JointRegSegLib.errors import Canceled, JointRegSegError
from JointRegSegLib.scene import lung
from JointRegSegLib.scene.results import SceneResult
from JointRegSegLib.scene.runs import private_folder
from slicer.i18n import tr as _

from . import packages, words
from .parameters import Phase
from .pdf import write_pdf
from .progress import ProgressPanel
from .quality import banner

#: What the table shows of each region beside the chosen measure: key, digits.
COLUMNS = (("exhale_ml", 0), ("inhale_ml", 0))


class LungPanel:
    """Serves the section *Lung review*.

    Parameters
    ----------
    logic : Registrar
        Begins reviews.
    progress : ProgressPanel
        Follows them.
    lay_out : callable
        Shows the result in the reading layout, which the review's layout builds on.
    on_change : callable
        Called when a review begins or ends.
    on_result : callable
        Takes the registration of two scans that were registered for a review.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        progress: ProgressPanel,
        lay_out: Callable[[], None],
        on_change: Callable[[], None],
        on_result: Callable[[SceneResult], None],
    ) -> None:
        self.ui, self._logic, self._progress, self._tell = ui, logic, progress, progress.tell
        self._lay_out, self._on_change, self._on_result = lay_out, on_change, on_result
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
    def reviewing(self) -> bool:
        """Whether a review is on its way."""
        return self._run is not None

    @property
    def busy(self) -> bool:
        """Whether something is being computed or drawn."""
        return self.reviewing or self._page is not None

    def update(self, parameters: Any, result: SceneResult | None) -> None:
        """Bring the section into step with the parameters and the result that is shown."""
        self._parameters, self._result = parameters, result
        last, self._review = self._review, lung.find(slicer.mrmlScene, result)
        shown = None if self._review is None else self._review.result.identifier
        if last is not None and last.result.identifier != shown:
            lung.hide(slicer.mrmlScene, last)
        self._enable()
        made = 0 if self._review is None else self._review.result.get(lung.REPORT).GetMTime()
        seen = (shown, made, parameters.lungMeasure, *([] if self._review is None else self._review.maps))
        if seen != self._seen:
            self._seen = seen
            self._fill()

    def _scans(self) -> tuple[SceneResult | None, tuple[Any, Any] | None]:
        """What a click reviews: a result, or two chosen scans that have to be registered first; or neither.

        What is chosen counts; the result that is shown only where nothing is chosen, as in a scene that was opened.
        """
        pair = self._parameters.fixedVolume, self._parameters.movingVolume
        if None in pair or pair[0] is pair[1] or words.unfit(*pair):
            return self._result, None
        shown = self._result is not None and lung.is_of(self._result, *pair)
        found = self._result if shown else lung.registration(slicer.mrmlScene, *pair)
        return found, None if found is not None else pair

    def _enable(self) -> None:
        if self._parameters is None:
            return
        reviewing, review, button = self.reviewing, self._review, self.ui.reviewLungsButton
        result, pair = self._scans()
        free = (result is not None or pair is not None) and not self._progress.running
        button.enabled = reviewing or free
        # Qt takes a single ampersand for the mark of a shortcut.
        named = _("Review lungs") if pair is None else _("Register && review lungs")
        button.text = _("Cancel") if reviewing else named
        if reviewing:
            button.toolTip = _("End the review now; the scene stays as it is.")
        elif pair is not None:
            text = _("Register '{moving}' to '{fixed}', and measure how each part of the lungs moves and expands.")
            button.toolTip = text.format(moving=pair[1].GetName(), fixed=pair[0].GetName())
        elif result is not None:
            button.toolTip = _("Measure how each part of the lungs moves and expands.")
        else:
            button.toolTip = _("Choose the two scans as fixed and moving volume.")
        self.ui.lungLayoutButton.enabled = self.ui.lungMeasureSelector.enabled = review is not None
        self.ui.exchangeButton.enabled = review is not None and not self._progress.running
        there = review is not None and self._last is not None and self._logic.worker.running
        there = there and self._last[:2] == (self._result.identifier, self._logic.worker.starts)
        for button in (self.ui.lungReportButton, self.ui.lungPdfButton):
            button.enabled = bool(there)

    def _fill(self) -> None:
        """Sentences, list of measures and table."""
        review, ui = self._review, self.ui
        style, text = ("", "") if review is None else judged(review.report)
        ui.lungOrderLabel.text = text
        ui.lungOrderLabel.styleSheet = style
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
        title = _("Emphysema / small airways, %") if measure == lung.CLASSES else title
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
        else:
            self._begin(*self._scans(), self._parameters.fixedIs)

    def _begin(self, result: SceneResult | None, pair: tuple[Any, Any] | None, fixed_is: Phase) -> None:
        """Of a result, or of two scans that are registered first, of which the fixed one is that phase."""
        if not packages.ready(self._tell):
            return
        parameters = self._parameters
        more: dict[str, Any] = {}
        if pair is not None:
            # The lungs begin on each other.
            more["options"] = parameters.options() | {"model": GENERIC, "align": None}
            more["outputs"] = parameters.outputs()
            more["replaced"] = self._result if parameters.replaceLast else None
        try:
            fixed, moving = pair or lung.scans(result)
            run = self._logic.startReview(
                result,
                fixed,
                moving,
                fixed_is.value,
                {"fixed": parameters.fixedLungs, "moving": parameters.movingLungs},
                {"fixed": parameters.fixedPoints, "moving": parameters.movingPoints},
                lung.patient_of(fixed) if parameters.namePatient else None,
                **more,
            )
        except JointRegSegError as error:
            self._say(words.problem(error))
            return
        if result is not None:
            parameters.result = result.identifier
        parameters.fixedIs = fixed_is
        self._run = run
        text = _("Review the lungs of '{moving}' and '{fixed}'")
        self._progress.begin(text.format(moving=moving.GetName(), fixed=fixed.GetName()))
        self._on_change()

    def _say(self, text: str) -> None:
        """Below the main button, which may be out of sight, and below this one."""
        self._tell(text)
        self.ui.lungOrderLabel.text = html.escape(text)
        self.ui.lungOrderLabel.styleSheet = ""

    def exchange(self) -> None:
        """Take the fixed scan for the other phase than this review did, and review the same scans again."""
        was = Phase(self._review.report["reference"])
        self._begin(self._review.result, None, Phase.EXHALE if was is Phase.INHALE else Phase.INHALE)

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
            self._progress.follow(run)
            self._say(self.ui.statusLabel.text)
            return
        self._run = None
        if run.result is None:
            canceled = isinstance(run.error, Canceled)
            self._progress.end(_("Canceled; the scene is as it was.") if canceled else words.problem(run.error))
            self._say(self.ui.statusLabel.text)
            self._on_change()
            return
        text = _("The lungs are reviewed: {verdict}.")
        self._progress.end(text.format(verdict=words.verdict(run.result.report["verdict"]["color"])))
        result = run.result.result
        self._last = result.identifier, self._logic.worker.starts, run.result.request
        if run.registered:
            self._progress.keep(result)
            self._on_result(result)
        self._on_change()
        if self._parameters is None:
            return
        self.update(self._parameters, self._result)
        if self._result is not None and self._last[0] == self._result.identifier:
            self.show()

    def show(self) -> None:
        """The reading layout of the review."""
        self._lay_out()
        self._try(lambda: lung.show(slicer.mrmlScene, self._review, self._measure()))
        qt.QTimer.singleShot(0, self._center)  # once more, after the registration's layout was fitted to its views

    def _center(self) -> None:
        if self._review is not None and self._review.result.get(lung.REPORT) is not None:
            lung.center(slicer.mrmlScene, self._review)

    def leave(self) -> None:
        """The user is in another module: what comes meanwhile is not shown over what is done there."""
        self._parameters = None

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
            request = {"of": self._last[2], "page": "review", "file": file, "printed": bool(target)}
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
        """The scene is closed: nobody waits for the review, and its images need no memory."""
        if self._run is not None:
            self._run.cancel()
            self._progress.end("")
            self.ui.lungOrderLabel.text = ""
        self._run = self._review = self._last = self._result = None

    def close(self) -> None:
        """Leave no file behind."""
        if self._run is not None:
            self._run.cancel()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def order(report: dict[str, Any]) -> str:
    """Which scan is the inhale, as the lungs say, as a sentence."""
    text = _("Inhale: lungs of {inhale:.0f} ml; exhale: {exhale:.0f} ml.").format(**report["volumes_ml"])
    if report["exchanged"]:
        return _("{text} The smaller lungs are called inhale: exchange the two.").format(text=text)
    return text


def judged(report: dict[str, Any]) -> tuple[str, str]:
    """Style and text of what a review comes to: its verdict with the reasons, and which scan is the inhale."""
    text = html.escape(order(report))
    try:
        style, verdict = banner(report["verdict"])
    except (KeyError, TypeError):
        return "", text
    return style, f"{verdict}<br>{text}"


def value(row: dict[str, Any], measure: str | None) -> str:
    """A region's mean of a measure, with its error where that is known; of classes the shares of those that matter."""
    if measure == lung.CLASSES:
        shares = row.get("emphysema, %"), row.get("functional small airways disease, %")
        return "–" if None in shares else " / ".join(f"{share:.1f}" for share in shares)
    mean, error = row.get(measure), row.get(f"{measure}_error")
    if mean is None:
        return "–"
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ± {error:.3f}"
