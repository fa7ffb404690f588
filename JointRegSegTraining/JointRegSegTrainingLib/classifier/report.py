"""The page that shows what a classifier is worth."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from JointRegSegLib import __version__
from JointRegSegLib.pipeline import NOTICE
from JointRegSegLib.report import template, write_page
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from .figures import worth

COLORS = {"network": "#14507a", "baseline": "#b35c00"}
TITLES = {"network": "five networks", "baseline": "logistic regression on regional measures"}
_PARTS = {
    "cross_validation": ("Cross-validated", "Everyone is judged by a model that has not seen them."),
    "test": (
        "Held out",
        "People who were left out of training altogether, judged once by the mean of the five networks.",
    ),
}


@dataclass(frozen=True)
class Plot:
    """A picture of the page."""

    title: str
    png: bytes


def write(path: Path, card: dict[str, Any], found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the page: one file that needs nothing else.

    Parameters
    ----------
    found : dict
        See `training.FIGURES`.
    rows : list of dict
        Each person's case, split, diagnosis and probabilities.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    training = card["training"]
    page = template("curves.html", Path(__file__).parent).render(
        name=card["name"],
        notice=NOTICE,
        training=training,
        facts=_verdicts(training, found["verdicts"]),
        made=_made(card),
        worth=worth(found),
        parts=[_part(key, found[key]) for key in _PARTS if key in found],
        plots=[_roc(rows), _calibration(found["reliability"]), *_permutation(found)],
        chance=_chance(found["permutation"]),
        version=__version__,
    )
    write_page(page, path)


def _made(card: dict[str, Any]) -> list[str]:
    """How the models came about, and what their answers mean."""
    training, recipe = card["training"], card["recipe"]
    motion = "without its affine part" if recipe["motion"] == "residual" else "affine part and all"
    motion += ", divided by the depth of the breath" if recipe["by_depth"] else ""
    return [
        f"Five networks: the deformation, {motion}, on {recipe['size']}³ points; a 3³ convolution with stride 2, batch "
        f"normalization, and a perceptron with {card['network']['hidden']} units and tanh, trained for "
        f"{training['epochs']} epochs at a rate of {training['rate']:g} that halves every {training['halving']} (seed "
        f"{training['seed']}), on four fifths of the people each; their answers are averaged (Christodoulidis et al. "
        "2018, doi:10.1007/978-3-030-00946-5_2).",
        "Logistic regression on regional measures: ventilation and anisotropy of zones of the lungs, its strength of "
        "regularization chosen by nested cross-validation.",
        "Accuracy, sensitivity and specificity count a calibrated probability of 0.5 or more as diseased; diseased is "
        "the positive class.",
    ]


def _verdicts(training: dict[str, Any], counts: dict[str, int]) -> str:
    told = ", ".join(f"{n} {color}" for color, n in counts.items() if n)
    if not any(counts[color] for color in ("green", "amber", "red")):
        return "Nobody was registered: all transforms came with the cohort, and are taken as they are."
    return f"Registered by {training['registration']}; verdicts of all registrations: {told}."


def _part(key: str, told: dict[str, Any]) -> dict[str, Any]:
    title, text = _PARTS[key]
    people = next(iter(told.values()))
    rows = [
        [name.upper() if name == "auc" else name.capitalize(), *(_figure(entry[name]) for entry in told.values())]
        for name in ("accuracy", "sensitivity", "specificity", "auc")
    ]
    rows.append(["Brier score", *(f"{entry['brier']:.3f}" for entry in told.values())])
    return {
        "title": title,
        "text": f"{text} {people['people']} people, {people['diseased']} of them diseased.",
        "columns": [TITLES[who] for who in told],
        "rows": rows,
    }


def _figure(entry: dict[str, Any]) -> str:
    (low, high), (least, most) = entry["bootstrap"], entry["score"]
    return f"{entry['value']:.2f}, {low:.2f} to {high:.2f} ({least:.2f} to {most:.2f})"


def _chance(tests: dict[str, Any]) -> list[str]:
    return [
        f"{TITLES[who].capitalize()}: p = {told['p']:.3f}. {told['count']} cohorts with shuffled diagnoses were "
        f"trained on anew; 95 % of their AUCs lie between {np.quantile(told['aucs'], 0.025):.2f} and "
        f"{np.quantile(told['aucs'], 0.975):.2f}."
        for who, told in tests.items()
        if told["count"]
    ] or ["No permutation test was made."]


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.2, 4.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _roc(rows: list[dict[str, Any]]) -> Plot:
    figure, axes = _axes("1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color="#aab4be", linewidth=0.8)
    for split, style in (("train", "solid"), ("test", "dashed")):
        chosen = [row for row in rows if row["split"] == split]
        diseased = [row["diseased"] for row in chosen]
        if len(set(diseased)) < 2:
            continue
        for who, color in COLORS.items():
            false, true, _ = roc_curve(diseased, [row[f"{who}_logit"] for row in chosen], drop_intermediate=False)
            label = f"{TITLES[who]}, {'held out' if split == 'test' else 'cross-validated'}"
            axes.step(false, true, where="post", color=color, linestyle=style, linewidth=1.6, label=label)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # off the curves
    return Plot("Receiver operating characteristic", _png(figure))


def _calibration(reliability: dict[str, Any]) -> Plot:
    figure, axes = _axes("predicted probability", "share that is diseased")
    axes.plot([0, 1], [0, 1], color="#aab4be", linewidth=0.8)
    for who, color in COLORS.items():
        groups = reliability[who]
        x, y = ([group[key] for group in groups] for key in ("predicted", "observed"))
        below = [group["observed"] - group["low"] for group in groups]
        above = [group["high"] - group["observed"] for group in groups]
        axes.errorbar(x, y, (below, above), fmt="o", color=color, capsize=3, markersize=5, label=TITLES[who])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    return Plot("Calibration, cross-validated; bars hold 95 %", _png(figure))


def _permutation(found: dict[str, Any]) -> list[Plot]:
    tests = {who: told for who, told in found["permutation"].items() if told["count"]}
    if not tests:
        return []
    figure, axes = _axes("AUC", "share of shuffled cohorts")
    for who, told in tests.items():
        weights = np.full(told["count"], 1 / told["count"])
        axes.hist(
            told["aucs"], np.linspace(0, 1, 21), weights=weights, color=COLORS[who], alpha=0.45, label=TITLES[who]
        )
        axes.axvline(found["cross_validation"][who]["auc"]["value"], color=COLORS[who], linewidth=2)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    return [Plot("Shuffled diagnoses (bars) and the true ones (lines)", _png(figure))]
