"""The module's logic without its window: registers nodes, frames and tables through one worker process."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from .. import catalog, memory
from ..client import Worker, WorkerError
from ..errors import InputError
from . import lung, requirements, results, runs, sequences


@dataclass
class BatchResult:
    """``rows`` of the summary, one a case, and the ``summary`` file they were written to."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: Path | None = None

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of cases that did not come to a result; their 'reason' says why."""
        return [row for row in self.rows if row["status"] == "failed"]


class Registrar:
    """Registers and segments. The worker process is started when first needed, kept, and ended by `close`.

    Works without a window and shows no dialog: what is wrong is raised.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.worker = Worker(requirements.python())

    def close(self) -> None:
        """End the worker process."""
        self.worker.close()

    def registerAndSegment(
        self,
        fixedNode: slicer.vtkMRMLScalarVolumeNode,
        movingNode: slicer.vtkMRMLScalarVolumeNode,
        model: str = catalog.GENERIC,
        refine: int = 0,
        *,
        labels: Mapping[str, slicer.vtkMRMLLabelMapVolumeNode] | None = None,
        points: Mapping[str, slicer.vtkMRMLMarkupsNode] | None = None,
        outputs: Sequence[str] = tuple(runs.CHOICES),
        replace: results.SceneResult | None = None,
        progress: Callable[[str, float], bool | None] | None = None,
        **options: Any,
    ) -> results.SceneResult:
        """Register and segment two volume nodes; blocks until the result is in the scene.

        Parameters
        ----------
        fixedNode, movingNode : vtkMRMLScalarVolumeNode
            Registered where they are seen: parent transforms count. Neither is changed.
        model : str
            A name from the list of models, or a bundle's folder.
        refine : int
            Steps of optimization on the pair itself after the network.
        labels, points : dict, optional
            Label map and markups nodes by 'fixed' and 'moving', to measure overlap and error; they never influence the
            registration.
        outputs : sequence of str
            Some of 'inverse', 'jacobian', 'segmentations', 'agreement'.
        replace : SceneResult, optional
            An earlier result to remove once the new one is there.
        progress : callable, optional
            ``progress(stage, fraction)``; returning False cancels.
        options
            ``similarity``, ``align``, ``working_size``, ``device_name``, ``seed``: see `JointRegSegLib.register`.

        Returns
        -------
        SceneResult
            ``nodes`` by role, ``report`` with the quality figures, ``verdict``.

        Raises
        ------
        InputError, ModelError, WorkerError, Canceled
            Why nothing came of it; the scene is as it was.
        """
        run = self.start(
            fixedNode,
            movingNode,
            {"model": str(model), "refine": refine, **options},
            labels=labels,
            points=points,
            outputs=outputs,
            replaced=replace,
        )
        return run.wait(progress)

    def start(self, fixed: slicer.vtkMRMLNode, moving: slicer.vtkMRMLNode, options: dict, **more: Any) -> runs.Run:
        """Begin a registration and return at once; see `runs.Run`.

        Raises
        ------
        MissingPackages
            If Slicer's Python lacks something.
        InputError
            If a volume cannot be registered as it is.
        """
        requirements.check()
        return runs.Run(self.worker, slicer.mrmlScene, fixed, moving, options, **more)

    def reviewLungs(
        self,
        result: results.SceneResult | slicer.vtkMRMLTransformNode | None,
        fixedNode: slicer.vtkMRMLScalarVolumeNode | None = None,
        movingNode: slicer.vtkMRMLScalarVolumeNode | None = None,
        *,
        fixedIs: str = "inhale",
        lungs: Mapping[str, lung.Lungs] | None = None,
        points: Mapping[str, slicer.vtkMRMLMarkupsNode] | None = None,
        patient: Mapping[str, str] | None = None,
        progress: Callable[[str, float], bool | None] | None = None,
        **options: Any,
    ) -> lung.LungReview:
        """Review how lungs move and expand between two scans; blocks until the maps are in the scene.

        Parameters
        ----------
        result : SceneResult or vtkMRMLTransformNode or None
            A registration of this module, or any transform of matrices and displacement grids that brings the moving
            volume onto the fixed one when applied to it. None: the two are registered, lungs sliding along the wall.
        fixedNode, movingNode : vtkMRMLScalarVolumeNode, optional
            The two scans; by default those of the result.
        fixedIs : 'inhale' or 'exhale'
            What the fixed one is. Whether the lungs say the same is among the review's warnings.
        lungs : dict, optional
            Label map or segmentation nodes by 'fixed' and 'moving'; lungs in CT are found by themselves.
        points : dict, optional
            Markups nodes by 'fixed' and 'moving', corresponding: they give the error.
        patient : dict, optional
            What the report calls the patient; without it names nobody.
        progress : callable, optional
            ``progress(stage, fraction)``; returning False cancels.
        options
            Of a registration, see `registerAndSegment`.

        Returns
        -------
        LungReview
            ``report`` with warnings and the figures of all regions, ``maps`` by measure.

        Raises
        ------
        InputError, WorkerError, Canceled
            Why nothing came of it; the scene is as it was.
        """
        if result is not None and not isinstance(result, results.SceneResult):
            if not isinstance(result, slicer.vtkMRMLTransformNode):
                raise InputError("result is what registerAndSegment returned, a transform node, or None")
            result = results.SceneResult(nodes={"transform": result})
        for name, given in (("lungs", lungs), ("points", points), ("patient", patient)):
            if given is not None and not isinstance(given, Mapping):
                raise InputError(f"{name} is a dictionary, not {given!r}")
        if result is not None and fixedNode is None and movingNode is None:
            fixedNode, movingNode = lung.scans(result)
        if fixedNode is None or movingNode is None:
            raise InputError("a review needs both scans, fixedNode and movingNode")
        run = self.startReview(result, fixedNode, movingNode, fixedIs, lungs, points, patient, options)
        return run.wait(progress)

    def startReview(self, *arguments: Any, **more: Any) -> lung.LungRun:
        """Begin a review and return at once; takes what `lung.LungRun` takes after worker and scene.

        Raises
        ------
        MissingPackages
            If Slicer's Python lacks something.
        InputError
            If something cannot be reviewed as it is.
        """
        requirements.check()
        return lung.LungRun(self.worker, slicer.mrmlScene, *arguments, **more)

    def writeLungReport(self, review: lung.LungReview, path: str | Path) -> Path:
        """Write the page of the last review, while the process that made it runs.

        Raises
        ------
        JointRegSegError
            If another review was made since, or the file cannot be written.
        """
        path = Path(path).absolute()
        self.worker.wait(self.worker.submit("report", of=review.request, page="review", file=str(path)))
        return path

    def registerSequence(
        self,
        fixedNode: slicer.vtkMRMLScalarVolumeNode,
        sequenceNode: slicer.vtkMRMLSequenceNode,
        model: str = catalog.GENERIC,
        refine: int = 0,
        progress: Callable[[int, int], bool | None] | None = None,
        **options: Any,
    ) -> sequences.SequenceResult:
        """Register all frames of a sequence to one volume: sequences of warped volumes and of transforms.

        Raises
        ------
        InputError
            If it is no sequence of volumes, or an option is unknown. What goes wrong with a single frame is in the
            result's ``failures``.
        """
        runs.check_options(options)
        runs.image_seen(fixedNode, "fixed volume")

        def register(frame: slicer.vtkMRMLScalarVolumeNode) -> results.SceneResult:
            return self.registerAndSegment(fixedNode, frame, model, refine, outputs=(), **options)

        return sequences.register_frames(slicer.mrmlScene, sequenceNode, register, progress)

    def registerBatch(
        self,
        cases: str | Path | Sequence[Mapping[str, str]],
        outputFolder: str | Path,
        model: str = catalog.GENERIC,
        refine: int = 0,
        *,
        overwrite: bool = False,
        progress: Callable[[str, float], bool | None] | None = None,
        **options: Any,
    ) -> BatchResult:
        """Register pairs of files, one folder each, with a summary; goes on where it stopped.

        A bad case does not stop the others, not even one that kills the computing process.

        Parameters
        ----------
        cases : path or sequence of dict
            A CSV, or its rows: 'fixed', 'moving' and optionally 'case', 'moving_labels', 'fixed_labels',
            'moving_points', 'fixed_points'.

        Raises
        ------
        InputError, ModelError, OutputError
            If the table, an option, the model or the folder cannot be used at all.
        """
        runs.check_options(options)
        requirements.check()
        folder = Path(outputFolder).absolute()
        request = {
            "folder": str(folder),
            "options": {"model": str(model), "refine": refine, **options},
            "overwrite": overwrite,
        }
        with tempfile.TemporaryDirectory() as place:
            table = cases if isinstance(cases, str | Path) else _table(cases, Path(place) / "cases.csv")
            given_up: dict[str, str] = {}
            while True:
                current = [""]

                def follow(case: str, fraction: float, current: list[str] = current) -> bool | None:
                    current[0] = case
                    return progress(case, fraction) if progress else None

                number = self.worker.submit("batch", table=str(Path(table).absolute()), given_up=given_up, **request)
                try:
                    event = self.worker.wait(number, follow)
                    return BatchResult(event["rows"], Path(event["summary"]))
                except InputError as error:
                    if table is cases:
                        raise
                    raise InputError(str(error).replace(str(table), "cases"), error.option) from None
                except WorkerError as error:
                    if not current[0] or current[0] in given_up or self.worker.running:
                        raise
                    given_up[current[0]] = str(error)
                    # What was done before it is kept; doing that anew would never end.
                    request["overwrite"] = False


