"""The list of models: searched, grouped, described; models come in and go out again."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from JointRegSegLib import catalog
from JointRegSegLib.errors import JointRegSegError
from slicer.i18n import tr as _

from . import words

#: Where the time of the last run with a model on this computer is kept.
SECONDS = "JointRegSeg/Seconds"


class ModelPanel:
    """Fills ``ui.modelSelector`` and tells ``chosen(name)`` what the user picks."""

    def __init__(self, ui: Any, chosen: Callable[[str], None]) -> None:
        self.ui, self._chosen = ui, chosen
        self.entries: list[dict[str, Any]] = []
        self._name = catalog.GENERIC
        ui.modelSearchBox.connect("textChanged(QString)", self.fill)
        ui.modelSelector.connect("currentIndexChanged(int)", self._on_selected)
        ui.importModelButton.connect("clicked(bool)", self._on_import)
        ui.removeModelButton.connect("clicked(bool)", self._on_remove)
        self.refresh()

    def refresh(self) -> None:
        """Read the list of models anew."""
        self.entries = sorted(catalog.entries(), key=lambda entry: (entry["anatomy"], entry["title"]))
        self.fill()

    def fill(self, search: str | None = None) -> None:
        """Show the models that fit what is searched for, those of one anatomy together; the chosen one stays in."""
        words = (self.ui.modelSearchBox.text if search is None else search).lower().split()
        box = self.ui.modelSelector
        blocked = box.blockSignals(True)
        box.clear()
        group = None
        for entry in self.entries:
            text = f"{searchable(entry)} {entry['name']}".lower()
            if entry["name"] != self._name and not all(word in text for word in words):
                continue
            if group != entry["anatomy"]:
                group = entry["anatomy"]
                box.addItem(f"── {group} ──")
            box.addItem(entry["title"], entry["name"])
        box.blockSignals(blocked)
        self.select(self._name)

    def select(self, name: str) -> None:
        """Show a model as chosen; one that is not installed here (a scene from elsewhere) is shown as such."""
        self._name = name
        box = self.ui.modelSelector
        blocked = box.blockSignals(True)
        if box.findData(name) < 0:
            box.addItem(_("{name} (not installed)").format(name=name), name)
        box.setCurrentIndex(box.findData(name))
        box.blockSignals(blocked)
        self._describe()

    @property
    def entry(self) -> dict[str, Any] | None:
        """The chosen model, as in `catalog.entries`; None if it is not installed."""
        return next((entry for entry in self.entries if entry["name"] == self._name), None)

    def remember_seconds(self, name: str, seconds: float) -> None:
        """Keep how long a run with a model took here."""
        qt.QSettings().setValue(f"{SECONDS}/{name}", seconds)
        self._describe()

    def _describe(self) -> None:
        entry = self.entry
        self.ui.removeModelButton.enabled = entry is not None and catalog.removable(entry)
        if entry is None:
            text = _("This model is not installed here. Import it, or choose another one.")
        else:
            text = describe(entry)
            seconds = slicer.util.settingsValue(f"{SECONDS}/{self._name}", 0.0, converter=float)
            if seconds:
                text += "<br>" + _("Last run on this computer: {seconds:.1f} s").format(seconds=seconds)
        self.ui.modelDescriptionLabel.text = text

    def _on_selected(self, index: int) -> None:
        name = self.ui.modelSelector.itemData(index)
        if index >= 0 and not name:  # a heading: the first of its group
            self.ui.modelSelector.setCurrentIndex(index + 1)
        elif name:
            self._name = name
            self._describe()
            self._chosen(name)

    def _on_import(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.ui.modelSelector, _("Choose the folder of a model"))
        if folder:
            self.import_from(Path(folder))

    def import_from(self, folder: Path) -> None:
        """Install a bundle and choose it; what is wrong with it is shown."""
        try:
            try:
                name = catalog.install(folder)
            except catalog.NameTaken as error:
                text = _("{problem}\n\nReplace it now?").format(problem=error)
                if not slicer.util.confirmOkCancelDisplay(text, windowTitle="JointRegSeg"):
                    return
                name = catalog.install(folder, replace=True)
        except JointRegSegError as error:
            slicer.util.errorDisplay(words.problem(error), windowTitle="JointRegSeg")
            return
        self.refresh()
        self.select(name)
        self._chosen(name)

    def _on_remove(self) -> None:
        text = _("Remove the model '{name}' from this computer?").format(name=self._name)
        if not slicer.util.confirmOkCancelDisplay(text, windowTitle="JointRegSeg"):
            return
        try:
            catalog.remove(self._name)
        except JointRegSegError as error:
            slicer.util.errorDisplay(words.problem(error), windowTitle="JointRegSeg")
            return
        self._name = catalog.GENERIC
        self.refresh()
        self._chosen(self._name)


def searchable(entry: dict[str, Any]) -> str:
    """What a search looks at."""
    labels = " ".join(label["name"] for label in entry["labels"])
    return f"{entry['title']} {entry['description']} {entry['anatomy']} {entry['modality']} {labels}"


def _range(low: float, high: float) -> str:
    return f"{low:.3g} mm" if low == high else f"{low:.3g} to {high:.3g} mm"


def describe(entry: dict[str, Any]) -> str:
    """A model in some lines of HTML."""
    lines = [entry["description"] + "."]
    if entry["name"] == catalog.GENERIC:
        expected = _("Expects: two volumes of the same body part")
    else:
        expected = _("Expects: {modality} of {anatomy}").format(modality=entry["modality"], anatomy=entry["anatomy"])
    if "domain" in entry:
        spacing, extent = (_range(*entry["domain"][key]) for key in ("spacing", "extent"))
        expected += _(", voxels of {spacing}, sides of {extent}").format(spacing=spacing, extent=extent)
    lines.append(expected)
    if entry["labels"]:
        lines.append(_("Segments: {names}").format(names=", ".join(label["name"] for label in entry["labels"])))
    else:
        lines.append(_("Does not segment"))
    lines.append(_("License: {license}").format(license=entry["license"]))
    return "<br>".join(map(html.escape, lines))
