"""How unlike a training cohort a person is, by the regional measures: what a classifier never saw it cannot judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True, eq=False)
class Likeness:
    """A cohort's distribution of p measures.

    Attributes
    ----------
    names : tuple of str
        Of the measures.
    center, scale : ndarray
        (p,) medians, and robust deviations (1.4826 times the median distance from them), by which measures are told.
    precision : ndarray
        (p, p) inverse covariance of these, shrunk (Ledoit & Wolf 2004), as there are hardly more people than measures.
    mean, deviation : float
        Of the logarithm of each person's distance from the others, left out in turn.
    """

    names: tuple[str, ...]
    center: np.ndarray
    scale: np.ndarray
    precision: np.ndarray
    mean: float
    deviation: float

    def distance(self, measures: np.ndarray) -> float:
        """Mahalanobis distance of (p,) measures."""
        z = (measures - self.center) / self.scale
        return float(np.sqrt(max(z @ self.precision @ z, 0.0)))

    def percentile(self, measures: np.ndarray) -> float:
        """Percent of such people as the cohort's who are nearer to it, 0 to 100; distances are taken as log-normal."""
        return float(100 * norm.cdf((np.log(max(self.distance(measures), 1e-9)) - self.mean) / self.deviation))
