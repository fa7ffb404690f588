"""What the JSON file of a lung review holds, and whom it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import files
from ..pipeline import NOTICE, ImageSource
from ..result import Registration
from . import checks, measures
from .checks import Scan

PHASES = ("inhale", "exhale")
#: What names a person, asked for only: DICOM tag and what the report calls it.
PATIENT = {
    "0010|0010": "Name",
    "0010|0020": "ID",
    "0010|0030": "Birth date",
    "0008|0020": "Study date",
    "0008|0050": "Accession number",
}


def record(
    registration: Registration,
    scans: Mapping[str, Scan],
    rows: list[dict[str, Any]],
    failures: list[str],
    warnings: list[str],
    evidence: Mapping[str, float],
    error: Mapping[str, Any],
    sources: Mapping[str, Any],
    origins: Mapping[str, str],
    reference: str,
    values: Mapping[str, np.ndarray],
    patient: bool | Mapping[str, str],
) -> dict[str, Any]:
    """What ``review.json`` holds. Paths may name a person: they are left out unless the patient is to be named."""
    own = registration.report
    described = measures.MEASURES | measures.DERIVED
    report = {
        "notice": NOTICE,
        "verdict": _verdict(own["verdict"], failures, warnings),
        "warnings": [*own["warnings"], *failures, *warnings],
        "reference": reference,
        "exchanged": bool(checks.order(scans["inhale"], scans["exhale"])),
        "volumes_ml": {phase: scan.volume for phase, scan in scans.items()},
        "evidence": {key: _plain(value) for key, value in evidence.items()},
        "error": {key: _plain(value) for key, value in error.items()},
        "quality": own["quality"],
        "regions": [{key: _plain(value) for key, value in row.items()} for row in rows],
        "measures": {
            name: {key: getattr(described[name], key) for key in ("title", "unit", "formula", "source")}
            for name in [*values, "inspired_fraction", "heterogeneity"]
        },
        "inputs": {
            phase: {
                "size": list(scan.image.GetSize()),
                "spacing_mm": [round(s, 6) for s in scan.image.GetSpacing()],
                "type": scan.image.GetPixelIDTypeAsString(),
                **scan.tags,
                "lungs": origins[phase],
                "sha256": checksum(sources[phase][0]),
            }
            for phase, scan in scans.items()
        },
        **{key: own[key] for key in ("model", "device", "notes", "versions")},
        # A bundle's folder may be named after a person; its name and checksum say which it is.
        "settings": own["settings"] | {"model": own["model"]["name"]},
        "seconds": dict(own["seconds"]),
    }
    if patient:
        told = dict(patient) if isinstance(patient, Mapping) else {}
        for phase in PHASES if patient is True else ():
            source = sources[phase][0]
            told |= {f"{title} ({phase})": text for title, text in files.tags(source, PATIENT).items()}
            if isinstance(source, str | Path):
                told[f"File ({phase})"] = str(source)
        if patient is True and isinstance(sources["transform"], str | Path):
            told["Transform"] = str(sources["transform"])
        report["patient"] = told
    return report


def _verdict(verdict: Mapping[str, Any], failures: list[str], warnings: list[str]) -> dict[str, Any]:
    """The registration's verdict, red after all with ``failures``, and no green one with ``warnings`` of the scans."""
    if not failures and not warnings:
        return dict(verdict)
    reasons = [*failures, *warnings, *(verdict["reasons"] if verdict["color"] != "green" else [])]
    color = "red" if failures else "amber" if verdict["color"] == "green" else verdict["color"]
    return {**verdict, "color": color, "reasons": reasons}


def checksum(source: ImageSource) -> str:
    """SHA-256 of a file, of several (`files.parts_of`) one after the other, or of the voxels of an image in memory."""
    digest = hashlib.sha256()
    if isinstance(source, sitk.Image):
        digest.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(source)))
        return digest.hexdigest()
    for file in files.parts_of(Path(source)):
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
