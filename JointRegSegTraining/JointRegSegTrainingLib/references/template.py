"""The template, and where its points lie in each subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .currents import Matching, match
from .surfaces import onto, surfaces_of


def choose(labels: Mapping[str, np.ndarray], structures: Sequence[Sequence[int]]) -> str:
    """Name of the subject whose structures overlap best with those of all others.

    Parameters
    ----------
    labels : mapping
        Name → label map (D, H, W); all on one lattice.
    structures : sequence of sequences of int
        Unions of labels; the mean of their Dice coefficients counts.
    """
    names = sorted(labels)
    overlap = np.zeros(len(names))
    for values in structures:
        masks = np.stack([np.isin(labels[name], list(values)).ravel() for name in names]).astype(np.float32)
        sizes = masks.sum(1)
        overlap += (2 * masks @ masks.T / np.maximum(sizes[:, None] + sizes, 1)).mean(1)
    return names[int(overlap.argmax())]


def correspondences(
    template: np.ndarray,
    subject: np.ndarray,
    structures: Sequence[Sequence[int]],
    spacing: Sequence[float],
    edge: float,
    matching: Matching,
    name: str = "subject",
) -> np.ndarray:
    """Where the points of the template's surfaces lie in a subject, (n, 3) along D, H, W in mm.

    Matching as currents leaves points a small way off the surface; the last step moves them toward it.

    Parameters
    ----------
    template, subject : numpy.ndarray
        Label maps (D, H, W) on one lattice with ``spacing``.
    edge : float
        Size of triangles in mm.

    Raises
    ------
    InputError
        If one of them lacks a structure.
    """
    source = surfaces_of(template, structures, spacing, edge, "template")
    moved = match(source, surfaces_of(subject, structures, spacing, edge, name), matching)
    ends = np.cumsum([len(part.points) for part in source])
    parts = zip(np.split(moved, ends[:-1]), structures, strict=True)
    return np.concatenate(
        [onto(points, np.isin(subject, list(values)), spacing, matching.reach) for points, values in parts]
    )
