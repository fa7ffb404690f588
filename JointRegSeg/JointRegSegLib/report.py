"""The page that shows a result to a reader who has nothing but a browser."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from . import pictures
from .canvas import OUTSIDE
from .errors import OutputError
from .pipeline import NOTICE
from .result import Registration
from .text import percent, plain, short

_MOST_LABELS = 30
#: Class of the badge, its word and what it asks of the reader, by the verdict's color.
_VERDICTS = {
    "green": ("GREEN", "No check failed"),
    "amber": ("AMBER", "Look closely before you rely on it"),
    "red": ("RED", "Do not rely on this registration"),
}
_PRODUCTS = {"jointregseg": "JointRegSeg", "python": "Python", "torch": "PyTorch"}
_ONE_WINDOW = "Both images share one gray window."
_TWO_WINDOWS = (
    "The images differ in their range of intensities: each has its own gray window, and differences are a hint only."
)
_GUIDE = (
    ("Fixed, moving, warped", "The warped image has to show its structures where the fixed one has them."),
    ("Difference", "Edges in red and blue are misaligned; after registration they have to fade. Both share one scale."),
    ("Checkerboard", "Tiles of the fixed and of the warped image alternate: edges should run on across tiles."),
    ("Outlines", "Solid: the fixed image's own; dashed: carried over. Both should cover each other."),
    (
        "Deformation grid",
        "A regular grid of the fixed image, drawn where its points come from in the moving one. Smooth bends are "
        "plausible; lines that cross or bunch up are not.",
    ),
    (
        "Volume change",
        "White: unchanged. Brown: tissue was larger in the moving image and is squeezed; blue-green: it was smaller "
        "and is stretched. Pink: folded, which no tissue can do.",
    ),
)


@dataclass(frozen=True)
class Table:
    """A table of the page: the first cell of a row names it, None is shown as 'not available'."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    hint: str = ""
    missing: str = "not available"


def write_html(result: Registration, path: str | Path) -> None:
    """Write the report of a registration as one file that needs nothing else: no network, no scripts.

    Parameters
    ----------
    result : Registration
        Labels, segmentations and any figure may be missing.
    path : path
        The file to write.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_page(render(result), path)


def write_page(page: str, path: str | Path) -> None:
    """Write a page to a file.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        # A file name on disk may hold bytes that are no text; they come back escaped.
        Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None


def template(name: str, folder: Path | None = None) -> Template:
    """A page of this folder, or of another one's that extends those; what it is filled with is escaped."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([here, *([folder] if folder else [])]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = _data
    return environment.get_template(name)


def render(result: Registration) -> str:
    """The page of `write_html` as a string."""
    report = result.report
    gallery = pictures.draw(result)
    quality = report.get("quality", {})
    return template("report.html").render(
        notice=report.get("notice", NOTICE),
        fixed=_image(report, "fixed"),
        moving=_image(report, "moving"),
        model_title=_model_title(report.get("model", {})),
        verdict=verdict_of(report),
        gallery=gallery,
        legend=gallery.legend[:_MOST_LABELS],
        outside="#{:02x}{:02x}{:02x}".format(*OUTSIDE),
        window_text=_ONE_WINDOW if gallery.same_window else _TWO_WINDOWS,
        guide=_GUIDE,
        tables=[similarity(quality), regularity(quality), _agreement(quality), _labels(quality), landmarks(quality)],
        details=_details(report),
        version=report.get("versions", {}).get("jointregseg", ""),
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _image(report: dict[str, Any], which: str) -> dict[str, str]:
    """Name of an input and what is to be known about it."""
    entry = report.get("inputs", {}).get(which, {})
    facts = []
    if entry.get("size"):
        facts.append(f"{text_of(entry['size'])} voxels")
    if entry.get("spacing_mm"):
        facts.append(f"of {text_of(entry['spacing_mm'])} mm")
    return {"name": Path(entry.get("file") or entry.get("name", "unnamed image")).name, "facts": " ".join(facts)}


def _model_title(model: dict[str, Any]) -> str:
    return ": ".join(str(model[key]) for key in ("name", "title") if model.get(key)) or "not available"


def verdict_of(report: dict[str, Any]) -> dict[str, Any]:
    """What the page's box about the verdict is filled with."""
    verdict = report.get("verdict", {})
    color = verdict.get("color")
    word, sentence = _VERDICTS.get(color, ("UNKNOWN", "There is no verdict"))
    reasons = verdict.get("reasons", [])
    return {
        "css": color if color in _VERDICTS else "unknown",
        "word": word,
        "sentence": sentence,
        "reasons": reasons,
        "warnings": [text for text in report.get("warnings", []) if text not in reasons],
        "passed": [text for text in verdict.get("checks_passed", []) if text not in reasons],
    }


