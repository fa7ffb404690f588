"""One click: volumes out to the worker, its answer back into the scene. Nothing here blocks; a timer calls `poll`."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import slicer

from ..catalog import GENERIC
from ..client import Event, Worker, error_of
from ..errors import Canceled, InputError, JointRegSegError, OutputError
from . import check, results, sitk, volumes
from .seen import Seen

#: For so many seconds the transforms that volumes are under are asked at a time, before anything can be sent.
GLANCE = 0.02
#: Share of a run that has to have passed before the rest is guessed from it.
GUESS_FROM = 0.1
#: A larger share of the fixed body without data in the moving image is noted.
UNCOVERED = 0.01
#: About how long each stage takes beside the others, in order, for `generic` and for a network.
OPTIMIZED = {"starting": 1, "reading": 1, "affine": 8, "deformation": 50, "resampling": 4, "checking": 2}
PREDICTED = {"starting": 1, "reading": 1, "network": 4, "refining": 20, "resampling": 2, "checking": 2}


#: What a run may leave beside the warped volume and the transform, and the worker's files that it takes.
CHOICES = {
    "inverse": ("inverse_displacement",),
    "jacobian": ("jacobian",),
    "segmentations": ("fixed_segmentation", "moving_segmentation", "warped_segmentation"),
    "agreement": ("fixed_segmentation", "warped_segmentation"),
}


#: Of `pipeline.register_and_segment` that a run may set.
OPTIONS = {"model", "refine", "similarity", "align", "fill", "working_size", "device_name", "seed"}


def check_options(options: Iterable[str]) -> None:
    """Refuse names of options that there are not.

    Raises
    ------
    InputError
        With the first of them.
    """
    if unknown := set(options) - OPTIONS:
        raise InputError(f"unknown option '{min(unknown)}'; known: {', '.join(sorted(OPTIONS))}")


def points_of(node: slicer.vtkMRMLMarkupsNode) -> list[list[float]]:
    """Control points of a markups node where they are seen, LPS mm; not the one that is just being placed.

    Raises
    ------
    InputError
        If it is no markups node, or has no points, or some that were not placed: left out, those after them would
        correspond to others.
    """
    if not (hasattr(node, "IsA") and node.IsA("vtkMRMLMarkupsNode")) or node.GetNumberOfControlPoints() == 0:
        raise InputError("points are markups nodes with at least one point; place points, or leave them out")
    out, place = [], [0.0] * 3
    states = [node.GetNthControlPointPositionStatus(i) for i in range(node.GetNumberOfControlPoints())]
    missing = [i for i, state in enumerate(states) if state not in (node.PositionDefined, node.PositionPreview)]
    if missing or node.PositionDefined not in states:
        named = ", ".join(f"'{node.GetNthControlPointLabel(i)}'" for i in missing[:3])
        raise InputError(
            f"'{node.GetName()}': {len(missing)} of its points are not placed ({named}); place or delete them"
            if missing
            else f"'{node.GetName()}': no point is placed; place points, or leave them out"
        )
    for i in (i for i, state in enumerate(states) if state == node.PositionDefined):
        node.GetNthControlPointPositionWorld(i, place)
        out.append([-place[0], -place[1], place[2]])
    return out


class Run:
    """A registration on its way.

    Parameters
    ----------
    fixed, moving : vtkMRMLScalarVolumeNode
        Registered where they are seen: parent transforms count.
    options : dict
        Keyword arguments of `pipeline.register_and_segment`.
    labels : dict, optional
        Label map nodes by 'fixed' and 'moving'; they never influence the registration.
    points : dict, optional
        Markups nodes by 'fixed' and 'moving', corresponding, to measure the error.
    outputs : sequence of str, optional
        What is wanted beside the warped volume and the transform: some of `CHOICES`; all by default.
    replaced : SceneResult, optional
        An earlier result to remove once there is a new one.

    Attributes
    ----------
    stage, fraction : str, float
        Where it is: what is being done, and about how much of the whole has been.
    result : SceneResult or None
        What came of it, once `done`.
    error : JointRegSegError or None
        Why nothing came of it.

    Raises
    ------
    InputError
        If a volume cannot be registered as it is; nothing has been started then.
    """

    def __init__(
        self,
        worker: Worker,
        scene: slicer.vtkMRMLScene,
        fixed: slicer.vtkMRMLScalarVolumeNode,
        moving: slicer.vtkMRMLScalarVolumeNode,
        options: dict[str, Any],
        labels: dict[str, slicer.vtkMRMLLabelMapVolumeNode] | None = None,
        points: dict[str, slicer.vtkMRMLMarkupsNode] | None = None,
        outputs: Sequence[str] = tuple(CHOICES),
        replaced: results.SceneResult | None = None,
    ) -> None:
        if fixed is not None and fixed is moving:
            raise InputError("fixed and moving volume are the same; choose two")
        if unknown := set(outputs) - set(CHOICES):
            raise InputError(f"unknown output '{min(unknown)}'; choose of {', '.join(CHOICES)}")
        for given in (labels or {}), (points or {}):
            if unknown := set(given) - {"fixed", "moving"}:
                raise InputError(f"labels and points are given by 'fixed' and 'moving', not by '{min(unknown)}'")
        check_options(options)
        self._seen = {side: image_seen(node, f"{side} volume") for side, node in (("fixed", fixed), ("moving", moving))}
        self._seen |= {f"{side}_labels": Seen(node, f"{side} labels") for side, node in (labels or {}).items()}
        self.stage, self.fraction = "starting", 0.0
        self.result: results.SceneResult | None = None
        self.error: JointRegSegError | None = None
        self._scene, self._fixed, self._moving = scene, fixed, moving
        self._worker, self._options, self._replaced = worker, options, replaced
        self._outputs = [file for choice in outputs for file in CHOICES[choice]]
        self._agreement = "agreement" in outputs
        self._points = {f"{side}_points": points_of(node) for side, node in (points or {}).items()}
        self._images: dict[str, sitk.Image] = {}
        self._places = [_place(node) for node in (fixed, moving)]
        self._inputs = {side: _named(node) for side, node in (("fixed", fixed), ("moving", moving))}
        self._began, self._started = time.monotonic(), datetime.now().astimezone().isoformat(timespec="seconds")
        self._folder = private_folder()
        self._number: int | None = None
        self._names = {name: f"{name}.nrrd" for name in self._seen}
        self._problem: Exception | None = None
        # Large volumes take seconds to resample, copy and write, for which no window should freeze; the thread sees no
        # node.
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._lock, self._writing, self._abandoned = threading.Lock(), False, False
        self._look(0.0)

    def _look(self, seconds: float) -> None:
        """Ask the transforms that volumes are under for about so long; once there is no more to ask, volumes go out."""
        if all(seen.look(seconds) for seen in self._seen.values()):
            self._writing = True
            self._writer.start()

    def _write(self) -> None:
        try:
            for name, seen in self._seen.items():
                self._images[name] = seen.image()
                sitk.WriteImage(self._images[name], str(self._folder / self._names[name]), useCompression=False)
        except (RuntimeError, OSError, MemoryError) as error:
            self._problem = error
        with self._lock:
            self._writing = False
            if self._abandoned:
                self._remove_folder()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.result is not None or self.error is not None

    @property
    def seconds_left(self) -> float | None:
        """A guess from what has passed; None as long as there is nothing to guess from."""
        if self.fraction < GUESS_FROM or self.done:
            return None
        return (time.monotonic() - self._began) * (1 - self.fraction) / self.fraction

    def poll(self) -> bool:
        """Take in what has happened since; returns `done`. Putting the result into the scene happens here too."""
        if self.done:
            return True
        if self._number is None:
            if not self._writer.ident:
                return self._read()
            if self._writer.is_alive():
                return False
            if self._problem is not None:
                return self._fail(
                    OutputError(
                        f"the volumes could not be handed over in {self._folder.parent}; free space there or in "
                        "memory, or name another folder in the environment variable TMPDIR"
                    )
                )
            try:
                self._number = self._ask()
            except JointRegSegError as error:
                return self._fail(error)
        for event in self._worker.events(self._number):
            self._take(event)
        return self.done

    def _ask(self) -> int:
        """Send the request; its number."""
        names = {"folder": str(self._folder), **self._names}
        return self._worker.submit("register", **names, **self._points, options=self._options, outputs=self._outputs)

    def _read(self) -> bool:
        """Another glance at the transforms that volumes are under."""
        try:
            if any(node is None or not self._scene.IsNodePresent(node) for node in (self._fixed, self._moving)):
                raise JointRegSegError("a volume was removed from the scene before it was read; choose another one")
            if self._places_now() != self._places:
                raise JointRegSegError("a volume was moved while it was read; register again")
            self._look(GLANCE)
        except JointRegSegError as error:
            self._fail(error)
        return self.done

    def _places_now(self) -> list[tuple]:
        return [_place(node) for node in (self._fixed, self._moving)]

    def _overall(self, stage: str, fraction: float) -> float:
        """About how much of it is done."""
        return overall(stage, fraction, self._options)

    def _take(self, event: Event) -> None:
        if event["event"] == "progress":
            self.stage = event["stage"]
            self.fraction = max(self.fraction, self._overall(event["stage"], event["fraction"]))
        elif event["event"] == "error":
            self._fail(error_of(event))
        elif any(node is None or not self._scene.IsNodePresent(node) for node in (self._fixed, self._moving)):
            self._fail(
                JointRegSegError("a volume was removed from the scene before its result was there; nothing was added")
            )
        else:
            self.stage, self.fraction = "showing", 1.0
            try:
                self.result = self._put(event)
            except (RuntimeError, OSError, MemoryError) as error:
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                self._fail(JointRegSegError(f"the result could not be put into the scene ({reason[0]}); run it again"))
                return
            if self._replaced is not None and not self._needs(self._replaced):
                results.remove(self._scene, self._replaced)
            self._clean()

    def _needs(self, other: results.SceneResult) -> bool:
        """Whether a volume of another result was registered, as the second of two steps begins where the first ends."""
        return any(node in (self._fixed, self._moving) for node in other.nodes.values())

    def _put(self, event: Event) -> results.SceneResult:
        """Into the scene, with what Slicer makes of the transform node beside what was computed."""
        result = results.put(self._scene, self._folder, event, self._fixed, self._moving, self._agreement)
        result.request = self._number
        report, moving, transform = result.report, self._images["moving"], result.nodes["transform"]
        report["slicer_difference"] = check.transform_difference(moving, result.nodes["warped"], transform)
        report["uncovered_share"] = check.uncovered_share(self._images["fixed"], moving, transform)
        if report["uncovered_share"] > UNCOVERED:
            report["notes"].append(
                f"for {100 * report['uncovered_share']:.0f} % of the fixed body the moving image has no data; the "
                "deformation there is a guess"
            )
        if self._places_now() != self._places:
            report["notes"].append("a volume was moved meanwhile; the result fits where it was, so run it again")
        if self._replaced is not None and self._needs(self._replaced):
            report["notes"].append("the last result was not replaced, for a volume of it was registered")
        report["started"] = self._started
        report["versions"]["slicer"] = slicer_version()
        for side, named in self._inputs.items():
            report["inputs"][side] |= named
        results.write_report(result)
        return result

    def _fail(self, error: JointRegSegError) -> bool:
        self.error = error
        self._clean()
        return True

    def cancel(self) -> None:
        """End it now; the scene is as it was, and the next run works."""
        if not self.done:
            if self._number is not None:
                self._worker.cancel(self._number, wait=False)
            self._fail(Canceled())

    def wait(self, progress: Callable[[str, float], bool | None] | None = None) -> results.SceneResult:
        """Block until it is done; for scripts. ``progress`` may cancel by returning False.

        Raises
        ------
        InputError, ModelError, WorkerError, Canceled
            Why nothing came of it.
        """
        try:
            while not self.poll():
                if progress and progress(self.stage, self.fraction) is False:
                    self.cancel()
                    break
                time.sleep(0.01)
        except BaseException:  # of ``progress``, or an interrupt: nothing is left behind, and nothing goes on
            self.cancel()
            raise
        if self.error is not None:
            raise self.error
        return self.result

    def _clean(self) -> None:
        """Leave no file behind; a large volume that is still being written is not waited for."""
        with self._lock:
            self._abandoned = True
            if not self._writing:
                self._remove_folder()

    def _remove_folder(self) -> None:
        self._images.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def image_seen(node: slicer.vtkMRMLVolumeNode | None, role: str) -> Seen:
    """A volume that can be registered, where it is seen.

    Raises
    ------
    InputError
        If it holds no image of one value a voxel on a lattice at right angles, or labels: registering mixes values of
        neighbors, which of labels makes others.
    """
    seen = Seen(node, role)
    if volumes.is_label_map(node):
        raise InputError(
            f"{role} '{node.GetName()}': is a label map; choose the image it was drawn on, and carry the label map "
            "over with Propagate"
        )
    return seen


def slicer_version() -> str:
    """Of the application, or of Slicer's classes where there is none."""
    application = getattr(slicer, "app", None)
    return application.applicationVersion if application is not None else importlib.metadata.version("slicer-core")


