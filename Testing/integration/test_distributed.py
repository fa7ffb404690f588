"""Training by several processes, which are real ones: together they do what one alone does with the whole batch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PLAN
from JointRegSegTrainingLib import cohort, trainer
from JointRegSegTrainingLib.runs import load_run, part
from JointRegSegTrainingLib.subjects import load
from short_runs import TURNS

STEPS = 40
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "JointRegSegLib.cli", "train"]


def launched(command: list[object]) -> subprocess.CompletedProcess:
    """A training by two processes that went well."""
    done = subprocess.run(
        [str(c) for c in command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def partial_file(cohort_file, tmp_path_factory) -> Path:
    """The cohort, half of whom have but one structure drawn: processes have as many pairs, not as many labels."""
    path, rows = tmp_path_factory.mktemp("partial") / "cohort.csv", cohort.read(cohort_file)
    cohort.write(path, [replace(row, annotated=("left blob",) if i % 2 else None) for i, row in enumerate(rows)])
    return path


@pytest.fixture(scope="module")
def together(config_file, partial_file, tmp_path_factory) -> tuple[Path, str]:
    """A run by two processes, and what they said; its time is up after a step or a few."""
    folder = tmp_path_factory.mktemp("two") / "run"
    options = [
        "--set",
        f"steps={STEPS}",
        "--every",
        1,
        "--max-minutes",
        0.001,
        "--device",
        "cpu",
        "--progress",
        "slicer",
    ]
    command = [*LAUNCH, "--config", config_file, "--cohort", partial_file, "--output", folder, *options]
    done = launched(command)
    return folder, done.stdout


@pytest.fixture(scope="module")
def alone(together, partial_file, tmp_path_factory) -> trainer.Trainer:
    """As many steps of the same plan by this process."""
    plan = replace(PLAN, steps=STEPS, mixed=False)
    run = trainer.Trainer(plan, load(part(cohort.read(partial_file), "train"), plan), tmp_path_factory.mktemp("one"))
    while run.step < trainer.read_state(together[0])["step"]:
        run.train_step()
    return run


def test_gradients_and_weights_are_those_of_one_process(together, alone):
    state = trainer.read_state(together[0])
    assert 0 < state["step"] < STEPS
    trained = dict(alone.network.named_parameters())
    moments = alone.optimizer.state_dict()["state"]
    assert set(state["optimizer"]["state"]) == set(moments)
    largest = max(float(moment["exp_avg"].abs().max()) for moment in moments.values())
    for (name, weight), key in zip(trained.items(), moments, strict=True):
        mean, other = moments[key]["exp_avg"], state["optimizer"]["state"][key]["exp_avg"]
        torch.testing.assert_close(other, mean, rtol=1e-3, atol=1e-5 * largest, msg=name)
        # Where a gradient is zero but for rounding, Adam makes a step of it all the same.
        real = mean.abs() > 1e-3 * largest
        torch.testing.assert_close(state["network"][name][real], weight.detach()[real], rtol=1e-4, atol=1e-6, msg=name)


def test_only_the_first_process_writes(together):
    folder, said = together
    steps = trainer.read_state(folder)["step"]
    assert len((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()) == steps
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert len(list((folder / "pictures").iterdir())) == steps
    assert len(re.findall("<filter-progress>", said)) == len(re.findall("^step ", said, re.MULTILINE)) == steps


def test_one_process_goes_on_with_the_run_of_two(together, alone):
    resumed = trainer.Trainer(
        alone.plan, load(part(cohort.read(together[0] / "cohort.csv"), "train"), alone.plan), together[0]
    )
    assert resumed.step == alone.step
    found, expected = resumed.train_step(), alone.train_step()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_networks_that_take_turns(config_file, cohort_file, tmp_path):
    """A part that rests in a step has no gradients, which the other process must not wait for."""
    changes = [f"{key}={json.dumps(getattr(TURNS, key))}" for key in ("network", "arguments", "alternate", "complete")]
    options = [*("--device", "cpu", "--progress", "none"), *(x for c in [*changes, "steps=4"] for x in ("--set", c))]
    command = [*LAUNCH, "--config", config_file, "--cohort", cohort_file, "--output", tmp_path / "run", *options]
    launched(command)
    plan = load_run(tmp_path / "run")[0]
    alone = trainer.Trainer(plan, load(part(cohort.read(cohort_file), "train"), plan), tmp_path / "alone")
    for _ in range(4):
        alone.train_step()
    state = trainer.read_state(tmp_path / "run")
    moments, others = alone.optimizer.state_dict()["state"], state["optimizer"]["state"]
    assert state["step"] == 4 and set(others) == set(moments)
    largest = max(float(moment["exp_avg"].abs().max()) for moment in moments.values())
    for key, moment in moments.items():
        assert others[key]["step"] == moment["step"]
        torch.testing.assert_close(others[key]["exp_avg"], moment["exp_avg"], rtol=1e-2, atol=1e-3 * largest)


def test_an_output_that_no_loss_asks_for(config_file, cohort_file, tmp_path):
    """The segmentation has no weight, and so no gradients, which the other process must not wait for."""
    options = ["--set", "steps=3", "--set", "weights.segmentation=0", "--device", "cpu", "--progress", "none"]
    command = [*LAUNCH, "--config", config_file, "--cohort", cohort_file, "--output", tmp_path / "run", *options]
    launched(command)
    assert trainer.read_state(tmp_path / "run")["step"] == 3


def test_pairs_that_cannot_be_shared(monkeypatch, tmp_path):
    """Three pairs for two processes: refused before anything is written."""

    class Two:
        num_processes = 2

    monkeypatch.setattr(trainer, "Accelerator", lambda **_: Two())
    with pytest.raises(trainer.InputError, match="batches of 3 pairs cannot be shared evenly by 2 processes"):
        trainer.Trainer(replace(PLAN, pairs=3), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()
