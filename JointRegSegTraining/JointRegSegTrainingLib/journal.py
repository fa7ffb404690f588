"""What a run tells of itself on the way: lines, a log, TensorBoard, pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import torch
from JointRegSegLib.terminal import say

from .evaluation import validate
from .picture import draw
from .subjects import Subject, pairs_of
from .trainer import Trainer


class Journal:
    """Validates the run's averaged network when it is called, and writes down what it finds.

    ``log.jsonl`` has a line for each call, ``tensorboard/`` the same as curves, ``pictures/`` the first pair.
    """

    def __init__(self, run: Trainer, subjects: Sequence[Subject]) -> None:
        """``subjects`` to validate on, in as many random pairs."""
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.subjects, self.pairs = run, subjects, pairs_of(subjects, len(subjects))
        self.curves = SummaryWriter(run.folder / "tensorboard", purge_step=run.step + 1)
        self.began = time.monotonic()

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        """Report after a step with the mean weighted loss terms since the last report."""
        plan, folder = self.run.plan, self.run.folder
        network = self.run.averaged_network()
        figures = validate(network, self.subjects, self.pairs, plan)
        minutes = (time.monotonic() - self.began) / 60
        row = {"step": step, "minutes": minutes, "loss": terms, "validation": figures}
        with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        for group, values in (("loss", terms), ("validation", figures)):
            for key, value in values.items():
                self.curves.add_scalar(f"{group}/{key}", value, step)
        named = {s.name: s for s in self.subjects}
        moving, fixed = (named[name] for name in self.pairs[0])
        picture = draw(network, moving, fixed, plan, folder / "pictures" / f"step_{step:06d}.png")
        self.curves.add_image("validation/pair", torch.from_numpy(picture), step, dataformats="HWC")
        self.curves.flush()
        say(
            f"step {step}/{plan.steps}, {minutes:.1f} min, loss {sum(terms.values()):.3f}; validation: "
            + ", ".join(f"{k} {v:.3f}" for k, v in figures.items())
        )
