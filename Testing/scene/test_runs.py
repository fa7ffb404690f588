"""A click, from nodes to nodes: real worker processes, canceled, killed, and with the scene changed under way."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from JointRegSegLib.client import Worker, WorkerError
from JointRegSegLib.errors import Canceled, InputError, JointRegSegError, ModelError
from JointRegSegLib.scene import results, runs, volumes
from samples import fixed_grid, motion, moving_grid, thing, volume

KNOWN = motion(rotation=(4, -3, 5), shift=(3, -2, 2))
PATIENCE = 240
ENDLESS = {"refine": 10**7}


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


@pytest.fixture
def pair(add):
    return add(volume(thing(), fixed_grid()), "F"), add(volume(thing(), moving_grid(), KNOWN), "M")


@pytest.fixture
def left(monkeypatch, tmp_path):
    """What is left in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: sorted(tmp_path.iterdir())


def nodes_in(scene) -> set[str]:
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def follow(run: runs.Run, until) -> None:
    """Poll as a timer would."""
    end = time.monotonic() + PATIENCE
    while not until() and not run.done and time.monotonic() < end:
        run.poll()
        time.sleep(0.01)


def test_from_nodes_to_nodes(worker, scene, pair, left):
    run = runs.Run(worker, scene, *pair, {"model": "generic"})
    seen, longest = [], 0.0
    while not run.done:
        began = time.perf_counter()
        run.poll()
        if not run.done:
            longest = max(longest, time.perf_counter() - began)
        seen.append((run.stage, run.fraction, run.seconds_left))
        time.sleep(0.005)
    assert run.error is None and run.result.verdict == "green"
    assert longest < 0.1  # a window would not feel it
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {"affine", "deformation"} <= {stage for stage, _, _ in seen}
    assert any(seconds is not None and seconds >= 0 for _, _, seconds in seen)
    point = thing().centers[1]
    out = [0.0] * 3
    run.result.nodes["transform"].GetTransformFromParent().TransformPoint(list(point * (-1, -1, 1)), out)
    truth = KNOWN[:3, :3] @ point + KNOWN[:3, 3]
    assert np.linalg.norm(np.array(out) * (-1, -1, 1) - truth) < 1.5
    assert left() == []


def test_parent_transforms_count(worker, scene, pair):
    """The moving volume is registered where it is seen, and so lies right once it is brought there."""
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "back")
    transform.SetMatrixTransformToParent(volumes.to_vtk(volumes.FLIP @ np.linalg.inv(KNOWN) @ volumes.FLIP))
    fixed, moving = pair
    moving.SetAndObserveTransformNodeID(transform.GetID())
    result = runs.Run(worker, scene, fixed, moving, {"model": "generic"}).wait()
    point = thing().centers[2]
    out = [0.0] * 3
    result.nodes["transform"].GetTransformFromParent().TransformPoint(list(point * (-1, -1, 1)), out)
    assert np.linalg.norm(np.array(out) * (-1, -1, 1) - point) < 1.5  # they coincided already
    assert moving.GetTransformNodeID() == transform.GetID()


def test_cancel_leaves_the_scene_as_it_was_and_the_next_run_works(worker, scene, pair, left):
    before = nodes_in(scene)
    run = runs.Run(worker, scene, *pair, ENDLESS)
    follow(run, lambda: run.stage == "deformation")
    run.cancel()
    assert run.done and isinstance(run.error, Canceled) and run.result is None
    assert nodes_in(scene) == before and not worker.running and left() == []
    run.cancel()  # twice is no matter
    assert runs.Run(worker, scene, *pair, {}).wait().verdict == "green"


def test_cancel_before_anything_was_sent(worker, scene, pair, left):
    run = runs.Run(worker, scene, *pair, {})
    (folder,) = left()
    assert folder.stat().st_mode & 0o077 == 0  # patients' images, for this user's eyes only
    run.cancel()
    assert isinstance(run.error, Canceled) and run.poll()
    end = time.monotonic() + PATIENCE
    while left() and time.monotonic() < end:  # what is being written goes as soon as it has been
        time.sleep(0.01)
    assert left() == []


def test_a_killed_worker_is_an_error_and_the_next_run_works(worker, scene, pair, left):
    before = nodes_in(scene)
    run = runs.Run(worker, scene, *pair, ENDLESS)
    follow(run, lambda: run.stage == "deformation")
    os.kill(worker._process.pid, signal.SIGKILL)
    follow(run, lambda: False)
    assert isinstance(run.error, WorkerError) and "killed" in str(run.error)
    assert nodes_in(scene) == before and left() == []
    assert runs.Run(worker, scene, *pair, {}).wait().nodes["warped"].GetName() == "M warped"


def test_a_volume_removed_under_way(worker, scene, pair, left):
    run = runs.Run(worker, scene, *pair, {})
    follow(run, lambda: run.stage == "affine")
    scene.RemoveNode(pair[1])
    before = nodes_in(scene)
    follow(run, lambda: False)
    assert isinstance(run.error, JointRegSegError) and "was removed from the scene" in str(run.error)
    assert nodes_in(scene) == before and left() == []


def test_a_volume_moved_under_way_is_told(worker, scene, pair):
    run = runs.Run(worker, scene, *pair, {"working_size": 32})
    follow(run, lambda: run.stage == "affine")
    pair[0].SetOrigin(*(np.array(pair[0].GetOrigin()) + 2))
    assert "was moved meanwhile" in run.wait().report["notes"][-1]
    assert runs.Run(worker, scene, *pair, {"working_size": 32}).wait().report["notes"] == []


def test_a_scene_cleared_under_way(worker, scene, pair, left):
    run = runs.Run(worker, scene, *pair, {})
    follow(run, lambda: run.stage == "affine")
    scene.Clear(False)
    follow(run, lambda: False)
    assert "was removed from the scene" in str(run.error) and left() == []


def test_what_cannot_be_run_is_said_at_once_or_by_the_worker(worker, scene, pair, left):
    fixed, moving = pair
    with pytest.raises(InputError, match="are the same; choose two"):
        runs.Run(worker, scene, fixed, fixed, {})
    with pytest.raises(InputError, match="no moving volume is chosen"):
        runs.Run(worker, scene, fixed, None, {})
    with pytest.raises(ModelError, match="no model 'brains'"):
        runs.Run(worker, scene, fixed, moving, {"model": "brains"}).wait()
    with pytest.raises(Canceled):
        runs.Run(worker, scene, fixed, moving, ENDLESS).wait(lambda stage, fraction: stage != "affine")
    assert left() == []


def test_many_runs_leave_nothing_behind(worker, scene, pair, left):
    before = nodes_in(scene)
    rng = np.random.default_rng(0)
    for i in range(8):
        run = runs.Run(worker, scene, *pair, ENDLESS if i % 2 else {})
        follow(run, lambda run=run: run.fraction > rng.uniform(0, 0.5))
        run.cancel() if i % 2 else follow(run, lambda: False)
        if run.result:
            results.remove(scene, run.result)
    assert nodes_in(scene) == before and left() == []
    children = [p for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == os.getpid()]
    assert len(children) <= 1


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
