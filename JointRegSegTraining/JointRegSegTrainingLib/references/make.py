"""References of a cohort on disk: computed once, in parallel, and continued after an interruption.

``points/NAME-KEY.npy`` holds where the template's points lie in a subject, ``velocities/FIXED-MOVING-KEY.npy`` the
velocity field of a pair, and ``references.json`` which points belong together. A key is a digest of all that the file
follows from, settings included; so a file with the right name has the right content, and changed settings or labels
lead to other names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from JointRegSegLib import fields
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.progress import Progress, silent, tell

from .currents import Matching
from .pair import Interpolation, velocity_between
from .template import choose, correspondences

INDEX = "references.json"
POINTS, VELOCITIES = FOLDERS = ("points", "velocities")
#: Of the method; part of every key, to be raised when the code comes to give other fields.
VERSION = 1


@dataclass(frozen=True)
class References:
    """What decides the references of a cohort.

    Attributes
    ----------
    structures : tuple of tuples of int
        Each a union of labels with one closed surface; a wall is given with the cavity in it, since its own surface
        has an inner side too.
    spacing : (float, float, float)
        Of the working lattice along D, H, W in mm; the true one, which a header may not have.
    edge : float
        Size of the surfaces' triangles in mm; the points of the template's become landmarks. All surfaces have the
        same, because a polyhedron with its corners on a round shape is the smaller, the coarser it is.
    """

    structures: tuple[tuple[int, ...], ...]
    spacing: tuple[float, float, float]
    edge: float = 12.0
    matching: Matching = field(default_factory=Matching)
    interpolation: Interpolation = field(default_factory=Interpolation)


def make_points(
    labels: Mapping[str, np.ndarray],
    settings: References,
    folder: Path,
    processes: int | None = None,
    progress: Progress = silent,
    origin: Mapping[str, Any] | None = None,
) -> str:
    """Match the template to every subject of a cohort; subjects whose file exists are skipped.

    Parameters
    ----------
    labels : mapping
        Name → label map (D, H, W), whole numbers, all on the working lattice.
    folder : Path
        Where `PairVelocities` will find them.
    processes : int, optional
        As many as there are processors by default; 1 computes in this one.
    origin : mapping, optional
        What else the labels follow from, as JSON can hold it, by its name: kept as `PairVelocities.origin`.

    Returns
    -------
    str
        Name of the template.

    Raises
    ------
    InputError
        If a subject lacks a structure; the others are computed all the same.
    OutputError
        If the folder cannot be written to, or holds anything else.
    """
    shapes = {array.shape for array in labels.values()}
    if len(labels) < 2 or len(shapes) != 1:
        raise InputError("references need at least two label maps, all on one lattice")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = [p.name for p in folder.iterdir() if not p.name.startswith((".", INDEX)) and p.name not in FOLDERS]
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    if strange:
        raise OutputError(f"{folder}: holds '{min(strange)}', which is no reference; name another folder")
    template = choose(labels, settings.structures)
    shared = [asdict(settings) | {"interpolation": None}, labels[template]]
    files = {name: f"{name}-{_digest(*shared, array)}.npy" for name, array in sorted(labels.items())}
    arguments = (settings.structures, settings.spacing, settings.edge, settings.matching)
    jobs = {
        folder / POINTS / files[name]: (correspondences, labels[template], array, *arguments, name)
        for name, array in labels.items()
    }
    _compute(jobs, processes, progress, "Matching surfaces")
    index = {"template": template, "shape": shapes.pop(), "points": files, "origin": dict(origin or {})}
    index |= asdict(settings) | {"labels": {name: _digest(array) for name, array in labels.items()}}
    temporary = folder / f"{INDEX}.{os.getpid()}"
    temporary.write_text(json.dumps(index, indent=1))
    temporary.replace(folder / INDEX)
    return template


class PairVelocities:
    """Velocity fields between the subjects of a folder that `make_points` filled, computed when first asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the folder has no references."""
        self.folder = Path(folder)
        path = self.folder / INDEX
        try:
            index = json.loads(path.read_text())
            self.points = {}
            for name, file in index["points"].items():
                path = self.folder / POINTS / file
                self.points[name] = np.load(path, allow_pickle=False)
        except OSError as error:
            said = f"{path}: cannot be read ({error.strerror}), so that the folder holds no references"
            raise InputError(f"{said}; make them first (make-references)") from None
        except (ValueError, KeyError, TypeError, EOFError):
            raise InputError(f"{path}: is damaged; remove it and run make-references again") from None
        self.template, self.shape, self.spacing = index["template"], tuple(index["shape"]), index["spacing"]
        self.origin, self._labels = index.get("origin", {}), index.get("labels", {})
        how = index["interpolation"]
        self.how = Interpolation(**how | {"stride": tuple(how["stride"])})

    def made_of(self, name: str, labels: np.ndarray) -> bool:
        """Whether a subject's reference was made of that label map, as far as the folder tells."""
        return self._labels.get(name) in (None, _digest(labels))

    def __call__(self, fixed: str, moving: str) -> torch.Tensor:
        """v whose exponential takes points of ``fixed`` to ``moving``, (1, 3, D, H, W) in voxels of the lattice.

        exp(v) warps the moving image onto the fixed one, as `Prediction.forward` does.
        """
        path, job = self._job(fixed, moving)
        if not path.exists():
            _store(path, *job)
        try:
            coarse = np.load(path, allow_pickle=False)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); look at its permissions") from None
        except (ValueError, EOFError):
            raise InputError(f"{path}: is damaged; remove it, and it is made anew") from None
        return fields.resize(torch.from_numpy(coarse).float(), self.shape)

    def make(self, pairs: Iterable[tuple[str, str]], processes: int | None = None, progress: Progress = silent) -> None:
        """Compute pairs (fixed, moving) beforehand, in parallel; those that exist are skipped."""
        _compute(dict(self._job(*pair) for pair in pairs), processes, progress, "Velocity fields")

    def _job(self, fixed: str, moving: str) -> tuple[Path, tuple]:
        for name in (fixed, moving):
            if name not in self.points:
                raise InputError(f"{self.folder}: holds no reference of '{name}'; make them anew with this subject")
        arguments = (self.points[fixed], self.points[moving], self.shape, self.spacing, self.how)
        key = _digest(*arguments[:2], [self.shape, self.spacing, asdict(self.how)])
        return self.folder / VELOCITIES / f"{fixed}-{moving}-{key}.npy", (_half_precision, *arguments)


