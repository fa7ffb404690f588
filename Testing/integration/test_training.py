"""Training of a tiny network: it learns, goes on exactly where it stopped, and becomes a bundle."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CARD, PLAN
from JointRegSegLib import models
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib import cohort, evaluation, export, trainer

SHORT = replace(PLAN, steps=8)


@pytest.fixture(scope="module")
def subjects(cohort_folder) -> list[cohort.Subject]:
    return cohort.load(cohort_folder, cohort.subjects_in(cohort_folder)[:6], PLAN.preprocessing)


class Stopped(Exception):
    """Stands for whatever ends a training: a power cut, a full disk, a user."""


def losses_of(run: trainer.Trainer, stop: int | None = None) -> dict[int, dict[str, float]]:
    """Train to the end, or until a report after ``stop`` steps breaks off; the loss terms reported on the way."""
    seen = {}

    def report(step: int, terms: dict[str, float]) -> None:
        seen[step] = terms
        if step == stop:
            raise Stopped

    if stop is None:
        run.run(every=2, report=report)
    else:
        with pytest.raises(Stopped):
            run.run(every=2, report=report)
    return seen


def test_a_resumed_run_is_the_unbroken_one(subjects, tmp_path):
    unbroken = trainer.Trainer(SHORT, subjects, tmp_path / "unbroken")
    expected = losses_of(unbroken)
    first = losses_of(trainer.Trainer(SHORT, subjects, tmp_path / "broken"), stop=4)
    torch.manual_seed(99)  # what else happens in between does not matter
    resumed = trainer.Trainer(SHORT, subjects, tmp_path / "broken")
    assert resumed.step == 4
    assert first | losses_of(resumed) == expected
    assert list(expected) == [2, 4, 6, 8]
    for name, value in unbroken.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
        assert torch.equal(unbroken.average[name], resumed.average[name]), name
    states = [torch.load(tmp_path / n / "state.pt", weights_only=True) for n in ("unbroken", "broken")]
    assert states[0]["step"] == states[1]["step"] == 8
    assert not list(tmp_path.rglob("*.tmp"))
    losses_of(resumed)
    assert resumed.step == 8  # a finished run has nothing left to do


def test_another_plan_does_not_go_on(subjects, tmp_path):
    trainer.Trainer(SHORT, subjects, tmp_path)
    with pytest.raises(InputError, match="another plan; choose another folder"):
        trainer.Trainer(replace(SHORT, rate=1e-4), subjects, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["rate"] == SHORT.rate
    trainer.Trainer(SHORT, subjects, tmp_path)


def test_limits(subjects, tmp_path):
    with pytest.raises(InputError, match="3 subjects are too few for batches of 2 pairs"):
        trainer.Trainer(SHORT, subjects[:3], tmp_path / "a")
    with pytest.raises(InputError, match="unknown network 'u-net'; known: linear_deformable, symmetric, uresnet"):
        replace(SHORT, network="u-net")
    run = trainer.Trainer(SHORT, subjects, tmp_path / "b")
    run.run(minutes=0)
    assert run.step == 0 and (tmp_path / "b" / "state.pt").is_file()


def test_rate_warms_up_and_ends_at_zero(subjects, tmp_path):
    run = trainer.Trainer(replace(PLAN, steps=1000), subjects, tmp_path)
    rates = []
    for run.step in range(1001):
        rates.append(run.rate())
    assert rates[0] == pytest.approx(PLAN.rate / 100, rel=1e-3)
    peak = rates.index(max(rates))
    assert 80 < peak < 110 and rates[peak] > 0.95 * PLAN.rate
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_command_trained_something(run_folder, cohort_folder):
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in log] == [40, 80, 120]
    assert all(math.isfinite(v) for row in log for v in row["loss"].values())
    assert sum(log[-1]["loss"].values()) < 0.7 * sum(log[0]["loss"].values())
    assert log[-1]["loss"]["segmentation"] < 0.5 * log[0]["loss"]["segmentation"]
    assert log[-1]["validation"]["segmentation"] > 0.6
    divided = json.loads((run_folder / "split.json").read_text(encoding="utf-8"))
    assert [len(divided[part]) for part in ("train", "validation", "test")] == [7, 2, 3]
    assert sorted(name for part in divided.values() for name in part) == cohort.subjects_in(cohort_folder)


def test_split():
    names = [f"p{i}" for i in range(50)]
    first, again = (cohort.split(names, 8, 12) for _ in "12")
    assert first == again
    parts = [set(first[part]) for part in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [30, 8, 12]
    assert set.union(*parts) == set(names)
    assert cohort.split(names, 8, 12, seed=1) != first
    assert cohort.split(names, 3, 12)["test"] == first["test"]  # the test subjects stay, whatever is validated on
    with pytest.raises(InputError, match="50 subjects are too few for 30 in validation and 20 in test"):
        cohort.split(names, 30, 20)


def test_pairs():
    names = [f"p{i}" for i in range(7)]
    pairs = cohort.random_pairs(names, 21)
    assert pairs == cohort.random_pairs(names, 21) != cohort.random_pairs(names, 21, seed=1)
    assert all(moving != fixed for moving, fixed in pairs)
    for side in (0, 1):
        assert {name: sum(p[side] == name for p in pairs) for name in names} == dict.fromkeys(names, 3)


def test_cohort(cohort_folder, subjects, tmp_path):
    assert [s.name for s in subjects] == [f"p{i:02d}" for i in range(6)]
    for subject in subjects:
        assert subject.image.shape == subject.labels.shape == (1, 1, 16, 16, 16)
        assert set(subject.labels.unique().tolist()) == {0, 1, 2}
        assert float(subject.image.abs().max()) <= 5
    with pytest.raises(InputError, match=r"no images/NAME\.nii\.gz with labels"):
        cohort.subjects_in(tmp_path)


def test_a_run_may_begin_with_trained_weights(subjects, bundle, tmp_path):
    network = models.load(bundle)
    run = trainer.Trainer(SHORT, subjects, tmp_path / "a", start=network)
    for name, value in run.averaged_network().state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    wider = replace(SHORT, arguments=SHORT.arguments | {"channels": [6, 8, 8]})
    other = trainer.Trainer(wider, subjects, tmp_path / "b", start=network).network.state_dict()
    same = [name for name, value in network.state_dict().items() if value.shape == other[name].shape]
    assert 0 < len(same) < len(other)  # what has another shape begins anew
    assert all(torch.equal(other[name], network.state_dict()[name]) for name in same)
    run.run()
    again = trainer.Trainer(SHORT, subjects, tmp_path / "a", start=network)
    assert again.step == 8  # a run that has begun goes on instead


def test_frozen_parts_stay_and_the_others_learn(subjects, tmp_path):
    run = trainer.Trainer(replace(SHORT, frozen=("encoder", "segmentation")), subjects, tmp_path / "a")
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.run()
    after = run.network.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(("encoder", "segmentation.")), name
    with pytest.raises(InputError, match="no part 'brain' to freeze; it has encoder, segmentation"):
        trainer.Trainer(replace(SHORT, frozen=("brain",)), subjects, tmp_path / "b")


def test_memberships():
    labels = torch.tensor([0, 3, 7, 3]).view(1, 1, 1, 1, 4)
    expected = [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert trainer.memberships(labels, (3, 7)).view(3, 4).tolist() == expected


def test_validation_of_an_untrained_network(subjects):
    """It registers nothing: the figures are those of the identity."""
    network = trainer.build(PLAN).eval()
    names = [s.name for s in subjects]
    figures = evaluation.validate(network, subjects, cohort.random_pairs(names, 6), (1, 2))
    assert figures["dice"] == pytest.approx(figures["before"])
    assert figures["folded"] == figures["spread"] == figures["inverse"] == 0
    same = evaluation.validate(network, subjects, [(names[0], names[0])], (1, 2))
    assert same["dice"] == same["dice30"] == 1 and same["hd95"] == 0


def test_bundle_of_a_run(bundle, run_folder):
    manifest = bundle.manifest
    assert {key: manifest[key] for key in ("name", "labels", "license")} == {
        key: CARD[key] for key in ("name", "labels", "license")
    }
    figures = manifest["validation"]["figures"]
    measured = {"dice", "dice30", "before", "hd95", "folded", "spread", "inverse", "segmentation", "seconds"}
    assert set(figures) == measured
    assert 0.6 < figures["segmentation"] <= 1 and 0 < figures["seconds"] < 60
    assert manifest["validation"]["pairs"] == 4 and manifest["validation"]["subjects"] == 3
    assert manifest["training"]["subjects"] == 7
    assert manifest["requires"] == "0.1.0"
    low, high = manifest["domain"]["extent"]
    assert 20 <= low < high <= 36
    assert manifest["domain"]["spacing"] == [2, 2]
    assert len(manifest["domain"]["volumes"]) == 2 and 0.3 < manifest["domain"]["confidence"] <= 1
    assert manifest["arguments"]["warping"] is True  # defaults are written out
    _, _, network = export.load_run(run_folder)
    for name, value in models.load(bundle).state_dict().items():
        np.testing.assert_allclose(value, network.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_evaluate(run_folder, cohort_folder, shell):
    command = ["evaluate", "--data", cohort_folder, "--run", run_folder, "--pairs", "2"]
    code, said, _ = shell(*command, "--part", "validation")
    assert code == 0
    rows = dict(line.split() for line in said.splitlines())
    log = json.loads((run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    for name, value in log["validation"].items():
        assert float(rows[name]) == pytest.approx(value, abs=1e-3)
    assert shell(*command)[1] != said


def test_bad_runs_and_cards(run_folder, cohort_folder, refused, shell, tmp_path):
    data = ["--data", cohort_folder]
    card = tmp_path / "card.json"
    refused("export", *data, "--run", tmp_path, "--card", card, words=("plan.json", "folder of a training run"))
    run = [*data, "--run", run_folder]
    refused("export", *run, "--card", card, words=(str(card), "cannot be read", "name, title"))
    card.write_text("{")
    refused("export", *run, "--card", card, words=(str(card), "cannot be read"))
    card.write_text(json.dumps({k: v for k, v in CARD.items() if k not in ("license", "labels")}))
    refused("export", *run, "--card", card, words=(str(card), "lacks labels, license"))
    broken = CARD["labels"][0] | {"color": "yellow"}
    card.write_text(json.dumps(CARD | {"labels": [broken, CARD["labels"][1]]}))
    refused("export", *run, "--card", card, "--pairs", "1", words=("not valid at labels/0/color", "yellow"))
    refused("train", "--data", tmp_path, words=(str(tmp_path), "images/NAME.nii.gz"))
    refused("train", *data, words=("12 subjects are too few for 20 in validation and 30 in test",))
    assert sorted(Path(tmp_path).iterdir()) == [card]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--weights", '{"smothness": 1}', ("'smothness' is nothing with a number here", "smoothness")),
        ("--weights", '{"inverse": "a"}', ("'inverse' is nothing with a number",)),
        ("--weights", "[1]", ("invalid",)),
        ("--augmentation", '{"flips": 1}', ("'flips' is nothing", "elastic")),
        ("--arguments", "{", ("invalid",)),
    ],
)
def test_bad_options(shell, cohort_folder, tmp_path, option, value, words):
    code, _, error = shell("train", "--data", cohort_folder, "--output", tmp_path / "run", option, value)
    assert code == 2 and not (tmp_path / "run").exists()
    assert not [word for word in words if word not in error], error


def test_arguments_that_the_network_does_not_take(refused, cohort_folder):
    options = ["--data", cohort_folder, "--validation", "2", "--test", "3"]
    for value, word in (('{"foo": 1}', "foo"), ('{"finest": 9}', "finest is a level between")):
        refused("train", *options, "--arguments", value, words=("network 'symmetric' does not take", word))


def test_a_damaged_checkpoint(subjects, tmp_path):
    trainer.Trainer(SHORT, subjects, tmp_path / "run").save()
    state = tmp_path / "run" / "state.pt"
    for content in (b"", b"no checkpoint", state.read_bytes()[:5000]):
        state.write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt: is damaged"):
            trainer.Trainer(SHORT, subjects, tmp_path / "run")
