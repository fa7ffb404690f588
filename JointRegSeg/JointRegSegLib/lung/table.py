"""A row of figures for each region of the lungs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import measures
from .expansion import Expansion
from .regions import WHOLE


@dataclass(frozen=True)
class Breath:
    """What is known of the lungs' n voxels on the fixed image's lattice.

    Attributes
    ----------
    expansion : Expansion
        Of these voxels.
    volume : float
        Of one voxel in mm³.
    fixed_is_inhale : bool
        Whether that is its volume at inhale, not at exhale.
    inhale, exhale : ndarray or None
        (n,) HU of the same tissue; None for images that are not CT.
    uncertainty : Uncertainty or None
        Of the displacement; None where nothing is known of it.
    """

    expansion: Expansion
    volume: float
    fixed_is_inhale: bool
    inhale: np.ndarray | None = None
    exhale: np.ndarray | None = None
    uncertainty: measures.Uncertainty | None = None

    def volumes(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) mm³ at exhale and at inhale of each voxel's tissue."""
        own, ratio = np.full(len(self.expansion.motion), self.volume), self.expansion.volume_ratio
        return (own / ratio, own) if self.fixed_is_inhale else (own, own * ratio)


def maps(breath: Breath) -> dict[str, np.ndarray]:
    """(n,) values by measure: those of `measures.MEASURES`, ventilation relative to the lungs, and of CT densities.

    Raises
    ------
    InputError
        If the lungs as a whole hardly change their volume.
    """
    expansion = breath.expansion
    found = {name: measure.compute(expansion) for name, measure in measures.MEASURES.items()}
    exhaled, _ = breath.volumes()
    found["relative_ventilation"] = measures.relative(found["ventilation"], exhaled)
    if breath.inhale is not None and breath.exhale is not None:
        ratio = expansion.volume_ratio
        mass = measures.mass_factor(breath.inhale, breath.exhale, ratio, exhaled)
        found["intensity_ventilation"] = measures.intensity_ventilation(breath.inhale, breath.exhale, mass)
        found["specific_air_change"] = measures.specific_air_change(breath.inhale, breath.exhale, ratio)
        found["parametric_response"] = measures.parametric_response(breath.inhale, breath.exhale).astype(float)
    return found


def table(breath: Breath, parts: Mapping[str, np.ndarray]) -> list[dict[str, float | str]]:
    """One row a region: its name, its volumes in ml, and means over its tissue at exhale.

    ``*_error`` is the deviation of a figure that the displacement's error implies; none is known of what follows from
    densities alone, nor of volumes in the fixed image, which are those of the outlines. The parametric response is told
    in percent of the volume at inhale, as in the literature.

    Parameters
    ----------
    parts : mapping
        (n,) bool by region; the one named `regions.WHOLE` holds all.
    """
    values = maps(breath)
    exhaled, inhaled = breath.volumes()
    rows = []
    for name, inside in sorted(parts.items(), key=lambda part: part[0] != WHOLE):
        weights = exhaled[inside]
        row: dict[str, float | str] = {
            "region": name,
            "exhale_ml": float(weights.sum() / 1000),
            "inhale_ml": float(inhaled[inside].sum() / 1000),
        }
        row["inspired_fraction"] = measures.inspired_fraction(row["inhale_ml"], row["exhale_ml"])
        for measure, of_voxels in values.items():
            here = of_voxels[inside]
            if measure == "parametric_response":
                for value, title in measures.RESPONSES.items():
                    row[f"{title}, %"] = float(100 * np.average(here == value, weights=inhaled[inside]))
                continue
            known = np.isfinite(here)
            row[measure] = float(np.average(here[known], weights=weights[known])) if known.any() else float("nan")
        row["heterogeneity"] = measures.heterogeneity(values["ventilation"][inside], weights)
        rows.append(row)
    if breath.uncertainty is not None:
        _add_errors(rows, breath, breath.uncertainty, parts, exhaled)
    return rows


def _add_errors(
    rows: list[dict[str, float | str]],
    breath: Breath,
    uncertainty: measures.Uncertainty,
    parts: Mapping[str, np.ndarray],
    exhaled: np.ndarray,
) -> None:
    """``*_error`` of each row, to first order."""
    expansion, length = breath.expansion, uncertainty.length
    errors = {name: measure.error(expansion, uncertainty) for name, measure in measures.MEASURES.items()}
    growths = {name: measure.growth(expansion) for name, measure in measures.MEASURES.items()}
    depth, random = float(rows[0]["ventilation"]), {}
    for row in rows:
        inside = parts[row["region"]]
        weights = exhaled[inside]
        for name, measure in measures.MEASURES.items():
            apart = np.inf if measure.common else length
            own = measures.mean_deviation(errors[name][inside], weights, float(weights.sum()), apart)
            common = uncertainty.volume * abs(np.average(growths[name][inside], weights=weights))
            row[f"{name}_error"] = float(np.hypot(own, common))
            if name == "ventilation":
                random[row["region"]] = own
        # The volume at one phase is that of outlines; J takes it to the other one.
        ratio = row["ventilation_error"] / (1 + row["ventilation"])
        phase = "exhale" if breath.fixed_is_inhale else "inhale"
        row[f"{phase}_ml_error"] = row[f"{phase}_ml"] * ratio
        row["inspired_fraction_error"] = (1 - row["inspired_fraction"]) * ratio
        if "specific_air_change" in row:
            row["specific_air_change_error"] = (1 + row["specific_air_change"]) * ratio
        whole = 0.0 if row["region"] == WHOLE else row["relative_ventilation"] * random[rows[0]["region"]]
        own = 0.0 if row["region"] == WHOLE else random[row["region"]]
        row["relative_ventilation_error"] = float(np.hypot(own, whole)) / abs(depth)
        row["heterogeneity_error"] = float(
            random[row["region"]] * np.hypot(1, row["heterogeneity"]) / abs(row["ventilation"])
        )
