"""Labels where nobody drew any: by a model, the noisy labels that Estienne et al. 2020 train on, or carried over."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
import torch
from JointRegSegLib import domain, files, models
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.networks import RegistrationNetwork
from JointRegSegLib.pipeline import register_and_segment
from JointRegSegLib.segmentation import segmentation_on

from . import cohort
from .evaluation import class_scores
from .runs import alone

#: Says whose labels a folder holds, and of which images.
ORIGIN, SEEN = "pseudo-labels.json", "labeled-images.json"


@dataclass(frozen=True)
class Outcome:
    """How many images were labeled, how many had been before, and how those labeled are unlike the model's own."""

    done: int
    kept: int
    warnings: tuple[str, ...] = ()


class Labeler(Protocol):
    """Who labels an image.

    Attributes
    ----------
    name : str
        What ``labeled_by`` says.
    origin : dict
        What decides about the labels: a folder holds those of one origin.
    annotated : tuple of str or None
        Names of the structures that it labels, None for all.
    """

    name: str
    origin: dict[str, Any]
    annotated: tuple[str, ...] | None

    def __call__(self, row: cohort.Row) -> tuple[sitk.Image, list[str]]:
        """Labels of an image on its own grid, and what is to be warned of, a sentence each."""
        ...


class Segmenting:
    """A model segments."""

    def __init__(self, bundle: models.Bundle, where: torch.device) -> None:
        """Raise `InputError` if the model does not segment, `ModelError` if it cannot be loaded."""
        if not bundle.label_values:
            raise InputError(f"model '{bundle.name}' does not segment; choose one that does")
        self.bundle, self.where, self.name = bundle, where, bundle.name
        self.network = models.load(bundle).to(where)
        self.origin = {"name": bundle.name, "sha256": bundle.manifest["sha256"]}
        self.annotated = tuple(label["name"] for label in bundle.manifest["labels"])

    def __call__(self, row: cohort.Row) -> tuple[sitk.Image, list[str]]:
        """See `Labeler`."""
        return segment(self.network, self.bundle, files.read_image(row.image), self.where, row.name)


class Carrying:
    """Registration by `generic` carries over what people drew in other training images, and these vote.

    So the labels of one atlas, or of a few, come to all images of a cohort (multi-atlas segmentation, Heckemann et al.
    2006); where as many vote for one label as for another, the atlas that is asked first decides.
    """

    def __init__(self, rows: Sequence[cohort.Row], count: int, where: str) -> None:
        """``count`` drawn images, or all that there are, are carried to each; raise `InputError` if there is none."""
        self.drawn = [row for row in rows if row.split == "train" and row.labels and not row.labeled_by]
        if not self.drawn:
            raise InputError("no training image of the cohort has labels that people drew, to be carried over")
        known = {row.annotated for row in self.drawn}
        if len(known) > 1:
            raise InputError("labels of some structures in one image and of others in another cannot be carried over")
        (self.annotated,) = known
        self.count, self.where, self.name = count, where, models.GENERIC
        drawn = {row.name: [files.stamp(row.image), files.stamp(row.labels)] for row in self.drawn}
        self.origin = {"name": models.GENERIC, "atlases": count, "drawn": drawn}

    def __call__(self, row: cohort.Row) -> tuple[sitk.Image, list[str]]:
        """See `Labeler`; each image has its own choice of atlases, none of the same person while there are others."""
        others = [drawn for drawn in self.drawn if drawn.subject != row.subject] or self.drawn
        begin = sum(row.name.encode()) % len(others)  # so that all atlases count alike, the same in every run
        carried, warnings = [], []
        for atlas in (others[begin:] + others[:begin])[: self.count]:
            found = register_and_segment(
                row.image,
                atlas.image,
                models.GENERIC,
                moving_labels=atlas.labels,
                align="center",
                device_name=self.where,
            )
            if found.verdict == "red":
                warnings.append(f"{row.name}: the registration of {atlas.name} is doubtful; look at these labels")
            carried.append(found.warped_labels)
        return voted(carried), warnings


