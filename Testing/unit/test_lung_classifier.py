"""The classifier's parts with known answers: layers, distances, abstention, occlusion, a bundle that is checked."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from JointRegSegLib.errors import ModelError
from JointRegSegLib.lung import classifier as classifiers
from JointRegSegLib.lung.classifier import Classifier, open_classifier, sigmoid, write_classifier
from JointRegSegLib.lung.features import Recipe
from JointRegSegLib.lung.likeness import Likeness
from JointRegSegLib.lung.network import DeformationClassifier
from JointRegSegLib.lung.occlusion import driving_zones, occlusion
from JointRegSegLib.lung.regions import ZONES
from scipy.stats import norm

SIZE = 8
NAMES = ("lungs: ventilation", "lower zone: relative_ventilation")


def test_the_network_is_that_of_the_paper():
    network = DeformationClassifier(3, 16, filters=4, hidden=100)
    counts = {name: value.numel() for name, value in network.named_parameters()}
    assert counts == {
        "down.weight": 4 * 3 * 27,
        "down.bias": 4,
        "norm.weight": 4,
        "norm.bias": 4,
        "hidden.weight": 100 * 4 * 8**3,
        "hidden.bias": 100,
        "answer.weight": 100,
        "answer.bias": 1,
    }
    assert network.down.stride == (2, 2, 2) and network.down.padding == (1, 1, 1)
    assert network(torch.zeros(5, 3, 16, 16, 16)).shape == (5,)
    assert DeformationClassifier(3, 9)(torch.zeros(2, 3, 9, 9, 9)).shape == (2,)


def test_the_perceptron_saturates_as_tanh_does():
    """Whatever the input, an answer is at most the sum of the last layer's weights from its bias."""
    network = DeformationClassifier(3, SIZE).eval().requires_grad_(False)
    answers = network(1e6 * torch.randn(20, 3, SIZE, SIZE, SIZE))
    bound = float(network.answer.weight.abs().sum())
    assert float((answers - network.answer.bias).abs().max()) <= bound + 1e-4


def test_distance_is_mahalanobis_and_its_percentile_log_normal():
    likeness = Likeness(("a", "b"), np.array([1.0, 2]), np.array([2.0, 0.5]), np.eye(2), np.log(2.0), 0.5)
    assert likeness.distance(np.array([1 + 2 * 3, 2 + 0.5 * 4.0])) == pytest.approx(5)
    assert likeness.percentile(np.array([5.0, 2.0])) == pytest.approx(50)
    assert likeness.percentile(np.array([1 + 4 * np.e**1.0, 2.0])) == pytest.approx(100 * norm.cdf(2))
    assert likeness.percentile(np.array([1.0, 2.0])) == 0
    skewed = Likeness(("a", "b"), np.zeros(2), np.ones(2), np.array([[2.0, -1], [-1, 2]]), 0.0, 1.0)
    assert skewed.distance(np.array([1.0, 1])) == pytest.approx(np.sqrt(2))


def test_occlusion_of_a_linear_answer_is_its_own_share():
    """An answer that sums one corner: cubes that hold all of it take all of it away, others nothing."""
    weights = torch.zeros(1, 12, 12, 12)
    weights[0, :2, :2, :2] = 1.0
    motion, usual = torch.full((1, 12, 12, 12), 3.0), torch.full((1, 12, 12, 12), 1.0)
    found = occlusion(lambda x: (x * weights).sum((1, 2, 3, 4)), motion, usual, batch=50)
    assert found[0, 0, 0] == pytest.approx(2 * 8)
    assert (found[5:] == 0).all() and (found[:, :, 5:] == 0).all()
    assert found[2, 2, 2] < found[0, 0, 0]
    nothing = occlusion(lambda x: (x * weights).sum((1, 2, 3, 4)), motion, motion)
    assert (nothing == 0).all()


def card(**changes) -> dict:
    plain = {"names": list(NAMES), "center": [0.2, 1.0], "scale": [0.1, 0.2]}
    return {
        "name": "made-up",
        "recipe": {"size": SIZE, "motion": "residual", "ventilation": False, "by_depth": True},
        "network": {"filters": 2, "hidden": 5},
        "calibration": {"slope": 1.0, "intercept": 0.0, "resampled": [[1.0, 0.0]]},
        "likeness": plain | {"precision": [[1.0, 0.0], [0.0, 1.0]], "mean": 0.0, "deviation": 1.0},
        "baseline": plain | {"coefficients": [1.0, -2.0], "intercept": 0.5, "strength": 1.0},
        "training": dict.fromkeys(("people", "diseased", "epochs", "batch", "rate", "halving", "seed"), 1)
        | {"registration": "generic"},
        "figures": {},
        **changes,
    }


