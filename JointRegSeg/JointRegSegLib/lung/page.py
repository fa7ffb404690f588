"""The page that shows a lung review to a reader who has nothing but a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..canvas import OUTSIDE
from ..report import (
    Table,
    landmarks,
    number,
    regularity,
    rows_of,
    similarity,
    template,
    text_of,
    verdict_of,
    write_page,
)
from ..text import percent, plain
from .expansion import RESOLUTION
from .gallery import draw
from .measures import REFERENCES, RESPONSES
from .record import PHASES
from .reviewing import SMOOTHING, Review

_HERE = Path(__file__).parent


def write_html(review: Review, path: str | Path, printed: bool = False) -> None:
    """Write the report of a review as one file that needs nothing else: no network, no scripts.

    ``printed`` is for paper, in the subset of HTML that Qt's rich text knows, with which Slicer makes a PDF of it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_page(render(review, printed), path)


def render(review: Review, printed: bool = False) -> str:
    """The page of `write_html` as a string."""
    report, quality = review.report, review.report["quality"]
    gallery = draw(review)
    return template("printed.html" if printed else "review.html", _HERE).render(
        notice=report["notice"],
        reference=review.reference,
        other=next(phase for phase in PHASES if phase != review.reference),
        volumes=[(phase, f"{report['volumes_ml'][phase]:.0f} ml") for phase in PHASES],
        patient=report.get("patient"),
        model=f"{report['model']['name']}: {report['model']['title']}",
        verdict=verdict_of(report),
        gallery=gallery,
        outside="#{:02x}{:02x}{:02x}".format(*OUTSIDE),
        measures=report["measures"],
        regions=[
            _of(report, "Volumes and ventilation", _VENTILATION, _depth(report)),
            _of(report, "Strain and motion", _STRAIN, "Strains: positive for stretch, negative for compression."),
            _of(report, "Densities", _DENSITY, _SHARES, _NO_CT),
        ],
        formulas=_formulas(report),
        sources=Table("Sources", (), [(text,) for text in REFERENCES]),
        evidence=[_evidence(report), landmarks(quality), similarity(quality), regularity(quality)],
        error=report["error"],
        details=_details(report),
        version=report["versions"]["jointregseg"],
    )


#: Columns of the tables: key of a row, title, factor and digits.
_VENTILATION = (
    ("exhale_ml", "Exhale, ml", 1, 0),
    ("inhale_ml", "Inhale, ml", 1, 0),
    ("inspired_fraction", "Inspired fraction, %", 100, 1),
    ("ventilation", "J − 1", 1, 3),
    ("relative_ventilation", "J − 1 relative to the lungs'", 1, 2),
    ("log_jacobian", "ln J", 1, 3),
    ("heterogeneity", "Heterogeneity", 1, 2),
)
_STRAIN = (
    ("strain_1", "Largest strain", 1, 3),
    ("strain_2", "Middle strain", 1, 3),
    ("strain_3", "Smallest strain", 1, 3),
    ("anisotropy", "Anisotropy", 1, 3),
    ("displacement", "Displacement, mm", 1, 1),
)
_DENSITY = (
    ("intensity_ventilation", "Ventilation by density", 1, 3),
    ("specific_air_change", "Specific air change", 1, 3),
    *((f"{title}, %", f"{title[0].upper()}{title[1:]}, %", 1, 1) for title in RESPONSES.values()),
)
_SHARES = "Shares are of the volume at inhale. No error is known of what densities alone tell."
_NO_CT = "not available: the scans are no CT in HU"


def _of(
    report: dict[str, Any], title: str, columns: tuple[tuple[str, str, float, int], ...], hint: str, missing: str = ""
) -> Table:
    """A row a region, with ± one deviation where it is known."""
    columns = tuple(column for column in columns if column[0] in report["regions"][0])
    rows = []
    for region in report["regions"]:
        cells = []
        for key, _, factor, digits in columns:
            value, error = region[key], region.get(f"{key}_error")
            text = None if value is None else plain(factor * value, digits).replace("-", "−")
            cells.append(text if text is None or error is None else f"{text} ± {factor * error:.{digits}f}")
        rows.append((region["region"], *cells))
    return Table(title, ("Region", *(column[1] for column in columns)), rows if columns else [], hint, missing)


def _depth(report: dict[str, Any]) -> str:
    whole = report["regions"][0]["ventilation"]
    return (
        "Means over the tissue at exhale, ± one standard deviation. This breath changed the volume of the lungs by "
        f"{plain(100 * whole, 0)} % of that at exhale; relative ventilation divides by it, so that breaths of "
        "different depth can be compared."
    )


def _formulas(report: dict[str, Any]) -> Table:
    rows = [(m["title"], m["formula"], m["unit"] or "–", m["source"] or "–") for m in report["measures"].values()]
    return Table(
        "What the measures are",
        ("Measure", "Formula", "Unit", "Source"),
        rows,
        "J: volume at inhale for volume at exhale, det F; F: derivative of the map from exhale to inhale; "
        "λ₁ ≥ λ₂ ≥ λ₃: principal stretches, roots of the eigenvalues of FᵀF; ρ: share of tissue, 1 + HU / 1000; "
        "air: −HU / 1000; M: mass of the lungs at exhale for that at inhale; V: volume. F is averaged over "
        f"{RESOLUTION:g} mm (deviation of a Gaussian) within the lungs, for a registration resolves no more; densities "
        f"over {SMOOTHING:g} mm within the lungs, less the voxels at their surface, which hold some of the wall.",
    )


def _evidence(report: dict[str, Any]) -> Table:
    found, other = report["evidence"], next(phase for phase in PHASES if phase != report["reference"])
    rows = [
        ("Overlap of the lungs (Dice), before and after", f"{found['dice_before']:.3f} → {found['dice_after']:.3f}"),
        ("Distance of the lungs' surfaces after registration, rms", number(found["surfaces_mm"], 2, " mm")),
        (f"Volume at {other} by the deformation, border included", number(found["carried_ml"], 0, " ml")),
        (f"Volume at {other} by the expansion within the lungs", number(found["expanded_ml"], 0, " ml")),
        (f"Volume at {other} by the outlines", number(found["segmented_ml"], 0, " ml")),
        ("There and back misses the start in the lungs, rms", number(found["inverse_consistency_mm"], 3, " mm")),
        (f"Lungs outside the {other} image", percent(found["unseen_share"])),
    ]
    return Table("The lungs, registered", ("Figure", "Value"), rows)


def _details(report: dict[str, Any]) -> list[Table]:
    inputs = [
        (f"{name.capitalize()}, {key.replace('_', ' ')}", text_of(value))
        for name, entry in report["inputs"].items()
        for key, value in entry.items()
    ]
    seconds = [(stage.capitalize(), number(value, 2, " s")) for stage, value in report["seconds"].items()]
    computing = [("Device", report["device"]), *report["versions"].items()]
    return [
        Table("Inputs", (), inputs),
        Table("Settings", (), rows_of(report["settings"] | {"weights, SHA-256": report["model"]["sha256"]})),
        Table("Device and versions", (), computing),
        Table("Time", (), seconds),
        Table("Notes", (), [(text,) for text in report["notes"]], missing="none"),
    ]
