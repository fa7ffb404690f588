"""One click: volumes out to the worker, its answer back into the scene. Nothing here blocks; a timer calls `poll`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import slicer

from ..client import Event, Worker, error_of
from ..errors import Canceled, InputError, JointRegSegError
from . import results, volumes

#: Share of a run that has to have passed before the rest is guessed from it.
GUESS_FROM = 0.1
#: About how much of a run each stage takes, in order; a stage that is left out is skipped.
STAGES = {
    "starting": 0.05,
    "reading": 0.05,
    "affine": 0.15,
    "network": 0.2,
    "deformation": 0.3,
    "refining": 0.15,
    "resampling": 0.05,
    "checking": 0.05,
}


class Run:
    """A registration on its way.

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
    ) -> None:
        if fixed is not None and fixed is moving:
            raise InputError("fixed and moving volume are the same; choose two")
        images = {"fixed": volumes.image_of(fixed, "fixed volume"), "moving": volumes.image_of(moving, "moving volume")}
        images |= {f"{side}_labels": volumes.image_of(n, f"{side} labels") for side, n in (labels or {}).items()}
        self.stage, self.fraction = "starting", 0.0
        self.result: results.SceneResult | None = None
        self.error: JointRegSegError | None = None
        self._scene, self._fixed, self._moving = scene, fixed, moving
        self._worker, self._options = worker, options
        self._began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="jointregseg-"))
        self._number: int | None = None
        self._names = {name: f"{name}.nrrd" for name in images}
        self._problem: Exception | None = None
        # Large volumes take a second to write, for which no window should freeze; images are no part of the scene.
        self._writer = threading.Thread(target=self._write, args=(images,), daemon=True)
        self._writer.start()

    def _write(self, images: dict[str, sitk.Image]) -> None:
        try:
            for name, image in images.items():
                sitk.WriteImage(image, str(self._folder / self._names[name]), useCompression=False)
        except RuntimeError as error:
            self._problem = error

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
            if self._writer.is_alive():
                return False
            if self._problem is not None:
                return self._fail(
                    JointRegSegError(f"the volumes could not be handed over ({self._problem}); check space")
                )
            try:
                self._number = self._worker.submit(
                    "register", folder=str(self._folder), options=self._options, **self._names
                )
            except JointRegSegError as error:
                return self._fail(error)
        for event in self._worker.events():
            if event.get("id") == self._number:
                self._take(event)
        return self.done

    def _take(self, event: Event) -> None:
        if event["event"] == "progress":
            self.stage = event["stage"]
            self.fraction = max(self.fraction, overall(event["stage"], event["fraction"]))
        elif event["event"] == "error":
            self._fail(error_of(event))
        elif any(node is None or not self._scene.IsNodePresent(node) for node in (self._fixed, self._moving)):
            self._fail(
                JointRegSegError("a volume was removed from the scene before its result was there; nothing was added")
            )
        else:
            self.stage, self.fraction = "showing", 1.0
            self.result = results.put(self._scene, self._folder, event, self._fixed, self._moving)
            self._clean()

    def _fail(self, error: JointRegSegError) -> bool:
        self.error = error
        self._clean()
        return True

    def cancel(self) -> None:
        """End it now; the scene is as it was, and the next run works."""
        if not self.done:
            self._worker.kill()
            self._fail(Canceled())

    def wait(self, progress: Callable[[str, float], bool | None] | None = None) -> results.SceneResult:
        """Block until it is done; for scripts. ``progress`` may cancel by returning False.

        Raises
        ------
        InputError, ModelError, WorkerError, Canceled
            Why nothing came of it.
        """
        while not self.poll():
            if progress and progress(self.stage, self.fraction) is False:
                self.cancel()
                break
            time.sleep(0.01)
        if self.error is not None:
            raise self.error
        return self.result

    def _clean(self) -> None:
        self._writer.join()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)


def overall(stage: str, fraction: float) -> float:
    """About how much of a run is behind it, 0 to 1."""
    if stage not in STAGES:
        return 0.0
    before = sum(share for name, share in STAGES.items() if list(STAGES).index(name) < list(STAGES).index(stage))
    return before + STAGES[stage] * fraction
