"""Figures of answers against scikit-learn and against formulas; chance is told as chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib.lung.classifier import sigmoid
from JointRegSegTrainingLib.classifier import baseline, figures, networks
from JointRegSegTrainingLib.classifier.likeness import likeness_of
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_figures_are_those_of_scikit_learn(rng):
    diseased = np.arange(40) < 25
    probability = np.round(sigmoid(diseased + rng.standard_normal(40)), 1)  # with ties
    told = figures.figures(diseased, probability)
    assert told["auc"]["value"] == pytest.approx(roc_auc_score(diseased, probability))
    assert told["brier"] == pytest.approx(brier_score_loss(diseased, probability))
    balanced = (told["sensitivity"]["value"] + told["specificity"]["value"]) / 2
    assert balanced == pytest.approx(balanced_accuracy_score(diseased, probability >= 0.5))
    for name in ("accuracy", "sensitivity", "specificity", "auc"):
        entry = told[name]
        for low, high in (entry["bootstrap"], entry["score"]):
            assert 0 <= low <= entry["value"] <= high <= 1 and high - low > 0.1
    assert told == figures.figures(diseased, probability)  # the same every time


def test_a_perfect_small_cohort_is_not_certain():
    diseased = np.arange(13) < 9
    told = figures.figures(diseased, np.where(diseased, 0.9, 0.1))
    assert told["auc"]["bootstrap"] == [1, 1]
    for name in ("accuracy", "sensitivity", "specificity", "auc"):
        assert told[name]["score"][1] == pytest.approx(1) and told[name]["score"][0] < 0.8


def test_the_score_interval_of_an_auc():
    """It mirrors at 0.5, narrows with people, and its ends are as far away as chance allows from there."""
    low, high = figures.auc_interval(0.8, 20, 8)
    assert figures.auc_interval(0.2, 20, 8) == pytest.approx((1 - high, 1 - low))
    more = figures.auc_interval(0.8, 200, 80)
    assert low < more[0] < 0.8 < more[1] < high
    n = (20 + 8) / 2 - 1
    for end in (low, high):
        variance = end * (1 - end) / 160 * (1 + n * (1 - end) / (2 - end) + n * end / (1 + end))
        assert abs(0.8 - end) == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_calibration_finds_the_probabilities(rng):
    logits = rng.standard_normal(4000) * 2
    diseased = rng.uniform(size=4000) < sigmoid(1.5 * logits - 0.7)
    slope, intercept = figures.platt(logits, diseased)
    assert slope == pytest.approx(1.5, abs=0.15) and intercept == pytest.approx(-0.7, abs=0.12)
    groups = figures.reliability(diseased, sigmoid(slope * logits + intercept))
    assert [g["people"] for g in groups] == [1000] * 4
    assert all(g["low"] - 0.02 < g["predicted"] < g["high"] + 0.02 for g in groups)


def test_calibration_does_not_turn_answers_around_and_is_not_certain(rng):
    logits = np.linspace(-3, 3, 20)
    assert figures.platt(logits, logits < 0)[0] == 0
    slope, intercept = figures.platt(logits, logits > 0)
    assert 0.85 < sigmoid(slope * 3 + intercept) < 0.999
    told = figures.calibration(logits, logits > 0, count=7)
    assert len(told["resampled"]) == 7 and told["slope"] == pytest.approx(slope)
    apart = figures.calibrated_apart(logits, logits > 0)
    sure = np.abs(logits) > 1
    assert ((apart > 0.5) == (logits > 0))[sure].all()


@pytest.mark.parametrize("healthy", (9, 8))
def test_answers_that_tell_nothing_are_not_wrong_about_everybody(rng, healthy):
    diseased = np.arange(9 + healthy) < 9
    right = [
        ((figures.calibrated_apart(rng.standard_normal(len(diseased)), diseased, n) > 0.5) == diseased).mean()
        for n in range(40)
    ]
    assert np.mean(right) > 0.38 and min(right) > 0.15


def test_shuffled_diagnoses(rng):
    diseased = np.arange(30) < 20
    answers = diseased + 0.1 * rng.standard_normal(30)
    told = figures.permutation_test(lambda _: answers, diseased, 1.0, 39, 0)
    assert told["p"] == pytest.approx(1 / 40) and abs(np.mean(told["aucs"]) - 0.5) < 0.06
    assert figures.permutation_test(lambda y: y.astype(float), diseased, 1.0, 9, 0)["p"] == 1
    assert figures.permutation_test(lambda y: y, diseased, 1.0, 0, 0)["p"] is None


def test_folds_hold_both_diagnoses_and_each_person_once():
    diseased = np.arange(28) < 20
    split = networks.folds(diseased, 3)
    assert sorted(np.concatenate([out for _, out in split])) == list(range(28))
    for known, left_out in split:
        assert not set(known) & set(left_out)
        assert 1 <= (~diseased[left_out]).sum() <= 2 and 3 <= diseased[left_out].sum() <= 5


def test_the_rate_is_halved_every_fifty_epochs(monkeypatch):
    seen = []

    class Spy(torch.optim.Adam):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    x, y = torch.randn(4, 3, 4, 4, 4), torch.tensor([0.0, 1, 0, 1])
    networks.fit(x, y, networks.Schedule(epochs=120, batch=4, filters=1, hidden=2), 0)
    assert [seen[0], seen[49], seen[50], seen[100]] == pytest.approx([1e-4, 1e-4, 5e-5, 2.5e-5])
    assert len(seen) == 120


@pytest.fixture(scope="module")
def small_cohort():
    """Inputs (n, 3, 6, 6, 6) whose one corner differs between diagnoses, and the diagnoses."""
    rng = np.random.default_rng(0)
    diseased = np.arange(30) % 3 > 0
    x = rng.standard_normal((30, 3, 6, 6, 6)).astype(np.float32)
    x[diseased, :, :3, :3, :3] += 1.0
    return x, diseased


QUICK = networks.Schedule(epochs=40, batch=8, rate=1e-3)


def test_networks_learn_what_is_there_and_nothing_else(small_cohort):
    x, diseased = small_cohort
    members, logits = networks.cross_validated(x, diseased, QUICK)
    assert len(members) == 5 and figures.auc(diseased, logits) > 0.9
    again = networks.cross_validated(x, diseased, QUICK)[1]
    np.testing.assert_array_equal(logits, again)
    shuffled = np.random.default_rng(1).permutation(diseased)
    low, high = figures.auc_interval(figures.auc(shuffled, networks.cross_validated(x, shuffled, QUICK)[1]), 20, 10)
    assert low < 0.5 < high


def test_the_left_out_are_judged_by_a_network_that_has_not_seen_them(small_cohort):
    x, diseased = small_cohort
    logits = networks.cross_validated(x, diseased, QUICK)[1]
    known, left_out = networks.folds(diseased, 0)[2]
    changed = x.copy()
    changed[left_out] = 0
    alone = networks.fit(
        torch.from_numpy(changed[known]), torch.from_numpy(diseased[known].astype(np.float32)), QUICK, 2
    )
    np.testing.assert_allclose(logits[left_out], alone(torch.from_numpy(x[left_out])), rtol=1e-5)


def test_the_baselines_probabilities_are_those_of_a_cohort_with_many_diseased(rng):
    """Its weights are balanced: of weak measures it would say a half for everybody."""
    diseased = np.arange(164) < 116
    x = rng.standard_normal((164, 4)) + np.outer(diseased, (0.2, 0, 0, 0))
    logits = baseline.nested(x, diseased, 0)
    fitted = baseline.fitted(x, diseased, tuple("abcd"), 0)
    entry = baseline.calibrated(fitted, *figures.platt(logits, diseased))
    z = (x - entry["center"]) / entry["scale"]
    said = sigmoid(z @ entry["coefficients"] + entry["intercept"])
    raw = sigmoid(z @ fitted["coefficients"] + fitted["intercept"])
    assert abs(raw.mean() - 0.5) < 0.03 and abs(said.mean() - diseased.mean()) < 0.03
    assert np.square(said - diseased).mean() < np.square(raw - diseased).mean() - 0.02


def test_the_baseline_in_plain_numbers_is_the_baseline(rng):
    diseased = np.arange(30) < 18
    x = rng.standard_normal((30, 4)) * (1, 5, 0.1, 2) + np.outer(diseased, (2, 0, 0.1, 0)) + 3
    told = baseline.fitted(x, diseased, tuple("abcd"), 0)
    model = baseline.model(0).fit(x, diseased)
    z = (x - told["center"]) / told["scale"]
    np.testing.assert_allclose(z @ told["coefficients"] + told["intercept"], model.decision_function(x), rtol=1e-9)
    assert told["strength"] in baseline.STRENGTHS and told["names"] == list("abcd")
    assert figures.auc(diseased, baseline.nested(x, diseased, 0)) > 0.75


def test_a_person_unlike_the_cohort_is_told(rng):
    mixing = rng.standard_normal((6, 6))
    cohort = rng.standard_normal((28, 6)) @ mixing + 10
    likeness = likeness_of(cohort, tuple("abcdef"))
    others = rng.standard_normal((400, 6)) @ mixing + 10
    percentiles = np.array([likeness.percentile(row) for row in others])
    assert 30 < np.median(percentiles) < 70 and (percentiles > 99).mean() < 0.06
    assert likeness.percentile(10 + 12 * mixing[0]) > 99
    np.testing.assert_array_equal(likeness.precision, likeness_of(cohort, tuple("abcdef")).precision)


def test_what_figures_come_to():
    def told(value, low, high):
        return {"auc": {"value": value, "score": [low, high]}}

    good = {"cross_validation": {"network": told(0.9, 0.7, 0.98), "baseline": told(0.8, 0.6, 0.9)}}
    assert figures.worth(good) == []
    poor = good | {"test": {"network": told(0.69, 0.33, 0.94), "baseline": told(1.0, 0.7, 1.0)}}
    said = figures.worth(poor)
    assert len(said) == 2 and all("on people who were held out" in text for text in said)
    assert "no" in said[0] and "better than chance" in said[0] and "0.69, 0.33 to 0.94" in said[0]
    assert "AUC 1.00 beside 0.69" in said[1]