def members(logits) -> list[DeformationClassifier]:
    """Networks that answer with these logits, whatever they see."""
    out = []
    for logit in logits:
        network = DeformationClassifier(3, SIZE, 2, 5).eval().requires_grad_(False)
        network.answer.weight.zero_()
        network.answer.bias.fill_(logit)
        out.append(network)
    return out


@pytest.fixture
def answer(monkeypatch):
    """An answer about a person with given measures, by networks with given logits."""

    def ask(logits, measures=(0.2, 1.0), verdict=None, unfit=(), warnings=(), **changes):
        monkeypatch.setattr(classifiers, "prepare", lambda *_: (np.zeros((3, SIZE, SIZE, SIZE), np.float32), None))
        monkeypatch.setattr(classifiers, "regional", lambda _: dict(zip(NAMES, measures, strict=True)))
        monkeypatch.setattr(classifiers, "on_lungs", lambda values, _: values.ravel())
        monkeypatch.setattr(classifiers, "driving_zones", lambda *_: [{"zone": "peel", "drop_of_logit": 0.0}])
        own = Classifier(card(**changes), members(logits), torch.zeros(3, SIZE, SIZE, SIZE))
        return own.answer(None, verdict, unfit, warnings)

    return ask


def test_the_answer_is_the_members_mean_and_knows_its_spread(answer):
    told = answer([1.0, 2.0, 3.0, 2.0, 2.0])
    assert told.probability == pytest.approx(sigmoid(np.array([1.0, 2, 3, 2, 2])).mean())
    assert sigmoid(np.array(1.0)) <= told.interval[0] < told.probability < told.interval[1] <= sigmoid(np.array(3.0))
    assert not told.abstained and told.baseline == pytest.approx(sigmoid(np.array(0.5)))
    assert "driven by peel" in told.line("x") and "Warnings" not in told.line("x")
    assert "0.87" in told.line("x") and told.line("x").endswith("Research use only.")
    assert "research use only" in told.told["notice"].lower() and "label" not in told.told


def test_calibration_is_part_of_the_answer_and_its_doubt(answer):
    calibration = {"slope": 0.5, "intercept": -1.0, "resampled": [[0.5, -1.0], [0.1, -2.0], [2.0, 0.0]]}
    told = answer([4.0] * 5, calibration=calibration)
    assert told.probability == pytest.approx(sigmoid(np.array(1.0)))
    assert told.interval[0] < 0.2 and told.interval[1] > 0.99
    assert told.abstained and "holds both answers" in told.reasons[0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"logits": [-1.0, 2.0, 0.5, 1.0, -0.5]}, "holds both answers"),
        ({"logits": [3.0] * 5, "measures": (9.0, 1.0)}, "unlike the training cohort"),
        ({"logits": [3.0] * 5, "verdict": "red"}, "verdict is red"),
    ],
)
def test_it_abstains(answer, given, reason):
    told = answer(**given)
    assert told.abstained and len(told.reasons) == 1 and reason in told.reasons[0]
    assert told.line("x").startswith("x: ABSTAINS") and reason in told.line("x")
    assert not answer([3.0] * 5, verdict="amber").abstained


def test_it_abstains_where_it_is_worth_no_more_than_chance(answer):
    """As far as its own cross-validation can tell."""
    for low, abstains in ((0.42, True), (0.55, False)):
        area = {"value": 0.66, "score": [low, 0.83]}
        told = answer([3.0] * 5, figures={"cross_validation": {"network": {"auc": area}}})
        assert told.abstained == abstains
    assert "no better than chance" in answer(
        [3.0] * 5, figures={"cross_validation": {"network": {"auc": {"value": 0.5, "score": [0.3, 0.7]}}}}
    ).line("x")


