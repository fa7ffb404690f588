"""The images and labels a network learns from, on its working lattice and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from JointRegSegLib import files
from JointRegSegLib.catalog import GENERIC
from JointRegSegLib.errors import InputError, JointRegSegError
from JointRegSegLib.geometry import Grid, resample

from .cohort import Row, listed, random_pairs
from .plan import Plan


@dataclass
class Subject:
    """One image of one person.

    ``image`` (1, C, D, H, W) is ready for the network, ``labels`` (1, 1, D, H, W) holds the plan's values, and
    ``known`` (K,) says which of the plan's labels were annotated.
    """

    name: str
    owner: str
    image: torch.Tensor
    labels: torch.Tensor
    known: torch.Tensor


def load(rows: Sequence[Row], plan: Plan, origin: Path | str = "cohort", known: Sequence[str] = ()) -> list[Subject]:
    """Read images and labels and bring them to the plan's working lattice.

    ``known`` are problems of the cohort that were found before, among them all files that do not exist.

    Raises
    ------
    InputError
        If anything is wrong with them; all problems are named, in one list behind those that are ``known``.
    """
    out, problems, orientations = [], list(known), {}
    for row in rows:
        if known and not all(path is None or path.is_file() for path in (row.image, row.labels)):
            continue
        try:
            image = files.read_image(row.image)
            directions = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
            orientations.setdefault(directions, row.image.name)
            out.append(_load(row, image, plan))
        except JointRegSegError as error:
            problems.append(str(error))
    if len(orientations) > 1:
        found = ", ".join(f"{name} in {axes}" for axes, name in sorted(orientations.items()))
        problems.append(
            f"mixed orientations ({found}); bring all images to one, as their headers may not be right (in Slicer by "
            "the module Orient Scalar Volume)"
        )
    if problems:
        raise InputError(listed(origin, problems))
    return out


def _load(row: Row, image: sitk.Image, plan: Plan) -> Subject:
    values, source = files.to_tensor(image)
    labels, known = torch.zeros_like(values), torch.zeros(len(plan.labels), dtype=torch.bool)
    if row.labels is not None:
        drawn = files.to_tensor(files.read_labels(row.labels, image, row.image.name))[0]
        labels = relabeled(drawn, plan, row.labels, row.labeled_by not in (None, GENERIC))
        known = _annotated(row, plan)
    seen, lattice = plan.preprocessing.seen(values, source, center=middle_of(plan, values, labels, source))
    if (lattice.extent < source.spacing).any():
        far = " x ".join(f"{step:g}" for step in source.spacing)
        raise InputError(f"{row.image}: its voxels, {far} mm, are wider than the working lattice; correct its header")
    carried = resample(labels, source, lattice, mode="nearest", fill=0)
    if bool((labels > 0).any()) and not bool((carried > 0).any()):
        raise InputError(
            f"{row.labels}: nothing that is labeled lies on the working lattice; look at preprocessing.size and "
            "spacing, and at the header of the image"
        )
    return Subject(row.name, row.subject, seen, carried, known)


def relabeled(drawn: torch.Tensor, plan: Plan, name: Path, by_model: bool = False) -> torch.Tensor:
    """Values of a label file → values of the plan; any shape.

    A file that is ``by_model`` has the plan's own values, or others that the plan names as sources.

    Raises
    ------
    InputError
        If a value belongs to none of the plan's labels, or none of them is there; ``name`` says of what file.
    """
    table = {origin: label.value for label in plan.labels for origin in label.origins}
    table |= {label.value: label.value for label in plan.labels} if by_model else {}
    found = [int(v) for v in drawn.unique().tolist() if v != 0]
    strange = [v for v in found if v not in table]
    if strange and plan.other_labels == "refuse":
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        which, verb = ("value", "is") if len(strange) == 1 else ("values", "are")
        raise InputError(
            f"{name}: {which} {', '.join(map(str, strange[:5]))}{more} {verb} in no label's list; "
            "add what is missing there, or set other_labels to background"
        )
    if len(strange) == len(found):
        raise InputError(f"{name}: none of the plan's labels is in it; leave the column empty if nothing is drawn")
    lookup = torch.zeros(max(found) + 1)
    for value in found:
        lookup[value] = table.get(value, 0)
    return lookup[drawn.long()]


def _annotated(row: Row, plan: Plan) -> torch.Tensor:
    names = [label.name for label in plan.labels]
    if row.annotated is None:
        return torch.ones(len(names), dtype=torch.bool)
    strange = [name for name in row.annotated if name not in names]
    # A model may segment more than a plan is about, as people may have drawn more.
    if strange and not (row.labeled_by and plan.other_labels == "background"):
        raise InputError(
            f"{row.image}: annotated '{strange[0]}' is none of the plan's labels ({', '.join(names)})"
            + ("; names have to agree, or set other_labels to background" if row.labeled_by else "")
        )
    return torch.tensor([name in row.annotated for name in names])


def middle_of(plan: Plan, image: torch.Tensor, labels: torch.Tensor, grid: Grid) -> np.ndarray:
    """World point (3,) on which the plan centers a (1, 1, D, H, W) image with its labels, in LPS mm.

    With ``center: labels`` it is the middle of the box around what is labeled, if anything is.
    """
    place = labels[0, 0].nonzero()
    if plan.center == "labels" and len(place):
        return grid.to_world((place.amin(0) + place.amax(0)).flip(0).numpy() / 2)
    return plan.preprocessing.middle(image, grid)


def pairs_of(subjects: Sequence[Subject], count: int) -> list[tuple[str, str]]:
    """Names of ``count`` random pairs (moving, fixed) of different people; see `cohort.random_pairs`."""
    return random_pairs([s.name for s in subjects], count, owners=[s.owner for s in subjects])
