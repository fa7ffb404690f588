"""A table of two lungs that expand differently, whichever image is the fixed one."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.errors import InputError
from JointRegSegLib.lung.expansion import Expansion
from JointRegSegLib.lung.measures import Uncertainty
from JointRegSegLib.lung.regions import WHOLE
from JointRegSegLib.lung.table import Breath, maps, table

#: Ratios of volume, and how many voxels of each, at exhale.
RIGHT, LEFT = 1.5, 1.2
COUNTS = (300, 200)


def breath(fixed_is_inhale: bool, **more: object) -> tuple[Breath, dict[str, np.ndarray]]:
    """Voxels of 8 mm³ of the fixed image; there are more of what expands more, if that is the inhale."""
    ratios = np.repeat((RIGHT, LEFT), COUNTS)
    if fixed_is_inhale:
        ratios = np.repeat((RIGHT, LEFT), (int(COUNTS[0] * RIGHT), int(COUNTS[1] * LEFT)))
    gradient = np.eye(3) * np.cbrt(ratios)[:, None, None]
    motion = np.tile((0.0, 3.0, 4.0), (len(ratios), 1))
    right = ratios == RIGHT
    parts = {"right lung": right, "left lung": ~right, WHOLE: np.ones_like(right)}
    density = {"exhale": 0.3 * np.ones_like(ratios), "inhale": 0.3 / ratios}
    images = {name: 1000 * (value - 1) for name, value in density.items()} if more.pop("ct", False) else {}
    return Breath(Expansion(gradient, motion), 8.0, fixed_is_inhale, **images, **more), parts


@pytest.mark.parametrize("fixed_is_inhale", [False, True])
def test_volumes_and_means(fixed_is_inhale):
    rows = {row["region"]: row for row in table(*breath(fixed_is_inhale, ct=True))}
    assert next(iter(rows)) == WHOLE
    whole = (COUNTS[0] * (RIGHT - 1) + COUNTS[1] * (LEFT - 1)) / sum(COUNTS)
    for name, ratio, count in (("right lung", RIGHT, COUNTS[0]), ("left lung", LEFT, COUNTS[1])):
        row = rows[name]
        assert row["exhale_ml"] == pytest.approx(count * 8 / 1000)
        assert row["inhale_ml"] == pytest.approx(count * 8 / 1000 * ratio)
        assert row["inspired_fraction"] == pytest.approx(1 - 1 / ratio)
        assert row["ventilation"] == pytest.approx(ratio - 1)
        assert row["relative_ventilation"] == pytest.approx((ratio - 1) / whole)
        assert row["intensity_ventilation"] == pytest.approx(ratio - 1)
        assert row["specific_air_change"] == pytest.approx((ratio - 0.3) / 0.7 - 1)
        assert row["anisotropy"] == pytest.approx(0, abs=1e-7) and row["displacement"] == pytest.approx(5)
        assert row["heterogeneity"] == pytest.approx(0, abs=1e-7)
    assert rows[WHOLE]["ventilation"] == pytest.approx(whole)
    assert rows[WHOLE]["relative_ventilation"] == pytest.approx(1)
    assert rows[WHOLE]["heterogeneity"] == pytest.approx(np.sqrt(0.6 * 0.12**2 + 0.4 * 0.18**2) / 0.38)
    assert rows[WHOLE]["normal, %"] == 100 and rows[WHOLE]["emphysema, %"] == 0


def test_classes_are_shares_of_the_volume_at_inhale():
    plain, parts = breath(False)
    right = parts["right lung"]
    images = {"inhale": np.where(right, -960.0, -800), "exhale": np.where(right, -900.0, -700)}
    row = table(Breath(plain.expansion, 8.0, False, **images), parts)[0]
    share = COUNTS[0] * RIGHT / (COUNTS[0] * RIGHT + COUNTS[1] * LEFT)
    assert row["emphysema, %"] == pytest.approx(100 * share)


def test_errors_only_where_something_is_known():
    assert not [key for key in table(*breath(True))[0] if key.endswith("_error")]
    row = table(*breath(True, uncertainty=Uncertainty(0.5, 10.0)))[1]
    known, _ = breath(True)
    deviation = 0.05 * np.linalg.norm(np.linalg.inv(known.expansion.gradient), axis=(1, 2))[0]
    assert row["region"] == "right lung"
    assert row["log_jacobian_error"] == pytest.approx(deviation)  # less than one correlation length wide
    assert row["ventilation_error"] == pytest.approx(RIGHT * deviation)
    # The volume at inhale is that of the outlines; that at exhale is as uncertain as ln J.
    assert "inhale_ml_error" not in row and row["exhale_ml_error"] == pytest.approx(row["exhale_ml"] * deviation)
    assert row["inspired_fraction_error"] == pytest.approx(deviation / RIGHT)
    assert row["displacement_error"] == pytest.approx(0.5) and row["strain_1_error"] == pytest.approx(
        0.05 * 1.5 ** (1 / 3)
    )


def test_an_error_of_displacement_may_be_that_of_all_points():
    row = table(*breath(True, uncertainty=Uncertainty(0.5, 0.1)))[0]  # of many correlation lengths
    assert row["displacement_error"] == pytest.approx(0.5) and row["log_jacobian_error"] < 0.5


def test_what_outlines_and_expansion_differ_by_does_not_average_out():
    sure, shared = (table(*breath(True, uncertainty=Uncertainty(0.5, 1.0, volume)))[0] for volume in (0, 0.03))
    assert shared["ventilation_error"] == pytest.approx(
        np.hypot(sure["ventilation_error"], 0.03 * (1 + shared["ventilation"]))
    )
    assert shared["log_jacobian_error"] == pytest.approx(np.hypot(sure["log_jacobian_error"], 0.03))
    assert shared["displacement_error"] == sure["displacement_error"]
    assert shared["relative_ventilation_error"] == 0  # of all lungs it is 1


def test_images_that_are_not_ct_have_no_densities():
    assert not {"intensity_ventilation", "parametric_response"} & set(maps(breath(True)[0]))


def test_no_breath_is_refused():
    still = Expansion(np.tile(np.eye(3), (5, 1, 1)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="too little"):
        table(Breath(still, 1.0, True), {WHOLE: np.ones(5, bool)})
