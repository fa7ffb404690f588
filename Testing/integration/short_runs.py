"""Trainings of a few steps, and what they report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import PLAN
from JointRegSegTrainingLib import trainer

SHORT = replace(PLAN, steps=8)
#: DeepAtlas, whose two networks take turns.
TURNS = replace(
    SHORT,
    network="deepatlas",
    arguments={"encoder": [4, 8], "decoder": [8, 8, 4], "channels": [4, 8], "convolutions": 1},
    alternate={"segmentation": 1, "registration": 2},
    complete=True,
    rate=1e-2,
)


class Stopped(Exception):
    """Stands for whatever ends a training: a power cut, a full disk, a user."""


def losses_of(run: trainer.Trainer, stop: int | None = None) -> dict[int, dict[str, float]]:
    """Train to the end, or until a report after ``stop`` steps breaks off; the loss terms reported on the way."""
    seen = {}

    def report(step: int, terms: dict[str, float]) -> None:
        seen[step] = terms
        if step == stop:
            raise Stopped

    if stop is None:
        run.run(every=2, report=report)
    else:
        with pytest.raises(Stopped):
            run.run(every=2, report=report)
    return seen
