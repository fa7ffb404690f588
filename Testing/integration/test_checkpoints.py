"""A training goes on exactly where it stopped, whatever stopped it, and from nothing that is no checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegTrainingLib import journal, trainer
from short_runs import SHORT, TURNS, losses_of


def assert_equal(run: trainer.Trainer, other: trainer.Trainer) -> None:
    """Both have the same weights and the same running average of them, bit for bit."""
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
        assert torch.equal(run.average[name], other.average[name]), name


@pytest.mark.parametrize("plan", [SHORT, TURNS], ids=["together", "alternating"])
def test_a_resumed_run_is_the_unbroken_one(subjects, tmp_path, plan):
    unbroken = trainer.Trainer(plan, subjects, tmp_path / "unbroken")
    expected = losses_of(unbroken)
    first = losses_of(trainer.Trainer(plan, subjects, tmp_path / "broken"), stop=4)
    torch.manual_seed(99)  # what else happens in between does not matter
    resumed = trainer.Trainer(plan, subjects, tmp_path / "broken")
    assert resumed.step == 2  # what was broken off in its report is told again
    found = losses_of(resumed)
    assert first | found == found | first == expected
    assert list(expected) == [2, 4, 6, 8]
    assert_equal(unbroken, resumed)
    states = [torch.load(tmp_path / n / "state.pt", weights_only=True) for n in ("unbroken", "broken")]
    assert states[0]["step"] == states[1]["step"] == 8
    assert not list(tmp_path.rglob("*.tmp"))
    losses_of(resumed)
    assert resumed.step == 8  # a finished run has nothing left to do


def test_a_process_that_was_killed_goes_on_as_if_nothing_had_been(config_file, cohort_file, tmp_path):
    """By a power cut: no warning, no chance to put anything in order, wherever it was."""

    def start(folder: Path) -> subprocess.Popen:
        words = ["train", "--config", config_file, "--cohort", cohort_file, "--output", folder, "--set", "steps=40"]
        words += ["--every", 2, "--device", "cpu", "--progress", "none"]
        command = [sys.executable, "-m", "JointRegSegLib.cli", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    others = start(unbroken)
    killed = start(broken)
    while not (broken / "log.jsonl").is_file() or len((broken / "log.jsonl").read_text().splitlines()) < 3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() < 0
    assert 0 < trainer.read_state(broken)["step"] < 40
    assert start(broken).wait() == others.wait() == 0
    states = [trainer.read_state(folder) for folder in (unbroken, broken)]
    assert states[0]["step"] == states[1]["step"] == 40
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name]), name
    logs = [list(map(json.loads, (x / "log.jsonl").read_text().splitlines())) for x in (unbroken, broken)]
    curves = [[(entry["step"], entry["loss"]) for entry in log] for log in logs]
    assert curves[0] == curves[1] and [step for step, _ in curves[0]] == list(range(2, 41, 2))


@pytest.mark.parametrize("written", [True, False], ids=["written", "unwritten"])
def test_the_log_of_a_run_that_was_interrupted_between_log_and_checkpoint(subjects, tmp_path, written, monkeypatch):
    def entries(folder: Path) -> list[dict]:
        return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]

    unbroken, broken = (trainer.Trainer(SHORT, subjects, tmp_path / name) for name in ("unbroken", "broken"))
    unbroken.run(every=2, report=journal.Journal(unbroken, subjects))
    place = "save" if written else "averaged_network"
    usual = getattr(broken, place)
    monkeypatch.setattr(broken, place, lambda: usual() if broken.step < 4 else sys.exit())
    with pytest.raises(SystemExit):
        broken.run(every=2, report=journal.Journal(broken, subjects))
    assert [row["step"] for row in entries(tmp_path / "broken")] == ([2, 4] if written else [2])
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write('{"step": ')
    resumed = trainer.Trainer(SHORT, subjects, tmp_path / "broken")
    assert resumed.step == 2
    resumed.run(every=2, report=journal.Journal(resumed, subjects))
    told = entries(tmp_path / "broken")
    assert [row | {"minutes": 0} for row in told] == [row | {"minutes": 0} for row in entries(tmp_path / "unbroken")]
    minutes = [row["minutes"] for row in told]
    assert minutes == sorted(minutes) and len(told) == 4


def test_a_run_that_its_time_limit_ended_between_reports_tells_the_same(subjects, tmp_path):
    expected = losses_of(trainer.Trainer(SHORT, subjects, tmp_path / "unbroken"))
    first = trainer.Trainer(SHORT, subjects, tmp_path / "broken")
    # The time is up within the third step.
    first.run(every=2, minutes=1, progress=lambda share: first.step < 3 or setattr(first, "_over", lambda end: True))
    assert first.step == 3
    resumed = trainer.Trainer(SHORT, subjects, tmp_path / "broken")
    found = losses_of(resumed)
    assert found == {step: expected[step] for step in (4, 6, 8)}


def test_a_run_without_a_checkpoint_begins_anew_with_any_plan(subjects, tmp_path):
    """It was broken off before anything was learned: what it was about does not matter."""
    trainer.Trainer(SHORT, subjects, tmp_path)
    assert not (tmp_path / "state.pt").exists()
    run = trainer.Trainer(replace(SHORT, rate=1e-4), subjects, tmp_path)
    run.save()
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["rate"] == 1e-4
    with pytest.raises(InputError, match="another plan, which differs in rate"):
        trainer.Trainer(SHORT, subjects, tmp_path)


def test_a_start_is_kept_at_once(subjects, tmp_path):
    """A run that is killed before its first checkpoint goes on from there, not from nothing."""
    start = trainer.build(replace(SHORT, seed=5))
    with torch.no_grad():
        for weight in start.parameters():
            weight.add_(0.25)
    trainer.Trainer(SHORT, subjects, tmp_path / "run", start=start)
    again = trainer.Trainer(SHORT, subjects, tmp_path / "run")
    expected = start.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.network.state_dict().items())


def test_a_damaged_checkpoint(subjects, tmp_path):
    trainer.Trainer(SHORT, subjects, tmp_path / "run").save()
    state = tmp_path / "run" / "state.pt"
    flipped = bytearray(state.read_bytes())
    weights = trainer.read_state(tmp_path / "run")["network"]
    flipped[flipped.index(next(w for w in weights.values() if w.any()).numpy().tobytes())] ^= 1
    for content in (b"", b"no checkpoint", state.read_bytes()[:5000], bytes(flipped)):
        state.write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt: is damaged"):
            trainer.Trainer(SHORT, subjects, tmp_path / "run")


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(subjects, tmp_path, monkeypatch):
    """Nobody is told to remove a good one."""
    run = trainer.Trainer(SHORT, subjects, tmp_path)
    run.save()

    def fails(where: object, name: str, error: Exception) -> None:
        def raises(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(where, name, raises)

    fails(torch, "load", torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.Trainer(SHORT, subjects, tmp_path)
    fails(Path, "read_bytes", PermissionError(13, "Permission denied"))
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        trainer.Trainer(SHORT, subjects, tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint(subjects, tmp_path):
    run = trainer.Trainer(SHORT, subjects, tmp_path)
    run.train_step()
    run.save()
    (tmp_path / "state.tmp").symlink_to("/dev/full")
    run.train_step()
    with pytest.raises(OutputError, match=r"cannot be written .*the last checkpoint is still there"):
        run.save()
    assert not (tmp_path / "state.tmp").exists() and trainer.read_state(tmp_path)["step"] == 1


@pytest.mark.parametrize("state", [{"network": {}}, [1, 2], {"step": 3}])
def test_a_file_that_is_no_checkpoint(subjects, tmp_path, state):
    trainer.Trainer(SHORT, subjects, tmp_path / "run").save()
    torch.save(state, tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match=r"state\.pt: is no checkpoint of a training run"):
        trainer.Trainer(SHORT, subjects, tmp_path / "run")


def test_a_checkpoint_of_another_network(subjects, tmp_path):
    trainer.Trainer(SHORT, subjects, tmp_path / "run").save()
    state = trainer.read_state(tmp_path / "run")
    state["network"] = {key: value[..., :0] for key, value in state["network"].items()}
    torch.save(state, tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match=r"state\.pt: is of another network"):
        trainer.Trainer(SHORT, subjects, tmp_path / "run")


def test_weights_that_are_not_finite_are_not_kept(subjects, tmp_path):
    run = trainer.Trainer(SHORT, subjects, tmp_path / "run")
    run.save()
    with torch.no_grad():
        next(run.network.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="weights are no longer finite; begin again in another folder"):
        run.save()
    assert all(v.isfinite().all() for v in trainer.read_state(tmp_path / "run")["network"].values())


def test_a_checkpoint_is_kept_in_time(subjects, tmp_path, monkeypatch):
    """However long the steps between two reports take."""
    monkeypatch.setattr(trainer, "KEEP", 0.0)
    run, kept = trainer.Trainer(SHORT, subjects, tmp_path / "run"), []
    monkeypatch.setattr(run, "save", lambda: kept.append(run.step))
    run.run(every=1000)
    assert kept[: SHORT.steps - 1] == list(range(1, SHORT.steps))
