"""A training cohort's distribution of regional measures, for `JointRegSegLib.lung.likeness`."""

from __future__ import annotations

import numpy as np
from JointRegSegLib.lung.likeness import Likeness
from sklearn.covariance import LedoitWolf

#: Of a measure that all people share: it tells nobody apart, and may not be divided by.
LEAST = 1e-6


def likeness_of(measures: np.ndarray, names: tuple[str, ...]) -> Likeness:
    """Describe (n, p) measures; the distance of each person is from a description of the others."""
    distances = []
    for n, row in enumerate(measures):
        distances.append(_described(np.delete(measures, n, 0), names).distance(row))
    logarithms = np.log(np.maximum(distances, 1e-9))
    return _described(measures, names, float(logarithms.mean()), float(max(logarithms.std(ddof=1), 1e-3)))


def _described(measures: np.ndarray, names: tuple[str, ...], mean: float = 0.0, deviation: float = 1.0) -> Likeness:
    center = np.median(measures, 0)
    scale = np.maximum(1.4826 * np.median(np.abs(measures - center), 0), LEAST)
    shrunk = LedoitWolf(assume_centered=True).fit((measures - center) / scale)
    return Likeness(names, center, scale, shrunk.precision_, mean, deviation)