def label_cohort(
    rows: Sequence[cohort.Row],
    labeler: Labeler,
    folder: Path,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Label the training images of a cohort that have no labels.

    Writes ``labels/NAME.nii.gz``, each in one move so that a second call goes on where the first one stopped, anew
    where the image has changed, and at the end ``cohort.csv``, in which these images have the labels as annotated, and
    whose they are as ``labeled_by``. Images to validate and to test on stay as they are: labels that nobody drew would
    measure nothing there.

    Raises
    ------
    InputError
        If nothing is to be labeled, an image cannot be read, or the folder holds labels of another origin.
    OutputError
        If the folder holds anything else, cannot be written to, or another process works there.
    """
    wanted = [row for row in rows if row.labels is None and row.split == "train"]
    if not wanted:
        raise InputError("every training image of the cohort has labels already")
    _claim(folder, labeler.origin)
    with alone(folder):
        labeled, warnings, done = {}, [], 0
        stamps = _json(folder / SEEN) or {}
        for count, row in enumerate(wanted):
            path = folder / "labels" / f"{row.name}.nii.gz"
            stamp = files.stamp(row.image)
            if not path.is_file() or stamps.get(row.name) != stamp:
                part = path.with_name(f".{path.name}")
                drawn, strange = labeler(row)
                files.write_image(drawn, part)
                part.replace(path)
                stamps[row.name] = stamp
                _write(folder / SEEN, stamps)
                warnings += strange
                done += 1
            labeled[row] = replace(row, labels=path, annotated=labeler.annotated, labeled_by=labeler.name)
            if progress:
                progress((count + 1) / len(wanted))
        cohort.write(folder / "cohort.csv", [labeled.get(row, row) for row in rows])
    return Outcome(done, len(wanted) - done, tuple(warnings))


def segment(
    network: RegistrationNetwork, bundle: models.Bundle, image: sitk.Image, device: torch.device, name: str = "image"
) -> tuple[sitk.Image, list[str]]:
    """The bundle's labels of one image, on the image's own grid; background where the working lattice ends.

    With them comes how the image, called ``name``, is unlike those that the model was trained on, a sentence each.

    Raises
    ------
    InputError
        If the network does not segment.
    """
    values, grid = files.to_tensor(image)
    seen, lattice = bundle.preprocessing.seen(values, grid)
    scores = class_scores(network, seen.to(device))
    if scores is None:
        raise InputError(f"model '{bundle.name}' does not segment; choose one that does")
    found = scores.softmax(1).float().cpu()
    warnings = domain.unlike(bundle, name, values, grid, found, lattice)
    return segmentation_on(found, lattice, image, bundle.label_values), warnings


def voted(labels: Sequence[sitk.Image]) -> sitk.Image:
    """The label that most of several maps on one grid have in a voxel, of equals that of the earliest map."""
    maps = np.stack([sitk.GetArrayViewFromImage(image) for image in labels])
    votes = np.stack([(maps == one).sum(0, dtype=np.uint8) for one in maps])
    out = sitk.GetImageFromArray(np.take_along_axis(maps, votes.argmax(0)[None], 0)[0])
    out.CopyInformation(labels[0])
    return out


def _claim(folder: Path, mark: dict[str, Any]) -> None:
    """Make the folder, and refuse one with labels of another origin than ``mark``, or with anything else."""
    path = folder / ORIGIN
    try:
        # Hidden files are those of file managers.
        if not path.is_file() and folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise OutputError(f"{folder}: is not empty and holds no labels of a model; name another folder")
        (folder / "labels").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    if not path.is_file():
        _write(path, mark)
    if _json(path) != mark:
        raise InputError(f"{path}: the folder holds labels of another model or cohort; choose another folder")


def _json(path: Path) -> Any:
    """What a file holds; None where it is damaged, or there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, found: dict[str, Any]) -> None:
    """In one move."""
    part = path.with_name(f".{path.name}")
    try:
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None
