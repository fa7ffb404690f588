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

    ``log.jsonl`` has a line for each call, ``tensorboard/`` the same as curves, ``pictures/`` the first pair. Of a run
    that goes on they are as an unbroken one's: what was written after its checkpoint is dropped, and minutes go on.
    """

    def __init__(self, run: Trainer, subjects: Sequence[Subject]) -> None:
        """``subjects`` to validate on, in as many random pairs."""
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.subjects, self.pairs = run, subjects, pairs_of(subjects, len(subjects))
        self.curves = SummaryWriter(run.folder / "tensorboard", purge_step=run.step + 1)
        self.log = run.folder / "log.jsonl"
        self.began = time.monotonic() - 60 * self._take_up()

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        """Report after a step with the mean weighted loss terms since the last report."""
        plan, folder = self.run.plan, self.run.folder
        network = self.run.averaged_network()
        figures = validate(network, self.subjects, self.pairs, plan)
        minutes = (time.monotonic() - self.began) / 60
        row = {"step": step, "minutes": minutes, "loss": terms, "validation": figures}
        with self.log.open("a", encoding="utf-8") as log:
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

    def _take_up(self) -> float:
        """Leave in the log what the run's checkpoint knows of; minutes until then."""
        if not self.log.exists():
            return 0.0
        lines, minutes = [], 0.0
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break  # it was interrupted in writing this
            if row["step"] > self.run.step:
                break
            lines.append(line + "\n")
            minutes = row["minutes"]
        self.log.write_text("".join(lines), encoding="utf-8")
        return minutes
