"""One figure for each person: pairs share people, so that a test over pairs would take one person for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

#: Of significance.
LEVEL = 0.05


def each(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Mean of a figure over the pairs of each ``fixed`` image, in the order of these images' names."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["fixed"], []).append(row[key])
    return np.array([np.mean(values[name]) for name in sorted(values)])


def holm(tests: Mapping[str, float]) -> dict[str, float]:
    """p of several tests after Holm's correction, smallest first."""
    out, largest = {}, 0.0
    for rank, name in enumerate(sorted(tests, key=tests.get)):
        out[name] = largest = max(largest, min(1.0, tests[name] * (len(tests) - rank)))
    return out


def signed_rank(own: np.ndarray, others: np.ndarray, alternative: str = "two-sided") -> float:
    """p of Wilcoxon's signed-rank test of two methods on the same people; 1 where nobody differs."""
    return float(wilcoxon(own, others, alternative=alternative).pvalue) if (own != others).any() else 1.0
