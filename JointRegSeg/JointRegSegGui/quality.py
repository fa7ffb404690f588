"""The quality check as a table, with its verdict."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

#: Background and text color of each verdict; the word itself is always there too.
COLORS = {"green": ("#2e7d32", "white"), "amber": ("#f9a825", "black"), "red": ("#c62828", "white")}


class QualityPanel:
    """Fills ``ui.verdictLabel`` and ``ui.resultsTable``."""

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        ui.resultsTable.setHorizontalHeaderLabels([_("Check"), _("Value")])
        self.clear()

    def clear(self) -> None:
        """Nothing to show."""
        self.ui.verdictLabel.text = _("No result yet.")
        self.ui.verdictLabel.styleSheet = ""
        self.ui.resultsTable.setRowCount(0)
        self.ui.reportButton.enabled = False

    def show(self, report: dict[str, Any], reportable: bool) -> None:
        """Show a result's figures; ``reportable`` says whether the page with pictures can be drawn."""
        color = report["verdict"]["color"]
        background, text = COLORS[color]
        reasons = "; ".join(report["verdict"]["reasons"])
        self.ui.verdictLabel.text = f"<b>{color.upper()}</b> {reasons}<br>{report['notice']}"
        self.ui.verdictLabel.styleSheet = f"background-color: {background}; color: {text}; padding: 4px;"
        rows = table(report)
        self.ui.resultsTable.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, entry in enumerate(row):
                self.ui.resultsTable.setItem(number, column, qt.QTableWidgetItem(entry))
        self.ui.resultsTable.resizeColumnToContents(0)
        self.ui.resultsTable.resizeRowsToContents()
        self.ui.reportButton.enabled = reportable


def table(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the table: what was checked, and what came of it."""
    figures = report["quality"]
    regularity, similar = figures["regularity"], figures["similarity"]["local_correlation"]
    rows = [
        (_("Similarity (local correlation)"), f"{similar['before']:.3f} → {similar['after']:.3f}"),
        (_("Folded voxels"), f"{100 * regularity['folded_share']:.4f} %"),
        (_("Spread of the log Jacobian (SD)"), f"{regularity['log_jacobian_spread']:.3f}"),
    ]
    error = regularity.get("inverse_consistency_mm")
    if error:
        rows.append((_("There and back again"), f"{error['mean']:.3f} mm ({_('worst')} {error['max']:.2f} mm)"))
    agreement = figures.get("segmentation_agreement")
    if agreement:
        rows.append((_("Segmentations agree (Dice)"), f"{agreement['mean_dice']:.3f}"))
    for moment, title in (("before", _("Given labels, before (Dice)")), ("after", _("Given labels, after (Dice)"))):
        if figures.get("labels"):
            rows.append((title, f"{figures['labels'][moment]['mean_dice']:.3f}"))
    if figures.get("landmarks"):
        before, after = (figures["landmarks"][f"{moment}_mm"]["mean"] for moment in ("before", "after"))
        rows.append((_("Landmarks, mean distance"), f"{before:.2f} → {after:.2f} mm"))
    found = report.get("slicer_difference")
    if found:
        text = _("{mean:.3f} % of the range (99 %: {p99:.3f} %)")
        text = text.format(mean=100 * found["mean"], p99=100 * found["p99"])
        rows.append((_("Slicer's own warping differs by"), text))
    rows += [(_("Warning"), warning) for warning in report["warnings"] + report["notes"]]
    rows.append((_("Computed on"), f"{report['device']}, {report['seconds']['total']:.1f} s"))
    return rows
