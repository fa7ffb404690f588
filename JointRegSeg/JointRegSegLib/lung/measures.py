"""Regional measures of breathing: each with its formula, its unit, its source and its error.

Measures of the deformation take an `Expansion`, J its ratio of volumes and λ₁ ≥ λ₂ ≥ λ₃ its principal stretches; those
of intensity take CT numbers in HU of the same tissue at inhale and at exhale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..preprocess import air_share
from .expansion import Expansion

#: CT numbers below which lung is emphysema at inhale, and traps air at exhale (Galbán et al. 2012).
EMPHYSEMA, TRAPPING = -950, -856
#: Classes of `parametric_response`, by value.
RESPONSES = {1: "normal", 2: "functional small airways disease", 3: "emphysema", 4: "unclassified"}


@dataclass(frozen=True)
class Description:
    """A measure as a report shows it: title, unit (empty for plain numbers), formula and source."""

    title: str
    unit: str
    formula: str
    source: str


@dataclass(frozen=True)
class Measure(Description):
    """A map of the lung that follows from the deformation.

    Attributes
    ----------
    compute : callable
        Expansion → (n,) values.
    error : callable or None
        (Expansion, (n,) deviation of ln J) → (n,) deviation of the values; None where none is known.
    """

    compute: Callable[[Expansion], np.ndarray]
    error: Callable[[Expansion, np.ndarray], np.ndarray] | None = None


def anisotropy(expansion: Expansion) -> np.ndarray:
    """(n,) anisotropic deformation index, 0 where all directions stretch alike (Amelon et al. 2011)."""
    first, second, third = expansion.stretches.T
    return np.sqrt(((first - second) / second) ** 2 + ((second - third) / third) ** 2)


def principal_strain(expansion: Expansion, rank: int) -> np.ndarray:
    """(n,) Green-Lagrange strain (λ² - 1) / 2 of the principal direction 0 (largest), 1 or 2."""
    return (expansion.stretches[:, rank] ** 2 - 1) / 2


MEASURES: dict[str, Measure] = {
    "ventilation": Measure(
        "Specific volume change (Jacobian ventilation)",
        "",
        "J - 1",
        "Reinhardt et al. 2008",
        lambda e: e.volume_ratio - 1,
        lambda e, deviation: e.volume_ratio * deviation,
    ),
    "log_jacobian": Measure(
        "Logarithm of the volume ratio",
        "",
        "ln J",
        "Leow et al. 2007",
        lambda e: np.log(e.volume_ratio),
        lambda e, deviation: deviation,
    ),
    "strain_1": Measure(
        "Largest principal strain", "", "(λ₁² - 1) / 2", "Green-Lagrange strain", lambda e: principal_strain(e, 0)
    ),
    "strain_2": Measure(
        "Middle principal strain", "", "(λ₂² - 1) / 2", "Green-Lagrange strain", lambda e: principal_strain(e, 1)
    ),
    "strain_3": Measure(
        "Smallest principal strain", "", "(λ₃² - 1) / 2", "Green-Lagrange strain", lambda e: principal_strain(e, 2)
    ),
    "anisotropy": Measure(
        "Anisotropic deformation index",
        "",
        "√(((λ₁ - λ₂) / λ₂)² + ((λ₂ - λ₃) / λ₃)²)",
        "Amelon et al. 2011",
        anisotropy,
    ),
    "displacement": Measure(
        "Displacement", "mm", "|x at inhale - x at exhale|", "", lambda e: np.linalg.norm(e.motion, axis=1)
    ),
}


#: What is computed of those and of CT densities, by the functions below; for the text of a report.
DERIVED: dict[str, Description] = {
    "relative_ventilation": Description(
        "Ventilation relative to the lungs",
        "",
        "(J - 1) / mean of J - 1, weighted by the volume at exhale",
        "normalization by the depth of the breath",
    ),
    "inspired_fraction": Description(
        "Inspired fraction", "", "(V at inhale - V at exhale) / V at inhale", "volumes of the same tissue"
    ),
    "heterogeneity": Description(
        "Heterogeneity of ventilation", "", "standard deviation of J - 1 / |mean|", "Tzeng et al. 2009"
    ),
    "intensity_ventilation": Description(
        "Ventilation by density", "", "M · ρ at exhale / ρ at inhale - 1", "Simon 2000; Guerrero et al. 2006"
    ),
    "specific_air_change": Description(
        "Specific air volume change", "", "J · air at inhale / air at exhale - 1", "Ding et al. 2012"
    ),
    "parametric_response": Description(
        "Parametric response map",
        "",
        f"emphysema below {EMPHYSEMA} HU at inhale, air trapping below {TRAPPING} HU at exhale",
        "Galbán et al. 2012",
    ),
}


def relative(ventilation: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ventilation as a multiple of the whole lung's, which takes out how deep the breath was; both (n,).

    ``weights`` is the volume at exhale of each voxel's tissue, so that the mean is the lung's own (ΔV / V at exhale).

    Raises
    ------
    InputError
        If the lung as a whole hardly changes its volume: then nothing can be told of parts of it.
    """
    whole = np.average(ventilation, weights=weights)
    if abs(whole) < 0.02:
        raise InputError(
            f"the lung's volume changes by {100 * whole:.1f} % only: too little to compare its parts; "
            "are the images of two phases of breathing?"
        )
    return ventilation / whole


def heterogeneity(ventilation: np.ndarray, weights: np.ndarray) -> float:
    """Coefficient of variation of ventilation, weighted as in `relative` (Tzeng et al. 2009)."""
    mean = np.average(ventilation, weights=weights)
    return float(np.sqrt(np.average((ventilation - mean) ** 2, weights=weights)) / abs(mean))


def mass_factor(inhale: np.ndarray, exhale: np.ndarray, volume_ratio: np.ndarray, weights: np.ndarray) -> float:
    """Mass of the lungs at exhale for that at inhale, by which `intensity_ventilation` corrects densities.

    All (n,): ``inhale``, ``exhale`` in HU of the same tissue, ``volume_ratio`` its J, ``weights`` its volume at exhale.
    Blood moves in with the breath and scanners differ, so that it is not exactly 1 (Guerrero et al. 2006).
    """
    tissue_in, tissue_ex = ((1 - air_share(hu)) for hu in (inhale, exhale))
    return float((weights * tissue_ex).sum() / (weights * tissue_in * volume_ratio).sum())


def intensity_ventilation(inhale: np.ndarray, exhale: np.ndarray, mass: float = 1.0) -> np.ndarray:
    """Change of volume for volume at exhale that densities tell, J - 1 where no mass comes or goes.

    ``inhale`` and ``exhale`` are HU of the same tissue, (n,). Tissue ρ = 1 - air is kept, so J = ρ_exhale / ρ_inhale
    (Simon 2000; Guerrero et al. 2006), with ``mass`` of `mass_factor`. NaN where there is no tissue to tell by.
    """
    tissue_in, tissue_ex = (1 - air_share(inhale)) * mass, 1 - air_share(exhale)
    return np.where(tissue_in > 0.02, tissue_ex / np.where(tissue_in > 0.02, tissue_in, 1), np.nan) - 1


def specific_air_change(inhale: np.ndarray, exhale: np.ndarray, volume_ratio: np.ndarray) -> np.ndarray:
    """Change of air for air at exhale, J · air_inhale / air_exhale - 1 (Ding et al. 2012); NaN where there was none."""
    before = air_share(exhale)
    return np.where(before > 0.05, volume_ratio * air_share(inhale) / np.where(before > 0.05, before, 1), np.nan) - 1


def parametric_response(inhale: np.ndarray, exhale: np.ndarray) -> np.ndarray:
    """(n,) classes of `RESPONSES` by HU of the same tissue at inhale and at exhale (Galbán et al. 2012)."""
    low, trapped = np.asarray(inhale) < EMPHYSEMA, np.asarray(exhale) < TRAPPING
    return np.select([~low & ~trapped, ~low & trapped, low & trapped], [1, 2, 3], 4)


def inspired_fraction(inhale_volume: float, exhale_volume: float) -> float:
    """Share of the air at inhale that was breathed in: (V_inhale - V_exhale) / V_inhale, volumes in the same unit."""
    return (inhale_volume - exhale_volume) / inhale_volume


def log_ratio_deviation(expansion: Expansion, error: float, length: float) -> np.ndarray:
    """(n,) deviation of ln J that an uncertain displacement implies.

    Errors of the displacement are taken for a smooth random field: each component has deviation ``error`` (mm) and the
    correlation exp(-r² / 2 length²) (mm), so that its derivatives have deviation error / length, independent of each
    other. To first order ln J changes by tr(F⁻¹ δF), whose deviation is that times the Frobenius norm of F⁻¹.
    """
    inverse = np.linalg.inv(expansion.gradient)
    return error / length * np.linalg.norm(inverse, axis=(1, 2))


def mean_deviation(deviation: np.ndarray, weights: np.ndarray, volume: float, length: float) -> float:
    """Deviation of a region's weighted mean, from that of its (n,) voxels.

    Errors within a correlation length go together, so that a region of ``volume`` mm³ holds volume / (√(2π) length)³
    independent ones, one at least.
    """
    independent = max(1.0, volume / (np.sqrt(2 * np.pi) * length) ** 3)
    return float(np.sqrt(np.average(deviation**2, weights=weights) / independent))
