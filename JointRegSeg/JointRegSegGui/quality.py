"""Which result is looked at, and its quality check as a table, with the verdict."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import qt
import slicer
from JointRegSegLib.scene import results
from slicer.i18n import tr as _

from . import words

#: Background and text color of each verdict; the word itself is always there too.
COLORS = {"green": ("#2e7d32", "white"), "amber": ("#f9a825", "black"), "red": ("#c62828", "white")}


class QualityPanel:
    """Fills ``ui.resultSelector``, ``ui.verdictLabel`` and ``ui.resultsTable``.

    Parameters
    ----------
    chosen : callable
        Takes the identifier of the result that the user picks.
    """

    def __init__(self, ui: Any, chosen: Callable[[str], None]) -> None:
        self.ui, self._chosen = ui, chosen
        ui.resultSelector.connect("currentIndexChanged(int)", self._on_selected)
        ui.resultsTable.setHorizontalHeaderLabels([_("Check"), _("Value")])
        self.clear()

    def clear(self) -> None:
        """Nothing to show."""
        self.ui.verdictLabel.text = _("No result yet.")
        self.ui.verdictLabel.styleSheet = ""
        self.ui.resultsTable.setRowCount(0)

    def list_results(self, identifier: str) -> None:
        """List the results in the scene by the names of their folders, this one chosen."""
        box = self.ui.resultSelector
        blocked = box.blockSignals(True)
        box.clear()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        for found in map(self._find, results.identifiers(slicer.mrmlScene)):
            if found is not None and found.get("transform") is not None:
                name = hierarchy.GetItemName(found.folder) if found.folder else found.get("transform").GetName()
                box.addItem(name, found.identifier)
        box.setCurrentIndex(box.findData(identifier))
        box.enabled = box.count > 0
        box.blockSignals(blocked)

    def _find(self, identifier: str) -> results.SceneResult | None:
        return results.find(slicer.mrmlScene, identifier)

    def _on_selected(self, index: int) -> None:
        if index >= 0:
            self._chosen(self.ui.resultSelector.itemData(index))

    def show(self, result: results.SceneResult | None) -> None:
        """Show a result's figures, if it has a report."""
        if result is None or not result.report:
            self.clear()
            return
        report = result.report
        try:
            rows = table(report)
            style, text = banner(report["verdict"])
        except (KeyError, TypeError, ValueError, AttributeError):  # users can edit it
            self.clear()
            return
        notice = _("For research use only. Not for clinical diagnosis or treatment.")
        self.ui.verdictLabel.text = f"{text}<br>{notice}"
        self.ui.verdictLabel.styleSheet = style
        self.ui.resultsTable.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, entry in enumerate(row):
                item = qt.QTableWidgetItem(entry)
                item.setToolTip(explained(row[0]))
                self.ui.resultsTable.setItem(number, column, item)
        self.ui.resultsTable.resizeColumnToContents(0)
        self.ui.resultsTable.resizeRowsToContents()


def banner(verdict: dict[str, Any]) -> tuple[str, str]:
    """Style of a label, and rich text: a verdict in a word, with its reasons.

    Raises
    ------
    KeyError, TypeError
        If it is none: users can edit reports.
    """
    background, ink = COLORS[verdict["color"]]
    reasons = html.escape("; ".join(verdict["reasons"]))
    style = f"background-color: {background}; color: {ink}; padding: 4px;"
    return style, f"<b>{words.verdict(verdict['color'])}</b> {reasons}"


def explained(title: str) -> str:
    """What a line of the table tells, for its tooltip."""
    return {
        _("Similarity (local correlation)"): _(
            "How alike the images are in small neighborhoods, before and after: 0 not at all, 1 exactly."
        ),
        _("Folded voxels"): _("Where the deformation turns tissue inside out, which anatomy never does: 0 is right."),
        _("Variation of the local volume change"): _(
            "Standard deviation of the logarithm of the Jacobian: 0.1 is a tenth larger or smaller here and there; few "
            "deformations above 1 are plausible."
        ),
        _("There and back again"): _(
            "How far a point ends from where it began when it goes by the transform and back by the inverse one."
        ),
        _("Segmentations agree (Dice)"): _(
            "Overlap of the fixed volume's segmentation and of the moving one's carried over: 0 none, 1 complete."
        ),
        _("Slicer's own warping differs by"): _(
            "The warped volume was computed outside of Slicer. Slicer, applying the transform node, gets the same but "
            "for this: as good as nothing when all is well."
        ),
    }.get(title, "")


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    """A figure, or a dash where there is none, as of images that did not overlap before."""
    return "–" if value is None else f"{factor * value:.{digits}f}"


def table(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the table: what was checked, and what came of it."""
    figures = report["quality"]
    regularity, similar = figures["regularity"], figures["similarity"]["local_correlation"]
    rows = [
        (_("Similarity (local correlation)"), f"{_number(similar['before'], 3)} → {_number(similar['after'], 3)}"),
        (_("Folded voxels"), f"{_number(regularity['folded_share'], 4, 100)} %"),
        (_("Variation of the local volume change"), _number(regularity["log_jacobian_spread"], 3)),
    ]
    error = regularity.get("inverse_consistency_mm")
    if error:
        mean, worst = _number(error["mean"], 3), _number(error["max"], 2)
        rows.append((_("There and back again"), f"{mean} mm ({_('worst')} {worst} mm)"))
    agreement = figures.get("segmentation_agreement")
    if agreement:
        rows.append((_("Segmentations agree (Dice)"), _number(agreement["mean_dice"], 3)))
    for moment, title in (("before", _("Given labels, before (Dice)")), ("after", _("Given labels, after (Dice)"))):
        if figures.get("labels"):
            rows.append((title, _number(figures["labels"][moment]["mean_dice"], 3)))
    if figures.get("landmarks"):
        before, after = (figures["landmarks"][f"{moment}_mm"]["mean"] for moment in ("before", "after"))
        rows.append((_("Landmarks, mean distance"), f"{before:.2f} → {after:.2f} mm"))
    found = report.get("slicer_difference")
    if found:
        text = _("{mean:.3f} % of the range (99 %: {p99:.3f} %)")
        text = text.format(mean=100 * found["mean"], p99=100 * found["p99"])
        rows.append((_("Slicer's own warping differs by"), text))
    rows += [(_("Warning"), text) for text in report["warnings"]] + [(_("Note"), text) for text in report["notes"]]
    rows.append((_("Computed on"), f"{report['device']}, {report['seconds']['total']:.1f} s"))
    return rows