def _half_precision(
    fixed: np.ndarray, moving: np.ndarray, shape: Sequence[int], spacing: Sequence[float], how: Interpolation
) -> np.ndarray:
    """Precise to 1/100 voxel up to 32 voxels, and half as large."""
    return velocity_between(fixed, moving, shape, spacing, how).numpy().astype(np.float16)


def _digest(*parts: Any) -> str:
    """Of arrays, and of settings that JSON can hold."""
    out = hashlib.sha256(str(VERSION).encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            out.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            out.update(json.dumps(part, sort_keys=True).encode())
    return out.hexdigest()[:16]


def _store(path: Path, function: Callable[..., np.ndarray], *arguments: Any) -> None:
    """Write an array in one move, so that a file is whole or not there."""
    found, temporary = function(*arguments), path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, found, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); name another folder") from None


def _compute(jobs: Mapping[Path, tuple], processes: int | None, progress: Progress, stage: str) -> None:
    """Store what is missing; what cannot be made is reported when all the rest is done."""
    missing = [(path, *job) for path, job in jobs.items() if not path.exists()]
    failures = []
    for count, error in enumerate(_outcomes(missing, processes), 1):
        if error is not None:
            failures.append(str(error))
        tell(progress, stage, count / len(missing))
    if failures:
        raise InputError("; ".join(sorted(set(failures))))  # the template lacks the same for all


def _outcomes(jobs: Sequence[tuple], processes: int | None) -> Iterator[InputError | None]:
    if processes == 1 or len(jobs) < 2:
        yield from (_attempt(*job) for job in jobs)
        return
    # Torch's threads do not survive a fork; and one thread for each process is what the processors hold.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(_attempt, *job) for job in jobs]))
        finally:  # what has not begun when the caller cancels never does
            pool.shutdown(cancel_futures=True)


def _attempt(path: Path, function: Callable[..., np.ndarray], *arguments: Any) -> InputError | None:
    try:
        _store(path, function, *arguments)
    except InputError as error:
        return error
    return None
