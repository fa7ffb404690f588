"""A child process that holds torch, so that the program that shows results never imports it and never freezes.

Requests come as JSON lines on stdin, events go as JSON lines to stdout; images travel by file, in a folder that the
other side (`client`) made and will remove.

    {"id": 1, "task": "register", "folder": DIR, "fixed": NAME, "moving": NAME, "options": {…}}
        → {"id": 1, "event": "progress", "stage": "affine", "fraction": 0.4}, …
        → {"id": 1, "event": "result", "files": {"warped": NAME, …}, "report": {…}, "labels": [{"value": 1, …}, …]}
    {"id": 2, "task": "report", "of": 1, "file": PATH}           page of request 1, if it was the last of its kind; with
                                                                 "page": "review" that of a review, which may be
                                                                 ``printed``, for Qt's rich text
    {"id": 3, "task": "load", "model": NAME}                     have a model ready for the next click
    {"id": 4, "task": "batch", "table": CSV, "folder": DIR, "options": {…}, "overwrite": false, "given_up": {}}
        → "progress" with the case as its stage → {"id": 4, "event": "result", "rows": […], "summary": PATH}
    {"id": 5, "task": "review", "folder": DIR, "fixed": NAME, "moving": NAME, "transform": NAME, "reference": "inhale"}
        → {"id": 5, "event": "result", "files": {"lungs": NAME, "ventilation": NAME, …}, "report": {…}, "colors": {…}}
          without ``transform`` the scans are registered first, with ``options`` and ``outputs`` as above; the answer of
          that is beside, under "registration"
    …   → {"id": 3, "event": "error", "kind": "ModelError", "message": "…"}

``outputs`` of a registration names what to write beside warped image and transforms; all if it is left out. Beside
fixed and moving a request may name ``fixed_labels``, ``moving_labels`` (images), ``fixed_points`` and
``moving_points`` (lists of LPS points); so may a review, whose label maps may lie on any lattice, with ``names`` of
their values and ``patient``, what to call the patient. The first event, without an id, is {"event": "ready",
"device": …}. The process ends when its stdin does, whatever it is doing: nothing outlives the program that started it.
To cancel, kill it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .errors import JointRegSegError, lacks_memory

if TYPE_CHECKING:
    from .result import Registration

IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels")
POINTS = ("fixed_points", "moving_points")
TRANSFORMS = ("transform", "inverse_transform")
INVERSE = "inverse_displacement"
SEGMENTATIONS = ("fixed_segmentation", "moving_segmentation", "warped_segmentation")
ALWAYS = ("warped", "displacement")
#: What a registration can give beside those.
OUTPUTS = (*TRANSFORMS, INVERSE, "jacobian", *SEGMENTATIONS, "warped_labels")

Request = dict[str, Any]
Send = Callable[[dict[str, Any]], None]


def main() -> int:
    """Serve until stdin ends."""
    send = _sender(_private_stdout())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, requests), daemon=True).start()
    server = _Server()
    send({"event": "ready", "device": server.device})
    while True:
        answer(requests.get(), server.tasks(), send)


def _private_stdout() -> TextIO:
    """The stream of events; whatever else prints to stdout, C libraries included, goes to stderr from now on."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


def _sender(stream: TextIO) -> Send:
    def send(event: dict[str, Any]) -> None:
        try:
            stream.write(json.dumps(event) + "\n")
        except BrokenPipeError:  # nobody is there any more
            os._exit(0)

    return send


def _listen(stream: TextIO, requests: queue.Queue[str]) -> None:
    for line in stream:
        requests.put(line)
    os._exit(0)


def answer(line: str, tasks: dict[str, Callable[[Request, Send], dict[str, Any]]], send: Send) -> None:
    """Carry a request out; whatever goes wrong becomes an event."""
    number = None
    try:
        request = json.loads(line)
        number = request.get("id")
        if request.get("task") not in tasks:
            raise JointRegSegError(f"unknown task '{request.get('task')}'; known: {', '.join(tasks)}")
        send({"id": number, "event": "result", **tasks[request["task"]](request, send)})
    except JointRegSegError as error:
        kind = type(error).__name__
        send({"id": number, "event": "error", "kind": kind, "message": str(error), "option": error.option})
    except Exception as error:
        if not lacks_memory(error):
            send({"id": number, "event": "error", **_defect(error)})
            return
        message = "not enough memory; close other programs or use smaller volumes"
        send({"id": number, "event": "error", "kind": "MemoryError", "message": message})


def _defect(error: Exception) -> dict[str, str]:
    """It is shown, with what is needed to find it, and the next click works."""
    message = f"{type(error).__name__}: {error}"
    return {"kind": "Defect", "message": message, "details": traceback.format_exc()}


