"""From a plan's subjects to the label maps whose shapes are matched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from JointRegSegLib import fields
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import affine_coordinates

from ..plan import Plan, Shapes
from ..subjects import Subject
from .make import References

#: Of what references follow from, the angle that `prepared` turned their subjects toward.
TOWARD = "toward"


def settings_of(plan: Plan) -> References:
    """What a plan says of its references, in array order.

    Raises
    ------
    InputError
        If it says nothing.
    """
    if plan.references is None:
        raise InputError("the configuration has no entry 'references', which says what shapes to match")
    return References(plan.references.structures, plan.references.spacing[::-1], plan.references.edge)


def origin_of(plan: Plan) -> dict[str, Any]:
    """All of a plan that references follow from, by its key, as JSON holds it."""
    lattice = {f"preprocessing.{key}": getattr(plan.preprocessing, key) for key in ("size", "spacing", "orientation")}
    shapes = {f"references.{key}": value for key, value in asdict(plan.references).items()} if plan.references else {}
    return json.loads(json.dumps(lattice | shapes))


def label_map(subject: Subject) -> np.ndarray:
    """Labels (D, H, W) of a subject, whole numbers."""
    return subject.labels[0, 0].numpy().astype(np.int32)


def mean_direction(subjects: Sequence[Subject], plan: Plan) -> float | None:
    """Angle, from W toward H, toward which `prepared` turns these subjects, where the plan wants that."""
    if plan.references is None or not plan.references.turn:
        return None
    toward = [_direction(s.labels[0, 0].numpy(), plan.references) for s in _sorted(subjects, plan.references)]
    return float(np.angle(sum(direction for direction in toward if direction is not None)))


def prepared(subjects: Sequence[Subject], plan: Plan, toward: float | None) -> list[Subject]:
    """Subjects as the references see them: mirrored along D and turned within slices, where the plan wants that.

    A mirror image is no deformation of a heart: base would be matched to apex. Turned are those alone in which both the
    first and the last structure were drawn, by ``toward``, the `mean_direction` of all of whom references are made.
    """
    shapes, subjects = plan.references, list(subjects)
    if shapes is None:
        return subjects
    subjects = _sorted(subjects, shapes)
    if toward is not None:
        directions = [_direction(s.labels[0, 0].numpy(), shapes) for s in subjects]
        subjects = [
            s if direction is None else _turned(s, float(toward - np.angle(direction)))
            for s, direction in zip(subjects, directions, strict=True)
        ]
    return subjects


def _sorted(subjects: Sequence[Subject], shapes: Shapes) -> list[Subject]:
    return [
        replace(s, image=s.image.flip(2), labels=s.labels.flip(2))
        if shapes.sort_slices and _shrinks(s.labels[0, 0].numpy())
        else s
        for s in subjects
    ]


def _direction(labels: np.ndarray, shapes: Shapes) -> complex | None:
    """Where the last structure lies from the first one, within slices: a number of unit length, W real, H imaginary."""
    first, last = (np.argwhere(np.isin(labels, shapes.structures[n])) for n in (0, -1))
    if not (len(first) and len(last)):
        return None
    _, down, right = (last.mean(0) - first.mean(0)) * shapes.spacing[::-1]
    way = complex(right, down)
    return way / abs(way) if way else None


def _turned(subject: Subject, angle: float) -> Subject:
    """Turned within slices, whose voxels are square, about the lattice's middle by ``angle`` from W toward H."""
    back = np.eye(3)
    back[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = (np.array(subject.image.shape[2:]) - 1) / 2
    matrix = fields.affine_matrix(back, np.zeros(3), middle)
    displacement = affine_coordinates(matrix - np.eye(4), subject.image.shape[2:], torch.empty(0))
    image, labels = fields.warp(subject.image, displacement), fields.warp(subject.labels, displacement, "nearest", 0)
    return replace(subject, image=image, labels=labels)


def _shrinks(labels: np.ndarray) -> bool:
    """Whether the labeled area falls along D."""
    area = (labels > 0).sum((1, 2))
    places = np.flatnonzero(area)
    return len(places) > 2 and float(np.corrcoef(places, area[places])[0, 1]) < 0
