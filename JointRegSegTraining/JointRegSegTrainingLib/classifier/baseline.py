"""The honest baseline: logistic regression on regional measures, by nested cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from .networks import folds

#: Inverse strengths of the L2 penalty among which the inner cross-validation chooses.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
INNER_FOLDS = 3


def model(seed: int) -> GridSearchCV:
    """Standardized measures, balanced logistic regression, and a strength chosen by cross-validated likelihood."""
    steps = Pipeline(
        [("standard", StandardScaler()), ("logistic", LogisticRegression(class_weight="balanced", max_iter=1000))]
    )
    inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    return GridSearchCV(steps, {"logistic__C": STRENGTHS}, scoring="neg_log_loss", cv=inner)


def nested(measures: np.ndarray, diseased: np.ndarray, seed: int) -> np.ndarray:
    """(n,) logit of each person by a model that was neither fitted nor chosen on them; the networks' folds."""
    split = folds(diseased, seed)
    return cross_val_predict(model(seed), measures, diseased, cv=split, method="decision_function")


def fitted(measures: np.ndarray, diseased: np.ndarray, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """The model of all people, as plain numbers (see ``classifier.schema.json``)."""
    best = model(seed).fit(measures, diseased).best_estimator_
    standard, logistic = best["standard"], best["logistic"]
    return {
        "names": list(names),
        "center": standard.mean_.tolist(),
        "scale": standard.scale_.tolist(),
        "coefficients": logistic.coef_[0].tolist(),
        "intercept": float(logistic.intercept_[0]),
        "strength": float(logistic.C),
    }


def calibrated(entry: dict[str, Any], slope: float, intercept: float) -> dict[str, Any]:
    """A `fitted` model whose logits are turned into probabilities by a calibration.

    Balanced weights give each diagnosis a half, however common it is.
    """
    return entry | {
        "coefficients": [slope * value for value in entry["coefficients"]],
        "intercept": slope * entry["intercept"] + intercept,
    }