class _Server:
    """What the tasks share; torch is imported when it is made."""

    def __init__(self) -> None:
        from . import device, pipeline  # noqa: F401 - the pipeline takes a second, which no click should wait for

        self.device = device.available()
        # The number of the last request of each kind, and how to write its page.
        self.pages: dict[str, tuple[int, Callable[..., None]]] = {}

    def tasks(self) -> dict[str, Callable[[Request, Send], dict[str, Any]]]:
        return {
            "register": self.register,
            "review": self.review,
            "report": self.report,
            "load": self.load,
            "batch": self.batch,
        }

    def register(self, request: Request, send: Send) -> dict[str, Any]:
        """Files in, files out; without compression, which costs more time than it saves."""
        import SimpleITK as sitk

        from .pipeline import register_and_segment

        folder = Path(request["folder"])
        images = {key: sitk.ReadImage(str(folder / request[key])) for key in IMAGES if request.get(key)}
        points = {key: request[key] for key in POINTS if request.get(key)}

        def progress(stage: str, fraction: float) -> None:
            send({"id": request["id"], "event": "progress", "stage": stage, "fraction": fraction})

        result = register_and_segment(**images, **points, **request.get("options", {}), progress=progress)
        return self._registered(request, result)

    def _registered(self, request: Request, result: Registration) -> dict[str, Any]:
        """What a request for a registration, or for a review that has to register, is answered with."""
        import SimpleITK as sitk

        from . import models, output
        from .deformation import displacement_on, field_lattice
        from .files import grid_of
        from .report import write_html

        folder, names = Path(request["folder"]), {}
        wanted = {*request.get("outputs", OUTPUTS), *ALWAYS}
        for key in output.IMAGES:
            if key in wanted and getattr(result, key) is not None:
                names[key] = f"{key}.nrrd"
                sitk.WriteImage(getattr(result, key), str(folder / names[key]), useCompression=False)
        for key in wanted.intersection(TRANSFORMS):
            names[key] = f"{key}.h5"
            sitk.WriteTransform(getattr(result, key), str(folder / names[key]))
        if INVERSE in wanted:
            names[INVERSE] = f"{INVERSE}.nrrd"
            inverse = displacement_on(result.inverse_transform, field_lattice(grid_of(result.moving)))
            sitk.WriteImage(inverse, str(folder / names[INVERSE]), useCompression=False)
        self.pages["register"] = request["id"], partial(write_html, result)
        model = request.get("options", {}).get("model", models.GENERIC)
        labels = [] if model == models.GENERIC else models.find(model).manifest["labels"]
        return {"files": names, "report": result.report, "labels": labels}

    def review(self, request: Request, send: Send) -> dict[str, Any]:
        """A lung review, of a transform if one is named; see `lung.reviewing`."""
        import SimpleITK as sitk

        from .files import read_transform
        from .lung.gallery import colors
        from .lung.page import write_html
        from .lung.record import PHASES
        from .lung.reviewing import review

        folder, reference = Path(request["folder"]), request["reference"]
        phases = {"fixed": reference, "moving": PHASES[1 - PHASES.index(reference)]}
        given: dict[str, Any] = {}
        for side, phase in phases.items():
            image = given[phase] = sitk.ReadImage(str(folder / request[side]))
            for tag, value in request.get(f"{side}_tags", {}).items():
                image.SetMetaData(tag, value)
            if request.get(f"{side}_labels"):
                labels = sitk.ReadImage(str(folder / request[f"{side}_labels"]))
                identity = sitk.Transform(3, sitk.sitkIdentity)
                given[f"{phase}_lungs"] = sitk.Resample(labels, image, identity, sitk.sitkNearestNeighbor, 0)
            if request.get(f"{side}_points"):
                given[f"{phase}_points"] = request[f"{side}_points"]

        def progress(stage: str, fraction: float) -> None:
            send({"id": request["id"], "event": "progress", "stage": stage, "fraction": fraction})

        found = review(
            **given,
            names={int(value): name for value, name in request["names"].items()} if request.get("names") else None,
            reference=reference,
            transform=read_transform(folder / request["transform"]) if request.get("transform") else None,
            patient=request.get("patient", {}),
            progress=progress,
            **request.get("options", {}),
        )
        images = {"lungs": found.lungs, **found.maps}
        for name, image in images.items():
            sitk.WriteImage(image, str(folder / f"lung_{name}.nrrd"), useCompression=False)
        self.pages["review"] = request["id"], partial(write_html, found)
        files = {name: f"lung_{name}.nrrd" for name in images}
        answer = {"files": files, "report": found.report, "colors": colors(found)}
        if not request.get("transform"):
            answer["registration"] = self._registered(request, found.registration)
        return answer

    def report(self, request: Request, send: Send) -> dict[str, Any]:
        """The page is drawn when somebody wants to see it."""
        if not self.pages:
            raise JointRegSegError("there is no result yet; register two volumes first")
        page = request.get("page", "register")
        number, write = self.pages.get(page, (None, None))
        if write is None or number != request["of"]:
            done = f"{page}ed"
            raise JointRegSegError(f"something else was {done} since, and only the last can be drawn; {page} again")
        write(Path(request["file"]), **({"printed": True} if request.get("printed") else {}))
        return {"file": request["file"]}

    def batch(self, request: Request, send: Send) -> dict[str, Any]:
        """All pairs of a table; see `batch.run_batch`."""
        from .batch import run_batch

        def progress(case: str, fraction: float) -> None:
            send({"id": request["id"], "event": "progress", "stage": case, "fraction": fraction})

        outcome = run_batch(
            Path(request["table"]),
            Path(request["folder"]),
            request.get("options", {}),
            request.get("overwrite", False),
            request.get("given_up"),
            progress,
        )
        return {"rows": outcome.rows, "summary": str(outcome.summary)}

    def load(self, request: Request, send: Send) -> dict[str, Any]:
        """Read a model's weights into memory."""
        from . import models

        if request["model"] != models.GENERIC:
            models.load(models.find(request["model"]))
        return {"model": request["model"]}


if __name__ == "__main__":
    sys.exit(main())