def test_it_abstains_where_the_baseline_says_otherwise(answer):
    against = answer([3.0] * 5, measures=(0.2, 1.2))  # logit 0.5 - 2
    assert against.reasons == ["the regional measures say otherwise (0.18)"] and against.abstained
    assert "by regional measures alone 0.18" in against.line("x") and not answer([3.0] * 5).abstained


def test_what_speaks_against_the_scans_is_told(answer):
    told = answer([3.0] * 5, unfit=["far away"], warnings=["thick slices"])
    assert told.abstained and told.reasons == ["far away"] and told.told["warnings"] == ["thick slices"]
    assert "ABSTAINS, for far away" in told.line("x") and told.line("x").count("Warnings: thick slices.") == 1


def test_a_bundle_comes_back_as_it_was(tmp_path):
    own, usual = members([1.0, -2.0]), torch.randn(3, SIZE, SIZE, SIZE)
    write_classifier(tmp_path / "b", card(), own, usual)
    back = open_classifier(tmp_path / "b")
    assert torch.equal(back.usual, usual) and back.recipe == Recipe(SIZE)
    motion = torch.randn(4, 3, SIZE, SIZE, SIZE)
    torch.testing.assert_close(back.logits(motion), torch.tensor([[1.0, -2.0]] * 4))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["classifier.json", "weights.safetensors"]


@pytest.mark.parametrize(
    ("entry", "changes", "words"),
    [
        ("likeness", {"center": [0.2]}, "likeness: 2 measures"),
        ("likeness", {"precision": [[1.0, 0.0]]}, "likeness: 2 measures"),
        ("likeness", {"scale": [0.1, 0.0]}, "scales above 0"),
        ("baseline", {"coefficients": [1.0, 2.0, 3.0]}, "baseline: 2 measures"),
        ("baseline", {"coefficients": [1.0, float("nan")]}, "not finite"),
        ("calibration", {"slope": float("inf")}, "not finite"),
        ("baseline", {"names": ["lungs: ventilation", "spleen: size"]}, "'spleen: size' is no measure"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(tmp_path, entry, changes, words):
    folder = tmp_path / "b"
    write_classifier(folder, card(), members([1.0]), torch.zeros(3, SIZE, SIZE, SIZE))
    told = json.loads((folder / "classifier.json").read_text())
    told[entry] |= changes
    (folder / "classifier.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=words):
        open_classifier(folder)


def test_only_zones_that_spoke_for_the_answer_are_named():
    """Three at most, the strongest first; none of the other answer's, and none where nothing changed."""
    parts = {zone: np.arange(7) == n for n, zone in enumerate(ZONES)}
    pair = SimpleNamespace(parts=parts)
    drops = np.array([0.5, 0.01, -0.4, 1.5, 0.0, 0.3, 0.2])

    def named(values, answer):
        return [entry["zone"] for entry in driving_zones(values, pair, answer)]

    assert named(drops, 1.0) == [ZONES[n] for n in (3, 0, 5)]
    assert named(drops, -1.0) == [ZONES[2]]
    assert named(1e-3 * drops, 1.0) == []


def test_a_damaged_bundle_is_refused(tmp_path):
    with pytest.raises(ModelError, match="train-classifier"):
        open_classifier(tmp_path)
    with pytest.raises(ModelError, match="not valid at recipe/motion"):
        write_classifier(
            tmp_path / "c", card(recipe=card()["recipe"] | {"motion": "no"}), members([1.0]), torch.zeros(1)
        )
    assert not (tmp_path / "c").exists()
    folder = tmp_path / "b"
    write_classifier(folder, card(), members([1.0]), torch.zeros(3, SIZE, SIZE, SIZE))
    text = (folder / "classifier.json").read_text()
    (folder / "classifier.json").write_text(json.dumps(json.loads(text) | {"requires": "99.0.0"}))
    with pytest.raises(ModelError, match=r"needs JointRegSeg 99\.0\.0"):
        open_classifier(folder)
    (folder / "classifier.json").write_text(json.dumps(json.loads(text) | {"requires": "new"}))
    with pytest.raises(ModelError, match="'new' is no version"):
        open_classifier(folder)
    (folder / "classifier.json").write_text(json.dumps(json.loads(text) | {"network": {"filters": 3, "hidden": 5}}))
    with pytest.raises(ModelError, match="does not fit"):
        open_classifier(folder)
    (folder / "classifier.json").write_text(text)
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="checksum"):
        open_classifier(folder)