def memory_needed(fixed: slicer.vtkMRMLNode, moving: slicer.vtkMRMLNode, entry: dict, side: int) -> float:
    """About how many bytes a run takes at its peak; ``entry`` is of `catalog.entries`, ``side`` generic's in voxels."""
    voxels = [node.GetImageData().GetNumberOfPoints() for node in (fixed, moving)]
    lattices = [math.prod(entry["preprocessing"]["size"])] if "preprocessing" in entry else []
    if not lattices or entry.get("refinement", {}).get("anew"):
        lattices.append(min(voxels[0], side**3))
    return memory.estimate(*voxels, max(lattices))


def outside_domain(node: slicer.vtkMRMLScalarVolumeNode, role: str, entry: dict) -> str | None:
    """What about a volume's lattice is unlike the model's training data, as a sentence; the run itself looks closer."""
    domain = entry.get("domain")
    if domain is None or node.GetImageData() is None:
        return None
    unit = entry["preprocessing"].get("unit", "mm")
    spacing = node.GetSpacing() if unit == "mm" else (1.0, 1.0, 1.0)
    extent = [s * n for s, n in zip(spacing, node.GetImageData().GetDimensions(), strict=True)]
    for what, values, (low, high) in (("spacing", spacing, domain["spacing"]), ("size", extent, domain["extent"])):
        # Padding makes an image larger without harm: only what is too small is told by the size.
        too_large = what == "spacing" and max(values) > high * (1 + catalog.TOLERANCE)
        if min(values) < low * (1 - catalog.TOLERANCE) or too_large:
            text = " x ".join(f"{value:.3g}" for value in values)
            known = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            return f"{role} volume: {what} of {text} {unit}, trained on {known} {unit}"
    return None


def _table(rows: Sequence[Mapping[str, str]], path: Path) -> Path:
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError("cases are a CSV file, or a list of dictionaries of files by column ('fixed', 'moving', …)")
    if not rows:
        raise InputError("the list of cases is empty")
    if not all(isinstance(value, str | Path) for row in rows for value in row.values() if value is not None):
        raise InputError("cases name files; to register volume nodes call registerAndSegment")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            names = {k: v if k == "case" else str(Path(v).absolute()) for k, v in row.items() if v}
            writer.writerow(names)
    return path
