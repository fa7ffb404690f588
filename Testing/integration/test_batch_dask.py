"""A table of pairs on several processes: what they write, and what is left when they are lost or stopped."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.system
import distributed.system
import pytest
import SimpleITK as sitk
from conftest import small_grid, small_scene
from JointRegSegLib import batch, cluster
from JointRegSegLib.errors import Canceled, InputError
from samples import volume, write

PATIENCE = 60
#: Preloaded by every worker: what happens to it in the middle of writing a case's folder.
SABOTAGE = """
import os, signal, time
from pathlib import Path
from JointRegSegLib import files

def dask_setup(worker):
    files.write_transform = sabotaged

def sabotaged(transform, path, real=files.write_transform):
    case = path.parent.name.split(".")[1]
    deaths = Path(FOLDER) / (case + ".deaths")
    before = deaths.read_text() if deaths.exists() else ""
    if case == "poison" or (case == "unlucky" and not before):
        deaths.write_text(before + "x")
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "slow":
        time.sleep(3600)
    real(transform, path)
"""


@pytest.fixture
def table(installed, tmp_path: Path) -> Callable[..., Path]:
    """A table of cases with the names that are given; one named 'bad' lacks its moving image."""
    folder = tmp_path / "data"
    for i in range(4):
        write(volume(small_scene(i), small_grid()), folder / f"{i}.nii.gz")

    def make(*cases: str) -> Path:
        lines = [f"{case},{i}.nii.gz,{'none' if case == 'bad' else i + 1}.nii.gz" for i, case in enumerate(cases)]
        (folder / "pairs.csv").write_text("\n".join(["case,fixed,moving", *lines]) + "\n")
        return folder / "pairs.csv"

    return make


@pytest.fixture
def sabotage(tmp_path: Path) -> Iterator[Path]:
    """Workers that die or hang in some cases; gives the folder that has the deaths of each."""
    script = tmp_path / "sabotage" / "sabotage.py"
    script.parent.mkdir()
    script.write_text(f"FOLDER = {str(script.parent)!r}\n{SABOTAGE}")  # Dask runs a copy, which lies elsewhere
    with dask.config.set({"distributed.worker.preload": [str(script)], "distributed.scheduler.allowed-failures": 1}):
        yield script.parent


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in csv.DictReader(stream)]


def parameters(transform: sitk.Transform) -> list[tuple[float, ...]]:
    parts = sitk.CompositeTransform(transform)
    parts = [parts.GetNthTransform(i) for i in range(parts.GetNumberOfTransforms())]
    return [values for part in parts for values in (part.GetFixedParameters(), part.GetParameters())]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_processes_write_what_one_does(table, shell, tmp_path):
    pairs = table("first", "bad", "third")
    environment = dict(os.environ)
    answers = {}
    for workers in (1, 2):
        command = ["batch", pairs, "--model", "tiny-blobs", "--workers", workers, "--output", tmp_path / str(workers)]
        code, said, error = shell(*command)
        assert code == 1
        assert error == f"bad: {pairs.parent / 'none.nii.gz'}: no such file; check the path\n"
        assert said.splitlines()[-1].startswith("2 done, 0 kept from before, 1 failed")
        answers[workers] = {
            path.relative_to(tmp_path / str(workers)): path.read_bytes()
            if path.suffix == ".gz"
            else parameters(sitk.ReadTransform(str(path)))  # the file itself holds the time of its writing
            for path in (tmp_path / str(workers)).rglob("*")
            if path.name.endswith((".nii.gz", ".h5"))
        }
    assert len(answers[1]) >= 2 * 7
    assert answers[1] == answers[2]
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
    assert [row["case"] for row in rows(tmp_path / "2")] == ["first", "bad", "third"]
    assert names(tmp_path / "1") == names(tmp_path / "2") == ["first", "summary.csv", "third"]
    assert os.environ == environment
    assert batch.run_batch(pairs, tmp_path / "2", {"model": "tiny-blobs"}).counts == (0, 2, 1)


def test_killed_workers_lose_no_case(table, sabotage, tmp_path):
    pairs = table("lucky", "unlucky", "poison")
    outcome = batch.run_batch(pairs, tmp_path / "out", {"model": "tiny-blobs"}, workers=2)
    assert [(row["case"], row["status"]) for row in outcome.rows] == [
        ("lucky", "done"),
        ("unlucky", "done"),
        ("poison", "failed"),
    ]
    assert outcome.rows[2]["reason"].startswith("every process that worked on it was killed")
    assert (sabotage / "unlucky.deaths").read_text() == "x"
    assert len((sabotage / "poison.deaths").read_text()) >= 2
    assert names(tmp_path / "out") == ["lucky", "summary.csv", "unlucky"]
    assert names(tmp_path / "out" / "unlucky") == names(tmp_path / "out" / "lucky")


def test_canceled_while_a_worker_writes(table, sabotage, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "GRACE", 0.2)
    out = tmp_path / "out"

    def listen(case: str, fraction: float) -> bool:
        while fraction and not list(out.glob(".slow.*")):  # which is not finished, but begun
            time.sleep(0.05)
        return fraction == 0

    with pytest.raises(Canceled):
        batch.run_batch(table("slow", "lucky"), out, {"model": "tiny-blobs"}, progress=listen, workers=2)
    assert names(out) == ["lucky", "summary.csv"]
    assert [row["case"] for row in rows(out)] == ["lucky"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts commands, each in a session of its own as from a terminal; all end with the test."""
    started = []

    def start(*command: object) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *map(str, command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("lost", [False, True])
def test_interrupted_and_without_its_scheduler(table, processes, tmp_path, lost):
    """In the middle of a case that would go on for hours, on a worker that is nobody's child."""
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = processes("distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
    processes("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    options = ["--refine", 10_000, "--scheduler", address, "--output", tmp_path / "out"]
    command = processes("JointRegSegLib.cli", "batch", table("endless", "later"), *options)
    with distributed.Client(address, timeout=PATIENCE, set_as_default=False) as client:
        until(lambda: in_hand(client))
        if not lost:
            os.killpg(command.pid, signal.SIGINT)
            until(lambda: not in_hand(client))  # the worker lives and is free
    if lost:
        scheduler.kill()
    said, error = command.communicate(timeout=PATIENCE)
    if lost:
        assert command.returncode == 2
        assert error.splitlines()[-1].startswith(f"jointregseg: --scheduler {address}: was lost; start it")
    else:
        assert command.returncode == 130
        assert error.splitlines()[-1] == "jointregseg: interrupted; nothing half-written was left"
    assert said == "" and "Traceback" not in error
    assert names(tmp_path / "out") == []


def test_a_scheduler_loses_a_worker_and_no_case(table, sabotage, processes, tmp_path):
    """Two workers that are nobody's children; the one that begins a certain case is killed, and not begun anew."""
    address = f"tcp://127.0.0.1:{free_port()}"
    processes("distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", sabotage / "sabotage.py"]
    workers = [processes("distributed.cli.dask_worker", address, *options) for _ in range(2)]
    options = ["--model", "tiny-blobs", "--scheduler", address, "--output", tmp_path / "out"]
    command = processes("JointRegSegLib.cli", "batch", table("lucky", "unlucky", "third"), *options)
    said, error = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, error
    assert said.splitlines()[-1].startswith("3 done, 0 kept from before, 0 failed")
    assert sorted(worker.poll() is None for worker in workers) == [False, True]
    assert (sabotage / "unlucky.deaths").read_text() == "x"
    assert names(tmp_path / "out") == ["lucky", "summary.csv", "third", "unlucky"]
    assert names(tmp_path / "out" / "unlucky") == names(tmp_path / "out" / "lucky")


def in_hand(client: distributed.Client) -> list[str]:
    """The cases that its worker has begun."""

    def ask() -> list[str]:  # within a function, so that it is sent as it is: the worker cannot import tests
        from JointRegSegLib import cluster

        return list(cluster._in_hand)

    return [case for cases in client.run(ask).values() for case in cases]


def until(answer: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answer():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_scheduler_that_does_not_answer(table, refused, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    for address in (f"tcp://127.0.0.1:{free_port()}", "nowhere", "tls://127.0.0.1:1"):
        refused(
            "batch", table("first"), "--scheduler", address, words=(f"--scheduler {address}: no Dask", "dask scheduler")
        )


def test_without_dask(table, refused, monkeypatch):
    refused("batch", table("first"), "--workers", "0", words=("workers takes a whole number of 1 or more, not 0",))
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    refused("batch", table("first", "second"), "--workers", "2", words=("pip install 'jointregseg[cluster]'",))
    assert cluster.suitable_workers("cpu") == 1


@pytest.mark.parametrize(("cores", "memory", "workers"), [(2, 64, 1), (16, 64, 4), (16, 20, 2), (64, 4, 1)])
def test_workers_by_default(monkeypatch, cores, memory, workers):
    monkeypatch.setattr(dask.system, "CPU_COUNT", cores)
    monkeypatch.setattr(distributed.system, "MEMORY_LIMIT", memory * 2**30)
    assert cluster.suitable_workers("cpu") == workers
    with pytest.raises(InputError, match="unknown device"):
        cluster.suitable_workers("abacus")