def _named(node: slicer.vtkMRMLVolumeNode) -> dict[str, str]:
    return {"name": node.GetName(), "id": node.GetID(), "fingerprint": volumes.fingerprint(node)}


def _place(node: slicer.vtkMRMLVolumeNode) -> tuple:
    """Changes when a volume, or a transform that it is under, is moved."""
    parent = node.GetParentTransformNode()
    moved = (parent.GetID(), parent.GetTransformToWorldMTime()) if parent is not None else None
    return volumes.affine_of(node).tolist(), moved


def private_folder(purpose: str = "") -> Path:
    """A new folder for this user's eyes only.

    Raises
    ------
    OutputError
        If there can be none.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=f"jointregseg-{purpose}"))
    except OSError as error:
        raise OutputError(
            f"no temporary folder can be made ({error.strerror}); free space, or name another folder in the "
            "environment variable TMPDIR"
        ) from None


def overall(stage: str, fraction: float, options: dict[str, Any]) -> float:
    """About how much of a run with these options is behind it, 0 to 1."""
    stages = dict(OPTIMIZED if options.get("model", GENERIC) == GENERIC else PREDICTED)
    if not options.get("refine"):
        stages.pop("refining", None)
    return passed(stages, stage, fraction)


def passed(stages: Mapping[str, float], stage: str, fraction: float) -> float:
    """About how much is behind a run at a fraction of one of its stages, which take so long beside each other."""
    if stage not in stages:
        return 0.0
    order = list(stages)
    before = sum(stages[name] for name in order[: order.index(stage)])
    return (before + stages[stage] * fraction) / sum(stages.values())