def similarity(quality: dict[str, Any]) -> Table:
    """How alike the images are, before and after."""
    names = {
        "correlation": "Correlation",
        "local_correlation": "Local correlation, squared",
        "mutual_information": "Mutual information",
    }
    entries = quality.get("similarity", {})
    rows = [
        (title, number(_get(entries, name, "before")), number(_get(entries, name, "after")))
        for name, title in names.items()
    ]
    share = _get(entries, "overlap_share", "before"), _get(entries, "overlap_share", "after")
    if "overlap_share" in entries:
        rows.append(("Share of the smaller image on the other", *(number(part) for part in share)))
    return Table(
        "Similarity of the images",
        ("Measure", "Before", "After"),
        rows,
        "Where both images reach. Higher is better; 1 is the most that a correlation can be. The local one, of regions "
        "of 9 voxels, does not tell an image from its negative. Images of different modalities are judged by mutual "
        "information.",
    )


def regularity(quality: dict[str, Any]) -> Table:
    """What the deformation is like."""
    entry = quality.get("regularity", {})
    folded = _get(entry, "folded_share")
    low, high = _get(entry, "jacobian", "min"), _get(entry, "jacobian", "max")
    mean, most = _get(entry, "displacement_mm", "mean"), _get(entry, "displacement_mm", "max")
    rows = [
        (
            "Folded voxels",
            None if folded is None else percent(folded),
            "0 % is wanted: a fold is physically impossible",
        ),
        (
            "Jacobian, smallest to greatest",
            None if low is None or high is None else f"{short(low)} to {short(high)}",
            "change of volume, 1 is none; 0 and less is folded",
        ),
        (
            "Spread of the log Jacobian",
            number(_get(entry, "log_jacobian_spread")),
            "the smaller, the more even the deformation",
        ),
        (
            "Displacement, mean and greatest",
            None if mean is None or most is None else f"{mean:.2f} mm, {most:.2f} mm",
            "the way between the images' places in space included",
        ),
        *[
            (f"Inverse consistency, {title}", _both(entry, kind), "how far there and back misses the start")
            for title, kind in (("mean", "mean"), ("greatest", "max"))
        ],
        (
            "Two-way disagreement",
            number(_get(quality, "two_way_disagreement_mm"), 2, " mm"),
            "of the network's own two directions, before any refinement",
        ),
    ]
    return Table("Deformation", ("Figure", "Value", "What it means"), rows)


def _both(entry: dict[str, Any], kind: str) -> str | None:
    mm, voxels = (_get(entry, f"inverse_consistency_{unit}", kind) for unit in ("mm", "voxels"))
    return None if mm is None or voxels is None else f"{mm:.3f} mm ({voxels:.3f} voxels)"


def _agreement(quality: dict[str, Any]) -> Table:
    entry = quality.get("segmentation_agreement") or {}
    rows = [
        (name, number(figures.get("dice")), number(figures.get("hd95_voxels"), 1))
        for name, figures in entry.get("labels", {}).items()
    ]
    if rows:
        rows.append(("Mean", number(entry.get("mean_dice")), number(entry.get("mean_hd95_voxels"), 1)))
    sought = "The registration sought this agreement, which therefore proves little. " if entry.get("sought") else ""
    return Table(
        "Segmentation agreement",
        ("Label", "Dice", "HD95 (voxels)"),
        rows,
        f"The moving segmentation, carried over, against the fixed one; neither was drawn. {sought}Dice: 1 is perfect; "
        "HD95: distance that 95 % of the outlines keep, 0 is perfect.",
        "not available: the model does not segment",
    )


