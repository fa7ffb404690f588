"""Training of a tiny network: it learns, and does what its plan says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PLAN
from filelock import FileLock
from JointRegSegLib import models
from JointRegSegLib.errors import InputError, JointRegSegError
from JointRegSegTrainingLib import cohort, evaluation, trainer
from JointRegSegTrainingLib.runs import settled
from JointRegSegTrainingLib.subjects import pairs_of
from short_runs import SHORT, TURNS, losses_of


def test_both_networks_of_deepatlas_learn(subjects, tmp_path):
    """In turns, each from what the other finds: of six people two are labeled."""
    few = [replace(s, known=s.known & (i < 2)) for i, s in enumerate(subjects)]
    plan = replace(TURNS, steps=200, annotated_share=0.5, unannotated=True)
    reports = list(losses_of(trainer.Trainer(plan, few, tmp_path)).values())
    first, last = ({k: np.mean([x[k] for x in part]) for k in reports[0]} for part in (reports[:10], reports[-10:]))
    for term in ("segmentation", "overlap", "similarity"):
        assert 0 < last[term] < 0.9 * first[term], term


@pytest.mark.parametrize("plan", [SHORT, TURNS], ids=["together", "alternating"])
def test_in_half_precision_it_learns_the_same(subjects, tmp_path, plan):
    """Convolutions are in bfloat16, weights, maps and losses are not."""
    exact, mixed = (
        trainer.Trainer(replace(plan, mixed=value), subjects, tmp_path / str(value)) for value in (False, True)
    )
    widths = set()
    for module in mixed.network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda module, given, found: widths.add(found.dtype))
    terms = [losses_of(run) for run in (exact, mixed)]
    assert widths == {torch.bfloat16}
    assert {value.dtype for value in mixed.network.state_dict().values()} == {torch.float32}
    for step, expected in terms[0].items():
        assert terms[1][step] == pytest.approx(expected, rel=0.05, abs=0.02)
    assert terms[1] != terms[0]


def test_alternation_trains_what_it_says(subjects, tmp_path):
    run = trainer.Trainer(TURNS, subjects, tmp_path)
    for turn in ("segmentation", "registration", "registration") * 2:
        before = {name: value.clone() for name, value in run.network.state_dict().items()}
        run.train_step()
        changed = {
            name.split(".")[0] for name, value in run.network.state_dict().items() if (value != before[name]).any()
        }
        assert changed == {turn}


def test_alternation_of_parts_that_are_none(subjects, tmp_path):
    with pytest.raises(InputError, match="no part 'atlas'; it has registration, segmentation"):
        trainer.Trainer(replace(TURNS, alternate={"atlas": 1}), subjects, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_with_annotations(subjects, tmp_path):
    """With one annotated image of six a third of all pairs have it by chance; the plan asks for more."""
    few = [replace(s, known=s.known & (i == 2)) for i, s in enumerate(subjects)]
    generator = torch.Generator().manual_seed(0)
    shares = {}
    for share in (0.0, 0.5, 1.0):
        scheme = trainer.Trainer(replace(SHORT, pairs=1, annotated_share=share), few, tmp_path / str(share)).scheme
        drawn = [torch.cat(scheme.draw(generator)).tolist() for _ in range(300)]
        shares[share] = sum(2 in pair for pair in drawn) / 300
    assert shares[0.0] == pytest.approx(1 / 3, abs=0.1)
    assert shares[0.5] == pytest.approx(2 / 3, abs=0.1)
    assert shares[1.0] == 1
    nobody = [replace(s, known=torch.zeros_like(s.known)) for s in subjects]
    with pytest.raises(InputError, match="no training image has labels"):
        trainer.Trainer(replace(SHORT, annotated_share=1.0), nobody, tmp_path / "none")


def test_partial_and_missing_labels_train(subjects, tmp_path):
    """One image with all labels, one with the first only, the others bare: terms are finite, and overlap counts."""
    some = [replace(s, known=s.known & torch.tensor([i < 2, i < 1])) for i, s in enumerate(subjects)]
    run = trainer.Trainer(replace(TURNS, steps=6), some, tmp_path)
    seen = losses_of(run)
    assert all(math.isfinite(v) for terms in seen.values() for v in terms.values())
    assert any(terms["overlap"] > 0 for terms in seen.values())


def test_another_plan_does_not_go_on(subjects, tmp_path):
    trainer.Trainer(SHORT, subjects, tmp_path).save()
    with pytest.raises(InputError, match="another plan, which differs in rate; choose another folder"):
        trainer.Trainer(replace(SHORT, rate=1e-4), subjects, tmp_path)
    kept = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert kept["rate"] == SHORT.rate
    del kept["both_ways"]  # as an earlier version wrote it
    (tmp_path / "plan.json").write_text(json.dumps(kept), encoding="utf-8")
    trainer.Trainer(SHORT, subjects, tmp_path)


def test_folders_that_hold_no_run(subjects, tmp_path):
    file, full, damaged = tmp_path / "file", tmp_path / "full", tmp_path / "damaged"
    file.write_text("mine", encoding="utf-8")
    for folder in (full, damaged):
        folder.mkdir()
    (full / "thesis.txt").write_text("mine", encoding="utf-8")
    (damaged / "plan.json").write_text("{", encoding="utf-8")
    (damaged / "state.pt").touch()
    for place, words in (
        (file, "cannot be a run's folder"),
        (file / "below", "cannot be "),
        (full, "is not empty and holds no training run"),
        (damaged, r"plan\.json: is damaged"),
    ):
        with pytest.raises(JointRegSegError, match=words):
            trainer.Trainer(SHORT, subjects, place)
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_ends_it(subjects, tmp_path):
    run = trainer.Trainer(SHORT, subjects, tmp_path / "run")
    run.run(minutes=0)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.scheme.images[:, :, 3, 3, 3] = float("nan")
    with pytest.raises(InputError, match=r"step 1: the loss is no longer finite; .*lower 'rate' than 0\.0"):
        run.run()
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert trainer.read_state(tmp_path / "run")["step"] == 0


def test_two_processes_do_not_train_in_one_folder(run_folder, cohort_file, config_file, shell):
    before = (run_folder / "state.pt").read_bytes()
    with FileLock(run_folder / ".lock"):
        code, _, error = shell("train", "--config", config_file, "--cohort", cohort_file, "--output", run_folder)
    assert code == 2 and "another process works there; wait for it" in error
    assert (run_folder / "state.pt").read_bytes() == before


def test_a_network_of_another_kind_is_no_start(subjects, tmp_path):
    with pytest.raises(InputError, match="network 'symmetric' cannot start from one of 'deepatlas'"):
        trainer.Trainer(SHORT, subjects, tmp_path / "run", start=trainer.build(TURNS))
    assert not (tmp_path / "run").exists()


def test_references_where_none_are_learned_from(subjects, tmp_path):
    with pytest.raises(InputError, match=r"scheme 'pairs' learns from no references \(--references\)"):
        trainer.Trainer(SHORT, subjects, tmp_path / "run", references=tmp_path)


def test_limits(subjects, tmp_path):
    with pytest.raises(InputError, match="3 images are too few for batches of 2 pairs"):
        trainer.Trainer(SHORT, subjects[:3], tmp_path / "a")
    run = trainer.Trainer(SHORT, subjects, tmp_path / "b")
    run.run(minutes=0)
    assert run.step == 0 and (tmp_path / "b" / "state.pt").is_file()


def rates_of(run: trainer.Trainer, steps: int) -> list[float]:
    rates = []
    for run.step in range(steps):
        rates.append(run.rate())
    return rates


def test_rate_warms_up_and_ends_at_zero(subjects, tmp_path):
    rates = rates_of(trainer.Trainer(replace(PLAN, steps=1000), subjects, tmp_path), 1001)
    assert rates[0] == pytest.approx(PLAN.rate / 100, rel=1e-3)
    peak = rates.index(max(rates))
    assert 80 < peak < 110 and rates[peak] > 0.95 * PLAN.rate
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_other_courses_of_the_rate(subjects, tmp_path):
    constant = rates_of(trainer.Trainer(replace(PLAN, schedule="constant"), subjects, tmp_path / "constant"), 1000)
    assert set(constant[99:]) == {PLAN.rate} and constant[49] == PLAN.rate / 2
    halving = replace(PLAN, schedule="halving", halving=300)
    found = rates_of(trainer.Trainer(halving, subjects, tmp_path / "halving"), 1000)
    assert [found[i] / PLAN.rate for i in (299, 300, 599, 600, 900)] == [1, 0.5, 0.5, 0.25, 0.125]


def test_the_rate_reaches_the_optimizer(subjects, tmp_path):
    run = trainer.Trainer(SHORT, subjects, tmp_path)
    expected = rates_of(run, 2)
    run.step = 0
    for rate in expected:
        run.train_step()
        assert [group["lr"] for group in run.optimizer.param_groups] == [rate]


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
    with pytest.raises(InputError, match="no part 'brain'; it has encoder, segmentation"):
        trainer.Trainer(replace(SHORT, frozen=("brain",)), subjects, tmp_path / "b")


@pytest.mark.parametrize("frozen", ["registration", "segmentation"])
def test_a_frozen_part_has_no_turn(subjects, tmp_path, frozen):
    """Semi-DeepAtlas: every step trains the other network."""
    run = trainer.Trainer(replace(TURNS, frozen=(frozen,)), subjects, tmp_path)
    for _ in range(3):
        before = {name: value.clone() for name, value in run.network.state_dict().items()}
        run.train_step()
        changed = {
            name.split(".")[0] for name, value in run.network.state_dict().items() if (value != before[name]).any()
        }
        assert changed == {"registration", "segmentation"} - {frozen}


def test_validation_of_an_untrained_network(subjects):
    """It registers nothing: the figures are those of the identity."""
    network = trainer.build(PLAN).eval()
    figures = evaluation.validate(network, subjects, pairs_of(subjects, 6), PLAN)
    assert figures["dice"] == pytest.approx(figures["before"])
    assert figures["folded"] == figures["spread"] == figures["inverse"] == 0
    same = evaluation.validate(network, subjects, [(subjects[0].name, subjects[0].name)], PLAN)
    assert same["dice"] == same["dice30"] == 1 and same["hd95"] == 0


def test_validation_counts_what_both_images_have(subjects):
    network, names = trainer.build(PLAN).eval(), [s.name for s in subjects]
    first = [replace(s, known=torch.tensor([True, False])) for s in subjects]
    pair = [(names[0], names[1])]
    both, one = (evaluation.validate(network, people, pair, PLAN) for people in (subjects, first))
    assert one["dice"] != both["dice"]
    mixed = [first[0], *subjects[1:]]
    assert evaluation.validate(network, mixed, pair, PLAN)["dice"] == one["dice"]
    bare = [replace(subjects[0], known=torch.tensor([False, False])), *subjects[1:]]
    others = [(names[2], names[3])]
    found = evaluation.validate(network, bare, pair + others, PLAN)  # a pair without any is left out
    alone = evaluation.validate(network, bare, others, PLAN)
    assert {k: found[k] for k in ("dice", "before", "dice30")} == {k: alone[k] for k in ("dice", "before", "dice30")}


def test_a_run_that_began_elsewhere_keeps_its_precision(subjects, tmp_path):
    """On a GPU: mixed, which nobody asked for by name."""
    plan, here = replace(SHORT, mixed=None), torch.device("cpu")
    assert settled(plan, tmp_path / "run", here).mixed is False
    trainer.Trainer(replace(SHORT, mixed=True), subjects, tmp_path / "run")
    assert settled(plan, tmp_path / "run", here).mixed is True
    assert settled(replace(plan, mixed=False), tmp_path / "run", here).mixed is False


@pytest.mark.parametrize(
    "arguments", [{"channels": [0, 0]}, {"channels": [-1, 2]}, {"channels": [4, 8], "passes": 2.5}]
)
def test_arguments_that_no_network_can_compute_with(subjects, tmp_path, arguments):
    with pytest.raises(InputError, match=r"arguments|cannot compute"):
        trainer.Trainer(replace(SHORT, arguments=SHORT.arguments | arguments), subjects, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_cohort_does_not_go_on(run_folder, cohort_file, config_file, shell, tmp_path):
    """Else a subject that a run is tested on could be one that it learned from."""
    before = (run_folder / "cohort.csv").read_text(encoding="utf-8")
    other = tmp_path / "other.csv"
    other.write_text(cohort_file.read_text(encoding="utf-8").replace(",test,", ",train,", 1), encoding="utf-8")
    command = ["train", "--config", config_file, "--output", run_folder, "--device", "cpu", "--cohort"]
    code, _, error = shell(*command, other)
    assert code == 2 and "begun with another cohort, or with its lines in another order; choose another" in error
    assert (run_folder / "cohort.csv").read_text(encoding="utf-8") == before
    code, said, error = shell(*command, cohort_file)  # a finished run has nothing left to do
    assert code == 0 and said.count("\n") == 1 and said.endswith("120 of 120 steps; complete\n"), error


def test_the_command_trained_something(run_folder, cohort_folder):
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in log] == [40, 80, 120]
    assert all(math.isfinite(v) for row in log for v in row["loss"].values())
    assert sum(log[-1]["loss"].values()) < 0.7 * sum(log[0]["loss"].values())
    assert log[-1]["loss"]["segmentation"] < 0.5 * log[0]["loss"]["segmentation"]
    assert log[-1]["validation"]["segmentation"] > 0.6
    rows = cohort.read(run_folder / "cohort.csv")
    assert [sum(row.split == split for row in rows) for split in cohort.SPLITS] == [7, 2, 3]
    assert [row.image for row in rows] == sorted((cohort_folder / "images").iterdir())
