"""What models there are: reads nothing but the standard library can, for a window that must not wait for torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

GENERIC = "generic"
#: What `generic` says about itself, where bundles have a manifest.
GENERIC_ENTRY = {
    "name": GENERIC,
    "title": "Any two volumes",
    "description": "Affine and diffeomorphic instance optimization; needs no training and does not segment",
    "anatomy": "any body part, the same in both",
    "modality": "any",
    "license": "Apache-2.0",
    "labels": [],
}
_HERE = Path(__file__).resolve().parent
#: Where bundles ship: beside the library once it is installed, in the extension's resources in a checkout or in Slicer.
_SHIPPED = (_HERE / "Models", _HERE.parent / "Resources" / "Models")
#: Names of further folders with bundles, separated as in PATH.
FOLDERS_VARIABLE = "JOINTREGSEG_MODELS"


def folders() -> list[Path]:
    """Folders that are searched for bundles."""
    named = os.environ.get(FOLDERS_VARIABLE, "")
    return [Path(p) for p in named.split(os.pathsep) if p] + [p for p in _SHIPPED if p.is_dir()]


def bundles() -> list[Path]:
    """Folders that hold a ``model.json``, in the order in which they count."""
    return [path.parent for folder in folders() for path in sorted(folder.glob("*/model.json"))]


def entries() -> list[dict[str, Any]]:
    """`generic` and the manifests of all bundles, by name, as they are: `models` checks them when one is used.

    Each has its ``folder`` beside what ``model.schema.json`` describes. Unreadable ones are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in bundles():
        try:
            manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            found.setdefault(str(manifest["name"]), {**manifest, "folder": str(folder)})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [GENERIC_ENTRY, *(found[name] for name in sorted(found))]
