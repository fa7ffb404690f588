"""A click, from nodes to nodes: real worker processes, canceled, killed, and with the scene changed under way."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from datetime import datetime

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from JointRegSegLib.client import Worker, WorkerError
from JointRegSegLib.errors import Canceled, InputError, JointRegSegError, ModelError
from JointRegSegLib.scene import compare, results, runs, volumes
from JointRegSegLib.scene.propagate import carry
from parents import KINDS, bending
from samples import fixed_grid, label_map, motion, moving_grid, thing, volume

KNOWN = motion(rotation=(4, -3, 5), shift=(3, -2, 2))
PATIENCE = 240
ENDLESS = {"refine": 10_000}


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


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_window_never_waits(worker, scene, add, left, kind):
    """Click, every look at the timer, and cancel, with a large volume under whatever transform."""
    large = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, (150, 256, 256)).astype(np.int16))
    fixed, moving = add(large, "F"), add(large, "M")
    if kind is not None:
        moving.SetAndObserveTransformNodeID(bending(scene, kind, large).GetID())
    longest = []
    while (
        len(longest) < 3 and min(longest, default=1.0) >= 0.1
    ):  # others may use the processor: what waits, waits again
        worker.start()
        took = []

        def timed(step, *arguments, took=took):
            began = time.perf_counter()
            out = step(*arguments)
            took.append(time.perf_counter() - began)
            return out

        run = timed(runs.Run, worker, scene, fixed, moving, ENDLESS)
        end = time.monotonic() + PATIENCE
        while run.stage != "affine" and not run.done and time.monotonic() < end:
            timed(run.poll)
            time.sleep(0.02)
        assert run.stage == "affine"
        timed(run.cancel)
        timed(worker.start)
        longest.append(max(took))
        worker.kill()
        assert left() == []
    assert min(longest) < 0.1


def test_a_volume_moved_or_removed_while_its_transform_is_asked(worker, scene, add, left):
    image = sitk.Image([64, 64, 64], sitk.sitkInt16)
    fixed, moving = add(image, "F"), add(image, "M")
    parent = bending(scene, "points", image)
    moving.SetAndObserveTransformNodeID(parent.GetID())
    run = runs.Run(worker, scene, fixed, moving, {})
    moving.SetAndObserveTransformNodeID(None)
    run.poll()
    assert "was moved while it was read; register again" in str(run.error) and left() == []
    moving.SetAndObserveTransformNodeID(parent.GetID())
    run = runs.Run(worker, scene, fixed, moving, {})
    run.cancel()
    assert isinstance(run.error, Canceled) and left() == []
    run = runs.Run(worker, scene, fixed, moving, {})
    scene.RemoveNode(moving)
    run.poll()
    assert "was removed from the scene" in str(run.error) and left() == []


def test_labels_are_no_images(worker, scene, pair, left):
    """Registering them would mix values of neighbors to labels that there are not."""
    fixed, moving = pair
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "L")
    volumes.fill(labels, label_map(thing(), moving_grid(), KNOWN))
    for nodes, side in (((fixed, labels), "moving"), ((labels, moving), "fixed")):
        with pytest.raises(InputError, match=f"{side} volume 'L': is a label map; choose the image .* with Propagate"):
            runs.Run(worker, scene, *nodes, {})
    assert left() == []


def test_a_result_says_of_what_when_and_in_which_slicer(worker, scene, pair):
    began = datetime.now().astimezone()
    fixed, moving = pair
    run = runs.Run(worker, scene, fixed, moving, {"working_size": 32})
    moving.SetName("renamed since")
    report = json.loads(run.wait().nodes["provenance"].GetText())
    for side, node, name in (("fixed", fixed, "F"), ("moving", moving, "M")):
        assert (report["inputs"][side]["name"], report["inputs"][side]["id"]) == (name, node.GetID())
    started = datetime.fromisoformat(report["started"])
    assert started.tzinfo is not None and -1 <= (started - began).total_seconds() < PATIENCE
    assert report["versions"]["slicer"].startswith("5.")


def test_missing_values_are_filled_and_spoil_no_figure(worker, scene, add):
    image = volume(thing(), moving_grid(), KNOWN)
    values = sitk.GetArrayFromImage(image)
    values[3:6] = np.nan
    holed = sitk.GetImageFromArray(values)
    holed.CopyInformation(image)
    fixed, moving = add(volume(thing(), fixed_grid()), "F"), add(holed, "M")
    result = runs.Run(worker, scene, fixed, moving, {"fill": 0.0, "working_size": 32}).wait()
    assert 0 <= result.report["slicer_difference"]["mean"] <= result.report["slicer_difference"]["p99"] < 0.01
    json.loads(result.nodes["provenance"].GetText(), parse_constant=lambda name: pytest.fail(name))
    result.report["figure"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        results.write_report(result)
    for show in (compare.checkerboard, compare.difference):
        shown = volumes.values_of(show(result, fixed))
        assert np.isfinite(shown).all() and shown.std() > 0
    carried = volumes.values_of(carry(scene, moving, result))
    filled = volumes.values_of(result.nodes["warped"])
    assert np.isfinite(carried[np.isfinite(filled)]).mean() > 0.5  # but for what is read next to the holes
    assert np.isfinite(carried[[0, -1]]).mean() > 0.5


def test_what_the_moving_image_does_not_show_is_told(worker, scene, add):
    """Half of the moving image is cut away: about half of the body is without data, and air does not count."""
    fixed, whole = add(volume(thing(), fixed_grid()), "F"), volume(thing(), moving_grid(), KNOWN)
    half = sitk.Extract(whole, [whole.GetWidth(), whole.GetHeight(), whole.GetDepth() // 2], [0, 0, 0])
    shares = []
    for image in (whole, half):
        result = runs.Run(worker, scene, fixed, add(image, "M"), {"working_size": 32}).wait()
        shares.append(result.report["uncovered_share"])
        told = [note for note in result.report["notes"] if "of the fixed body the moving image has no data" in note]
        assert len(told) == (shares[-1] > runs.UNCOVERED)
    assert shares[0] < 0.1 < shares[1] < 0.9


def test_many_runs_leave_nothing_behind(worker, scene, pair, left):
    before, others = nodes_in(scene), children() - {worker._process.pid if worker.running else 0}
    rng = np.random.default_rng(0)
    for i in range(8):
        run = runs.Run(worker, scene, *pair, ENDLESS if i % 2 else {})
        follow(run, lambda run=run: run.fraction > rng.uniform(0, 0.5))
        run.cancel() if i % 2 else follow(run, lambda: False)
        if run.result:
            results.remove(scene, run.result)
    assert nodes_in(scene) == before and left() == []
    assert len(children() - others) <= 1


def children() -> set[int]:
    """Processes begun by this one; other tests' cluster has left Python's own that looks after shared memory."""
    alive = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return {p.pid for p in alive}


def test_an_error_in_a_scripts_progress_leaves_nothing_behind(worker, scene, pair, left):
    before = left()

    def fails(stage: str, fraction: float) -> None:
        if stage != "starting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.Run(worker, scene, *pair, {"model": "generic", "working_size": 64, "refine": 200}).wait(fails)
    assert left() == before and not worker.running
    assert runs.Run(worker, scene, *pair, {"model": "generic", "working_size": 32}).wait().verdict


@pytest.mark.parametrize("options", [{"model": "generic"}, {"model": "a", "refine": 5}])
def test_the_share_of_a_run_that_is_done_grows_to_one(options):
    stages = list(runs.OPTIMIZED if options["model"] == "generic" else runs.PREDICTED)
    shares = [runs.overall(stage, fraction, options) for stage in stages for fraction in (0, 0.5, 1)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert runs.overall("network", 1, {"model": "a"}) > runs.overall("network", 1, {"model": "a", "refine": 5})
    assert runs.overall("unheard of", 0.5, options) == 0
