"""How good answers are, and how little a small cohort can tell of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from JointRegSegLib.lung.classifier import above_chance, sigmoid
from scipy.optimize import brentq, minimize
from scipy.stats import binomtest, norm
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedKFold

#: Resampled cohorts for an interval.
RESAMPLED = 2000
#: Of people, to calibrate those of one by the others.
FOLDS = 5
Z = float(norm.ppf(0.975))


def figures(diseased: np.ndarray, probability: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Accuracy, sensitivity, specificity at 0.5, and AUC, with 95 % intervals of two kinds, and the Brier score.

    ``bootstrap`` intervals resample people within each diagnosis. Where all answers of a small cohort are right they
    shrink to a point, which says nothing; ``score`` intervals do not (Wilson 1927; for the AUC Newcombe 2006).

    Parameters
    ----------
    diseased : ndarray
        (n,) bool.
    probability : ndarray
        (n,) of disease.
    """
    right = (probability >= 0.5) == diseased
    measures: dict[str, tuple[Callable[[np.ndarray], float], np.ndarray | None]] = {
        "accuracy": (lambda rows: right[rows].mean(), right),
        "sensitivity": (lambda rows: right[rows][diseased[rows]].mean(), right[diseased]),
        "specificity": (lambda rows: right[rows][~diseased[rows]].mean(), right[~diseased]),
        "auc": (lambda rows: auc(diseased[rows], probability[rows]), None),
    }
    samples = list(_resampled(diseased, seed))
    out: dict[str, Any] = {"people": len(diseased), "diseased": int(diseased.sum())}
    everyone = np.arange(len(diseased))
    for name, (measure, counted) in measures.items():
        value = float(measure(everyone))
        found = [measure(rows) for rows in samples]
        if counted is None:
            score = auc_interval(value, int(diseased.sum()), int((~diseased).sum()))
        else:
            exact = binomtest(int(counted.sum()), len(counted)).proportion_ci(method="wilson")
            score = (exact.low, exact.high)
        bootstrap = np.percentile(found, (2.5, 97.5))
        out[name] = {"value": value, "bootstrap": [float(x) for x in bootstrap], "score": [float(x) for x in score]}
    out["brier"] = float(brier_score_loss(diseased, probability))
    return out


def worth(found: dict[str, Any]) -> list[str]:
    """What the figures of the networks, beside those of the regional measures, come to: sentences for a reader."""
    out = []
    for part, title in (("cross_validation", "in cross-validation"), ("test", "on people who were held out")):
        if part not in found:
            continue
        area, other = (found[part][who]["auc"] for who in ("network", "baseline"))
        if not above_chance(area):
            out.append(
                f"The networks are not shown to be better than chance {title} (AUC {area['value']:.2f}, "
                f"{area['score'][0]:.2f} to {area['score'][1]:.2f})."
            )
        if other["value"] > area["value"]:
            out.append(
                f"The regional measures alone do better {title}: AUC {other['value']:.2f} beside {area['value']:.2f}."
            )
    return out


def _resampled(diseased: np.ndarray, seed: int, count: int = RESAMPLED) -> Iterator[np.ndarray]:
    """Indices of cohorts drawn from a cohort, with as many of each diagnosis."""
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(diseased), np.flatnonzero(~diseased)]
    for _ in range(count):
        yield np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])


def auc(diseased: np.ndarray, answer: np.ndarray) -> float:
    """Area under the curve: how often a diseased person's answer is above a healthy one's; ties count half."""
    difference = answer[diseased][:, None] - answer[~diseased]
    return float((np.sign(difference).mean() + 1) / 2)