def _labels(quality: dict[str, Any]) -> Table:
    entry = quality.get("labels") or {}
    before, after = (_get(entry, moment, "labels") or {} for moment in ("before", "after"))
    pairs = [(name, before.get(name, {}), after.get(name, {})) for name in {**before, **after}]
    rows = [
        (name, *(number(x.get("dice")) for x in two), *(number(x.get("hd95_voxels"), 1) for x in two))
        for name, *two in pairs
    ]
    if rows:
        moments = ("before", "after")
        means = [number(_get(entry, moment, "mean_dice")) for moment in moments]
        rows.append(("Mean", *means, *(number(_get(entry, moment, "mean_hd95_voxels"), 1) for moment in moments)))
    return Table(
        "Overlap of the given labels",
        ("Label", "Dice before", "Dice after", "HD95 before", "HD95 after"),
        rows,
        "HD95 in voxels of the fixed image. The labels had no influence on the registration, unless they were given as "
        "organs, too.",
        "not available: label maps were not given for both images",
    )


def landmarks(quality: dict[str, Any]) -> Table:
    """The target registration error."""
    entry = quality.get("landmarks")
    rows = []
    if entry:
        for title, key in (("Mean", "mean"), ("Standard deviation", "std"), ("Greatest", "max")):
            values = (_get(entry, f"{moment}_mm", key) for moment in ("before", "after"))
            rows.append((title, *(number(value, 2, " mm") for value in values)))
    return Table(
        "Landmarks: target registration error",
        ("Distance", "Before", "After"),
        rows,
        f"{entry.get('count')} pairs of points." if entry else "",
        "not available: no landmarks were given",
    )


def _details(report: dict[str, Any]) -> list[Table]:
    model, inputs = report.get("model", {}), dict(report.get("inputs", {}))
    images = []
    for which in ("fixed", "moving"):
        for key, value in inputs.pop(which, {}).items():
            images.append((f"{which.capitalize()}, {title_of(key).lower()}", text_of(value)))
    trained = model.get("training") or {}
    model_rows = [
        ("Name", text_of(model.get("name"))),
        ("Title", text_of(model.get("title"))),
        ("License", text_of(model.get("license"))),
        ("SHA-256 of the weights", text_of(model.get("sha256"))),
        *[(f"Training, {key}", text_of(trained.get(key))) for key in ("data", "license", "subjects") if trained],
    ]
    settings = rows_of(report.get("settings", {}))
    versions = report.get("versions", {}).items()
    computing = [("Device", text_of(report.get("device"))), *((_PRODUCTS.get(k, k), text_of(v)) for k, v in versions)]
    seconds = [(title_of(stage), number(value, 2, " s")) for stage, value in report.get("seconds", {}).items()]
    return [
        Table("Inputs", (), images + rows_of(inputs)),
        Table("Settings", (), [(key, value or "not set") for key, value in settings] + [_lattice(report)]),
        Table("Model", (), model_rows),
        Table("Device and versions", (), computing),
        Table("Time", ("Stage", "Seconds"), seconds),
        Table("Notes", (), [(text,) for text in report.get("notes", [])], missing="none"),
    ]


def _lattice(report: dict[str, Any]) -> tuple[str, str | None]:
    size, spacing = (_get(report, "working_lattice", key) for key in ("size", "spacing_mm"))
    return "Working lattice", None if size is None else f"{text_of(size)} voxels of {text_of(spacing)} mm"


def rows_of(entries: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Rows of a `Table` from names and values of any kind."""
    return [(title_of(key), text_of(value)) for key, value in entries.items()]


def title_of(key: str) -> str:
    """A name of ``report.json`` as a title: 'folded_share' becomes 'Folded share'."""
    text = key.replace("_", " ").capitalize()
    return f"{text.removesuffix(' mm')} (mm)" if text.endswith(" mm") else text


def text_of(value: Any) -> str | None:
    """A value of any kind as text."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return " × ".join(str(text_of(v)) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int = 3, unit: str = "") -> str | None:
    """As text; None, which a table shows as 'not available', for None."""
    return None if value is None else f"{plain(value, digits)}{unit}"


def _get(entry: Any, *keys: str) -> Any:
    """A value deep in nested dictionaries, None where the way ends early."""
    for key in keys:
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry
