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
class Uncertainty:
    """How far off a displacement may be, and what that does to its derivatives.

    Attributes
    ----------
    displacement : float
        Deviation in mm of each component. Errors are taken for a smooth random field of correlation
        exp(-r² / 2 length²), so that derivatives deviate by displacement / length, independent of each other.
    length : float
        In mm.
    volume : float
        Deviation of ln J that all tissue has in common, so that it does not average out.
    """

    displacement: float
    length: float
    volume: float = 0.0

    @property
    def gradient(self) -> float:
        """Deviation of each component of F."""
        return self.displacement / self.length


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
    error : callable
        (Expansion, Uncertainty) → (n,) deviation of the values, to first order.
    growth : callable
        Expansion → (n,) derivative of the values by ln J where all directions stretch alike.
    common : bool
        Whether the error may be that of all points alike, which no mean takes away.
    """

    compute: Callable[[Expansion], np.ndarray]
    error: Callable[[Expansion, Uncertainty], np.ndarray]
    growth: Callable[[Expansion], np.ndarray]
    common: bool = False


def anisotropy(expansion: Expansion) -> np.ndarray:
    """(n,) anisotropic deformation index, 0 where all directions stretch alike (Amelon et al. 2011)."""
    first, second, third = expansion.stretches.T
    return np.sqrt(((first - second) / second) ** 2 + ((second - third) / third) ** 2)


def principal_strain(expansion: Expansion, rank: int) -> np.ndarray:
    """(n,) Green-Lagrange strain (λ² - 1) / 2 of the principal direction 0 (largest), 1 or 2."""
    return (expansion.stretches[:, rank] ** 2 - 1) / 2


def anisotropy_deviation(expansion: Expansion, uncertainty: Uncertainty) -> np.ndarray:
    """(n,) deviation of `anisotropy`, whose stretches deviate by themselves, each by that of F's components."""
    first, second, third = expansion.stretches.T
    a, b = (first - second) / second, (second - third) / third
    index = np.maximum(np.hypot(a, b), 1e-12)
    slopes = a / second, b / third - a * first / second**2, -b * second / third**2
    return uncertainty.gradient * np.sqrt(sum(np.square(slope / index) for slope in slopes))


def _strain(rank: int, which: str) -> Measure:
    """λ deviates as F's components do, so that (λ² - 1) / 2 deviates by λ times that."""
    return Measure(
        f"{which} principal strain",
        "",
        f"(λ{'₁₂₃'[rank]}² - 1) / 2",
        "Green-Lagrange strain; Amelon et al. 2011",
        lambda e: principal_strain(e, rank),
        lambda e, u: u.gradient * e.stretches[:, rank],
        lambda e: e.stretches[:, rank] ** 2 / 3,
    )


MEASURES: dict[str, Measure] = {
    "ventilation": Measure(
        "Specific volume change (Jacobian ventilation)",
        "",
        "J - 1",
        "Reinhardt et al. 2008",
        lambda e: e.volume_ratio - 1,
        lambda e, u: e.volume_ratio * log_ratio_deviation(e, u),
        lambda e: e.volume_ratio,
    ),
    "log_jacobian": Measure(
        "Logarithm of the volume ratio",
        "",
        "ln J",
        "Leow et al. 2007",
        lambda e: np.log(e.volume_ratio),
        lambda e, u: log_ratio_deviation(e, u),
        lambda e: np.ones(len(e.motion)),
    ),
    "strain_1": _strain(0, "Largest"),
    "strain_2": _strain(1, "Middle"),
    "strain_3": _strain(2, "Smallest"),
    "anisotropy": Measure(
        "Anisotropic deformation index",
        "",
        "√(((λ₁ - λ₂) / λ₂)² + ((λ₂ - λ₃) / λ₃)²)",
        "Amelon et al. 2011",
        anisotropy,
        anisotropy_deviation,
        lambda e: np.zeros(len(e.motion)),
    ),
    "displacement": Measure(
        "Displacement",
        "mm",
        "|x at inhale - x at exhale|",
        "the registration itself",
        lambda e: np.linalg.norm(e.motion, axis=1),
        lambda e, u: np.full(len(e.motion), u.displacement),
        lambda e: np.zeros(len(e.motion)),
        common=True,
    ),
}


#: What is computed of those and of CT densities, by the functions below; for the text of a report.
DERIVED: dict[str, Description] = {
    "relative_ventilation": Description(
        "Ventilation relative to the lungs",
        "",
        "(J - 1) / mean of J - 1, weighted by the volume at exhale",
        "J - 1 as a multiple of the whole lung's",
    ),
    "inspired_fraction": Description(
        "Inspired fraction", "", "(V at inhale - V at exhale) / V at inhale", "volumes of the same tissue, by J"
    ),
    "heterogeneity": Description(
        "Heterogeneity of ventilation", "", "(standard deviation of J - 1) / |mean of J - 1|", "Tzeng et al. 2009"
    ),
    "intensity_ventilation": Description(
        "Ventilation by density",
        "",
        "ρ at exhale / (M · ρ at inhale) - 1",
        "mass that is kept, as in Simon 2000 and Guerrero et al. 2006, who tell the change of air for air at exhale",
    ),
    "specific_air_change": Description(
        "Specific air volume change", "", "J · air at inhale / air at exhale - 1", "Ding et al. 2012"
    ),
    "parametric_response": Description(
        "Parametric response map",
        "",
        f"emphysema: below {EMPHYSEMA} HU at inhale and {TRAPPING} HU at exhale; functional small airways disease (air "
        f"trapping): below {TRAPPING} HU at exhale alone; unclassified: below {EMPHYSEMA} HU at inhale alone; else "
        "normal",
        "Galbán et al. 2012",
    ),
}


#: What the sources above are, in the order of their years.
REFERENCES = (
    "Simon 2000: Non-invasive imaging of regional lung function using x-ray computed tomography. J Clin Monit Comput "
    "16, 433-442",
    "Guerrero et al. 2006: Dynamic ventilation imaging from four-dimensional computed tomography. Phys Med Biol 51, "
    "777-791",
    "Leow et al. 2007: Statistical properties of Jacobian maps and the realization of unbiased large-deformation "
    "nonlinear image registration. IEEE Trans Med Imaging 26, 822-832",
    "Reinhardt et al. 2008: Registration-based estimates of local lung tissue expansion compared to xenon CT measures "
    "of specific ventilation. Med Image Anal 12, 752-763",
    "Tzeng et al. 2009: The difference in ventilation heterogeneity between asthmatic and healthy subjects quantified "
    "using hyperpolarized 3He MRI. J Appl Physiol 106, 813-822",
    "Amelon et al. 2011: Three-dimensional characterization of regional lung deformation. J Biomech 44, 2489-2495",
    "Ding et al. 2012: Comparison of image registration based measures of regional lung ventilation from dynamic "
    "spiral CT with Xe-CT. Med Phys 39, 5084-5098",
    "Galbán et al. 2012: Computed tomography-based biomarker provides unique signature for diagnosis of COPD "
    "phenotypes and disease progression. Nat Med 18, 1711-1715",
)


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
    """Share of the volume at inhale that was breathed in: (V_inhale - V_exhale) / V_inhale, both in one unit."""
    return (inhale_volume - exhale_volume) / inhale_volume


def log_ratio_deviation(expansion: Expansion, uncertainty: Uncertainty) -> np.ndarray:
    """(n,) deviation of ln J that an uncertain displacement implies.

    To first order ln J changes by tr(F⁻¹ δF), whose deviation is that of F's components times the Frobenius norm of
    F⁻¹.
    """
    return uncertainty.gradient * np.linalg.norm(np.linalg.inv(expansion.gradient), axis=(1, 2))


def mean_deviation(deviation: np.ndarray, weights: np.ndarray, volume: float, length: float) -> float:
    """Deviation of a region's weighted mean, from that of its (n,) voxels.

    Errors within a correlation length go together, so that a region of ``volume`` mm³ holds volume / (√(2π) length)³
    independent ones, one at least.
    """
    independent = max(1.0, volume / (np.sqrt(2 * np.pi) * length) ** 3)
    return float(np.sqrt(np.average(deviation**2, weights=weights) / independent))
