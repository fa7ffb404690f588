"""Labels by a model where nobody drew any: the noisy labels that Estienne et al. 2020 train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk
import torch
from JointRegSegLib import domain, files, models
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.networks import RegistrationNetwork
from JointRegSegLib.pipeline import segmentation_on

from . import cohort
from .evaluation import class_scores

#: Says whose labels a folder holds.
ORIGIN = "pseudo-labels.json"


@dataclass(frozen=True)
class Outcome:
    """How many images were labeled, how many had been before, and how those labeled are unlike the model's own."""

    done: int
    kept: int
    warnings: tuple[str, ...] = ()


def label_cohort(
    rows: Sequence[cohort.Row],
    bundle: models.Bundle,
    folder: Path,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Segment the training images of a cohort that have no labels.

    Writes ``labels/NAME.nii.gz``, each in one move so that a second call goes on where the first one stopped, and at
    the end ``cohort.csv``, in which these images have the model's labels as annotated, and the model as ``labeled_by``.
    Images to validate and to test on stay as they are: a model's own labels would measure nothing there.

    Raises
    ------
    InputError
        If nothing is to be labeled, an image cannot be read, or the folder holds labels of another model.
    ModelError
        If the model cannot be loaded.
    """
    wanted = [row for row in rows if row.labels is None and row.split == "train"]
    if not wanted:
        raise InputError("every training image of the cohort has labels already")
    if not bundle.label_values:
        raise InputError(f"model '{bundle.name}' does not segment; choose one that does")
    network = models.load(bundle).to(device)
    _claim(folder, bundle)
    names = tuple(label["name"] for label in bundle.manifest["labels"])
    labeled, warnings, done = {}, [], 0
    for count, row in enumerate(wanted):
        path = folder / "labels" / f"{row.name}.nii.gz"
        if not path.is_file():
            part = path.with_name(f".{path.name}")
            drawn, strange = segment(network, bundle, files.read_image(row.image), device, row.name)
            files.write_image(drawn, part)
            part.replace(path)
            warnings += strange
            done += 1
        labeled[row] = replace(row, labels=path, annotated=names, labeled_by=bundle.name)
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


def _claim(folder: Path, bundle: models.Bundle) -> None:
    """Make the folder, and refuse one with another model's labels."""
    mark = {"name": bundle.name, "sha256": bundle.manifest["sha256"]}
    path = folder / ORIGIN
    try:
        (folder / "labels").mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            path.write_text(json.dumps(mark), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    except ValueError:
        found = None
    if found != mark:
        raise InputError(f"{path}: the folder holds labels of another model; choose another folder")
