"""The worker process and the side that talks to it: real child processes, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from JointRegSegLib import register
from JointRegSegLib.client import Worker, WorkerError
from JointRegSegLib.errors import Canceled, InputError, ModelError
from JointRegSegLib.worker import answer
from samples import array

PATIENCE = 240  # seconds on a busy machine


@pytest.fixture
def folder(pair, tmp_path) -> Path:
    """What the client puts there before it asks."""
    out = tmp_path / "job"
    out.mkdir()
    for name, path in pair.items():
        sitk.WriteImage(sitk.ReadImage(str(path)), str(out / f"{name}.nrrd"))
    return out


@pytest.fixture
def worker(installed):
    with Worker() as worker:
        yield worker


def ask(worker: Worker, folder: Path, **options) -> int:
    return worker.submit("register", folder=str(folder), fixed="fixed.nrrd", moving="moving.nrrd", options=options)


def until(worker: Worker, number: int, event: str, **match) -> dict:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for found in worker.events(number):
            if found["event"] == event and all(found.get(k) == v for k, v in match.items()):
                return found
        time.sleep(0.02)
    raise AssertionError(f"no event {event}; log: {list(worker.log)}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_client_imports_neither_torch_nor_numpy():
    code = "import sys, JointRegSegLib.client; print([m for m in ('torch', 'numpy', 'SimpleITK') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_a_pair_is_the_same_as_in_this_process(worker, folder, pair):
    stages = []
    number = ask(worker, folder, model="tiny-blobs", refine=3)
    event = worker.wait(number, lambda stage, fraction: stages.append((stage, fraction)), timeout=PATIENCE)
    here = register(pair["fixed"], pair["moving"], "tiny-blobs", refine=3)
    for name in ("warped", "displacement", "jacobian", "fixed_segmentation", "moving_segmentation"):
        found = sitk.ReadImage(str(folder / event["files"][name]))
        np.testing.assert_allclose(array(found), array(getattr(here, name)), atol=1e-3)
        assert found.GetDirection() == pytest.approx(getattr(here, name).GetDirection())
    transform = sitk.ReadTransform(str(folder / event["files"]["inverse_transform"]))
    point = sitk.ReadImage(str(pair["moving"])).TransformIndexToPhysicalPoint((9, 9, 7))
    assert transform.TransformPoint(point) == pytest.approx(here.inverse_transform.TransformPoint(point), abs=1e-3)
    back = sitk.ReadImage(str(folder / event["files"]["inverse_displacement"]))
    assert back.GetSize() == here.moving.GetSize()
    moved = np.add(point, back.EvaluateAtPhysicalPoint(point))
    assert moved == pytest.approx(here.inverse_transform.TransformPoint(point), abs=1e-3)
    assert event["report"]["verdict"]["color"] == here.verdict
    assert [label["name"] for label in event["labels"]] == ["left blob", "right blob"]
    assert {"refining", "checking"} <= {stage for stage, _ in stages}
    assert all(0 <= fraction <= 1 for _, fraction in stages)
    page = folder / "report.html"
    assert worker.wait(worker.submit("report", of=event["id"], file=str(page)), timeout=PATIENCE)["file"] == str(page)
    assert "research use only" in page.read_text(encoding="utf-8")
    with pytest.raises(WorkerError, match="something else was registered since"):  # whose pictures these would not be
        worker.wait(worker.submit("report", of=event["id"] - 1, file=str(page)), timeout=PATIENCE)


def test_labels_and_points_travel_too(worker, folder):
    number = worker.submit(
        "register",
        folder=str(folder),
        **{name: f"{name}.nrrd" for name in ("fixed", "moving", "fixed_labels", "moving_labels")},
        fixed_points=[[-110.0, 75, 210]],
        moving_points=[[-108.0, 74, 212]],
        options={"model": "tiny-blobs"},
    )
    event = worker.wait(number, timeout=PATIENCE)
    assert event["report"]["quality"]["landmarks"]["count"] == 1
    assert set(array(folder / event["files"]["warped_labels"]).ravel()) <= {0, 1, 2}


def test_errors_come_back_as_what_they_are_and_the_next_request_works(worker, folder):
    with pytest.raises(ModelError, match="no model 'brains'") as refusal:
        worker.wait(ask(worker, folder, model="brains"), timeout=PATIENCE)
    assert refusal.value.option == "model"
    with pytest.raises(InputError, match="refine takes a whole number from 0 to 10000"):
        worker.wait(ask(worker, folder, refine=-1), timeout=PATIENCE)
    with pytest.raises(WorkerError, match="unknown task 'dance'"):
        worker.wait(worker.submit("dance"), timeout=PATIENCE)
    with pytest.raises(WorkerError, match="there is no result yet"):
        worker.wait(worker.submit("report", of=None, file=str(folder / "r.html")), timeout=PATIENCE)
    with pytest.raises(WorkerError, match="TypeError") as caught:  # a defect in the request
        worker.wait(ask(worker, folder, smooth=3), timeout=PATIENCE)
    assert "Traceback" in caught.value.details
    assert worker.wait(worker.submit("load", model="tiny-blobs"), timeout=PATIENCE)["model"] == "tiny-blobs"
    assert worker.wait(ask(worker, folder, model="tiny-blobs"), timeout=PATIENCE)["event"] == "result"


def test_cancel_and_go_on(worker, folder):
    number = ask(worker, folder, refine=10_000)
    until(worker, number, "progress", stage="deformation")
    process = worker._process.pid
    worker.cancel(number)
    assert not worker.running and not alive(process)
    assert worker.events(number) == []
    assert worker.wait(ask(worker, folder, model="tiny-blobs"), timeout=PATIENCE)["event"] == "result"
    with pytest.raises(Canceled):
        worker.wait(ask(worker, folder, refine=10_000), lambda stage, fraction: False, timeout=PATIENCE)
    assert not worker.running


def test_several_requests_each_have_their_own_answers(worker, folder):
    numbers = [ask(worker, folder, model="tiny-blobs"), worker.submit("load", model="tiny-blobs")]
    numbers.append(ask(worker, folder, model="no such model"))
    assert worker.wait(numbers[1], timeout=PATIENCE)["model"] == "tiny-blobs"  # in whatever order they are fetched
    with pytest.raises(ModelError, match="no such model"):
        worker.wait(numbers[2], timeout=PATIENCE)
    assert "files" in worker.wait(numbers[0], timeout=PATIENCE)
    assert worker.events(numbers[0]) == [] and worker.events(99) == []


def test_canceling_one_request_is_told_to_the_others(worker, folder):
    first, second = ask(worker, folder, refine=10_000), ask(worker, folder, model="tiny-blobs")
    until(worker, first, "progress")
    worker.cancel(first)
    event = until(worker, second, "error")
    assert "another request was canceled" in event["message"]
    assert worker.wait(ask(worker, folder, model="tiny-blobs"), timeout=PATIENCE)["event"] == "result"


def test_a_killed_process_is_an_error_event(worker, folder):
    number = ask(worker, folder, refine=10_000)
    until(worker, number, "progress")
    os.kill(worker._process.pid, signal.SIGKILL)
    event = until(worker, number, "error")
    assert event["kind"] == "WorkerError" and "killed, perhaps for lack of memory" in event["message"]
    assert worker.wait(ask(worker, folder, model="tiny-blobs"), timeout=PATIENCE)["event"] == "result"


def test_a_process_that_cannot_start(tmp_path):
    with pytest.raises(WorkerError, match="nowhere: cannot be started"):
        Worker(str(tmp_path / "nowhere")).start()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no library here >&2\nexit 3\n")
    broken.chmod(0o755)
    with Worker(str(broken)) as worker:
        number = worker.submit("load", model="generic")
        with pytest.raises(WorkerError, match="exit code 3") as caught:
            worker.wait(number, timeout=PATIENCE)
        assert "no library here" in caught.value.details


def test_nothing_outlives_the_program_that_started_it(installed, folder):
    """Not even a killed one that had no time to clean up, in the middle of a computation."""
    code = """
import sys, time
from JointRegSegLib.client import Worker
worker = Worker()
number = worker.submit(
    "register", folder=sys.argv[1], fixed="fixed.nrrd", moving="moving.nrrd", options={"refine": 10_000}
)
while not any(event["event"] == "progress" for event in worker.events(number)):
    time.sleep(0.05)
print(worker._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(child)


def test_what_libraries_print_does_not_disturb_the_events():
    code = "import os; from JointRegSegLib import worker; s = worker._sender(worker._private_stdout())\n"
    code += "print('chatter'); os.write(1, b'from C\\n'); s({'event': 'ready'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"event": "ready"}]
    assert "chatter" in done.stderr and "from C" in done.stderr


def test_an_error_in_progress_ends_the_request(worker, folder):
    number = ask(worker, folder, model="generic", refine=300)

    def fails(stage: str, fraction: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        worker.wait(number, fails)
    assert not worker.running


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")]
)
def test_too_little_memory_is_said_plainly(error):
    events = []

    def task(request, send):
        raise error

    answer('{"id": 7, "task": "it"}', {"it": task}, events.append)
    assert [(e["id"], e["kind"]) for e in events] == [(7, "MemoryError")] and "not enough memory" in events[0][
        "message"
    ]
