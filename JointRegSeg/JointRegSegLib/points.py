"""Landmarks on disk: CSV, Slicer's markups, VTK. Points are (n, 3) in LPS mm."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from .errors import InputError, OutputError, reading
from .tables import cells

_FLIP = np.array([-1.0, -1.0, 1.0])


def read_points(path: str | Path) -> np.ndarray:
    """Read landmarks.

    Parameters
    ----------
    path : str or Path
        ``.csv`` with columns x, y, z in LPS mm (or three bare columns), Slicer's ``.mrk.json`` or ``.fcsv`` (LPS or
        RAS as the file says), or VTK's legacy text format ``.vtk`` (taken as LPS).

    Raises
    ------
    InputError
        If the file is missing, holds no points, points that were not placed, or values that are not numbers.
    """
    path = Path(path)
    reader = {".json": _markups, ".fcsv": _fiducials, ".vtk": _vtk}.get(path.suffix.lower(), _csv)
    try:
        with reading(path):
            if path.is_dir():
                raise InputError(f"{path}: is a folder; name a file of landmarks")
            if not path.exists():
                raise InputError(f"{path}: no such file; check the path")
            text = path.read_text(encoding="utf-8-sig")
        points = np.asarray(reader(text), float).reshape(-1, 3)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        reason = f" ({error})" if isinstance(error, _Malformed) else ""
        raise InputError(
            f"{path}: cannot be read as landmarks{reason}; give a CSV with columns x, y, z in LPS mm, or Slicer markups"
        ) from None
    return checked(points, str(path))


class _Malformed(ValueError):
    """What is wrong, in words for the user."""


def checked(points: np.ndarray, name: str) -> np.ndarray:
    """Landmarks as an (n, 3) float array; raises `InputError`, which calls them ``name``, where they are none."""
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise InputError(f"{name}: holds no landmarks, or values that are not finite numbers; give x, y, z in LPS mm")
    return points


def write_points(points: np.ndarray, path: str | Path) -> None:
    """Write landmarks (n, 3) in LPS mm as ``.csv`` or Slicer's ``.mrk.json``.

    Raises
    ------
    OutputError
        If the ending is another one or the place cannot be written to.
    """
    path = Path(path)
    if path.name.endswith(".json"):
        control = [{"id": str(i + 1), "label": f"{i + 1}", "position": p} for i, p in enumerate(points.tolist())]
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": control}
        schema = (
            "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
            "markups-schema-v1.0.3.json#"
        )
        text = json.dumps({"@schema": schema, "markups": [markup]}, indent=1)
    elif path.suffix == ".csv":
        text = "x,y,z\n" + "".join(f"{x:.6f},{y:.6f},{z:.6f}\n" for x, y, z in points)
    else:
        raise OutputError(f"{path}: landmarks are written as .csv or .mrk.json")
    try:
        path.write_text(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None


def _csv(text: str) -> list[list[float]]:
    lines, separator = cells("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    rows = list(lines.values())
    names = [cell.lower() for cell in rows[0]]
    if {"x", "y", "z"} <= set(names):
        rows = rows[1:]
    else:
        names = ["x", "y", "z"]
    if any(names.count(axis) > 1 for axis in "xyz"):
        raise _Malformed("a column is there twice")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise _Malformed(f"point {number} has {len(row)} values for {len(names)} columns")
    columns = [names.index(axis) for axis in "xyz"]
    # Where a comma does not separate values it begins the decimals.
    return [[float(row[c] if separator == "," else row[c].replace(",", ".")) for c in columns] for row in rows]


def _markups(text: str) -> np.ndarray:
    markup = json.loads(text)["markups"][0]
    for number, point in enumerate(markup["controlPoints"], 1):
        # Left out, the points after it would correspond to others.
        if point.get("positionStatus", "defined") != "defined":
            raise _Malformed(f"point {number}, '{point.get('label', '')}', was not placed")
    points = np.array([p["position"] for p in markup["controlPoints"]], float)
    return points * _FLIP if markup.get("coordinateSystem", "LPS") in ("RAS", "0", 0) else points


def _fiducials(text: str) -> np.ndarray:
    system = "RAS"
    rows = []
    for line in text.splitlines():
        if line.startswith("#"):
            if "CoordinateSystem" in line:
                system = line.split("=")[1].strip()
        elif line.strip():
            rows.append([float(x) for x in line.split(",")[1:4]])
    return np.array(rows) * (_FLIP if system in ("RAS", "0") else 1)


def _vtk(text: str) -> np.ndarray:
    words = text.split()
    start = words.index("POINTS")
    count = int(words[start + 1])
    found = np.array(words[start + 3 : start + 3 + 3 * count], float).reshape(count, 3)
    # Slicer writes into the second line in which space points are.
    return found * _FLIP if "SPACE=RAS" in "".join(text.splitlines()[1:2]) else found
