"""From a plan's subjects to the label maps whose shapes are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from JointRegSegLib.errors import InputError

from ..plan import Plan
from ..subjects import Subject
from .make import References


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


def prepared(subjects: Sequence[Subject], plan: Plan) -> list[Subject]:
    """Subjects as the references see them: mirrored along D where the plan sorts slices and theirs run the other way.

    A mirror image is no deformation of a heart: base would be matched to apex.
    """
    if plan.references is None or not plan.references.sort_slices:
        return list(subjects)
    return [
        replace(s, image=s.image.flip(2), labels=s.labels.flip(2)) if _shrinks(s.labels[0, 0].numpy()) else s
        for s in subjects
    ]


def _shrinks(labels: np.ndarray) -> bool:
    """Whether the labeled area falls along D."""
    area = (labels > 0).sum((1, 2))
    places = np.flatnonzero(area)
    return len(places) > 2 and float(np.corrcoef(places, area[places])[0, 1]) < 0