def auc_interval(area: float, diseased: int, healthy: int) -> tuple[float, float]:
    """The 95 % score interval of an area under the curve (Newcombe 2006, method 5, after Hanley & McNeil 1982)."""
    more = (diseased + healthy) / 2 - 1

    def beyond(true: float) -> float:
        variance = true * (1 - true) / (diseased * healthy)
        variance *= 1 + more * (1 - true) / (2 - true) + more * true / (1 + true)
        return (true - area) ** 2 - Z**2 * variance

    # At 0 and at 1 there is a second root, which is the border itself.
    edge = 1e-9
    inner = min(max(area, edge), 1 - edge)
    low = brentq(beyond, edge, inner) if area > edge and beyond(edge) > 0 else 0.0
    high = brentq(beyond, inner, 1 - edge) if area < 1 - edge and beyond(1 - edge) > 0 else 1.0
    return float(low), float(high)


def platt(logits: np.ndarray, diseased: np.ndarray) -> tuple[float, float]:
    """Slope and intercept that turn (n,) logits into probabilities (Platt 1999, with his targets for small samples).

    The slope is not below 0: a calibration may doubt an answer but not turn it around.
    """
    sick, healthy = diseased.sum(), (~diseased).sum()
    target = np.where(diseased, (sick + 1) / (sick + 2), 1 / (healthy + 2))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * logits + x[1]
        error = sigmoid(z) - target
        return float((np.logaddexp(0, z) - target * z).sum()), np.array([(error * logits).sum(), error.sum()])

    found = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=((0, None), (None, None)))
    return float(found.x[0]), float(found.x[1])


def calibration(logits: np.ndarray, diseased: np.ndarray, seed: int = 0, count: int = 200) -> dict[str, Any]:
    """`platt` of a cohort's cross-validated logits, and of ``count`` cohorts drawn from it."""
    slope, intercept = platt(logits, diseased)
    resampled = [platt(logits[rows], diseased[rows]) for rows in _resampled(diseased, seed, count)]
    return {"slope": slope, "intercept": intercept, "resampled": [list(pair) for pair in resampled]}


def calibrated_apart(logits: np.ndarray, diseased: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n,) probability of each person by the calibration of others, in folds with about as many of each diagnosis.

    Not of all others: without one person his or her diagnosis is rarer, and where answers tell nothing a calibration
    that says how common each is would be wrong about everybody.
    """
    out = np.zeros(len(logits))
    folds = min(FOLDS, int(diseased.sum()), int((~diseased).sum()))
    for others, fold in StratifiedKFold(folds, shuffle=True, random_state=seed).split(logits, diseased):
        slope, intercept = platt(logits[others], diseased[others])
        out[fold] = sigmoid(slope * logits[fold] + intercept)
    return out


def reliability(diseased: np.ndarray, probability: np.ndarray, groups: int = 4) -> list[dict[str, float]]:
    """Groups of as many people each, by rising probability: its mean, and the diseased share (with Wilson's 95 %)."""
    out = []
    for rows in np.array_split(np.argsort(probability, kind="stable"), groups):
        if len(rows):
            count = int(diseased[rows].sum())
            interval = binomtest(count, len(rows)).proportion_ci(method="wilson")
            predicted, observed = float(probability[rows].mean()), count / len(rows)
            out.append(
                {"people": len(rows), "predicted": predicted, "observed": observed}
                | {"low": float(interval.low), "high": float(interval.high)}
            )
    return out


def permutation_test(
    predict: Callable[[np.ndarray], np.ndarray],
    diseased: np.ndarray,
    achieved: float,
    count: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """How often shuffled diagnoses are predicted as well as the true ones.

    Parameters
    ----------
    predict : callable
        (n,) diagnoses → (n,) cross-validated answers.
    achieved : float
        AUC of the true diagnoses.

    Returns
    -------
    dict
        ``count`` shuffles, their ``aucs``, and ``p`` = (1 + as good ones) / (1 + count), which is None without any.
    """
    rng, found = np.random.default_rng(seed), []
    for n in range(count):
        shuffled = rng.permutation(diseased)
        found.append(auc(shuffled, predict(shuffled)))
        if progress:
            progress((n + 1) / count)
    p = (1 + sum(value >= achieved for value in found)) / (1 + count) if count else None
    return {"count": count, "p": p, "aucs": found}
