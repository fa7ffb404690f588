"""SVF-Net's own training: the velocity of each pair was made from its shapes beforehand (Rohé et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from JointRegSegLib import fields, losses
from JointRegSegLib.errors import InputError
from torch import nn

from ..objective import memberships
from ..plan import Plan
from ..references.make import PairVelocities
from ..references.shapes import TOWARD, label_map, origin_of, prepared
from ..subjects import Subject
from .pairs import Pairs


class References(Pairs):
    """Pairs with their reference velocities; the only variation is a shift of both images within slices, as published.

    Pairs whose reference folds are left out: they would teach what the network must not do.
    """

    def __init__(self, plan: Plan, subjects: Sequence[Subject], folder: Path, device: torch.device) -> None:
        """``folder`` was filled by ``make-references`` with these subjects; those without all labels do not count."""
        self.velocities = PairVelocities(folder)
        subjects = [s for s in subjects if s.known.all()]
        subjects = prepared(subjects, plan, self.velocities.origin.get(TOWARD))
        super().__init__(plan, subjects, device)
        made, now = self.velocities.origin, origin_of(plan)
        if other := [key for key, value in now.items() if key in made and made[key] != value]:
            raise InputError(
                f"{folder}: its references were made with another {' and '.join(other)}; run make-references with this "
                "configuration, into another folder"
            )
        self.names = [s.name for s in subjects]
        if missing := [name for name in self.names if name not in self.velocities.points]:
            raise InputError(
                f"{folder}: holds no reference of {', '.join(missing)}; run make-references with this cohort"
            )
        if other := [s.name for s in subjects if not self.velocities.made_of(s.name, label_map(s))]:
            raise InputError(
                f"{folder}: its references were made of other labels of {', '.join(other)}; run make-references again"
            )
        self.refused: set[tuple[int, int]] = set()

    def terms(
        self, network: nn.Module, generator: torch.Generator, rank: int = 0, processes: int = 1
    ) -> dict[str, torch.Tensor]:
        """See `Scheme.terms`."""
        moving, fixed, velocity = self._chosen(generator)
        reach = int(self.plan.augmentation.translation)
        shifts = torch.randint(-reach, reach + 1, (len(moving), 2), generator=generator).tolist()
        mine = list(range(rank, len(moving), processes))
        n, device = len(mine), self.images.device
        chosen = torch.cat([moving[mine], fixed[mine]])
        values = self.plan.values
        images, labels = self.images[chosen], memberships(self.labels[chosen], values)
        target = velocity[mine].to(device)
        for place, number in enumerate(mine):
            for tensor, at in ((images, place), (images, place + n), (labels, place), (labels, place + n)):
                tensor[at] = tensor[at].roll(shifts[number], (2, 3))
            target[place] = target[place].roll(shifts[number], (2, 3))
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(self.plan.mixed)):
            prediction = network(images[:n], images[n:])
        level = prediction.levels[-1]
        if level.velocity is None:
            raise InputError(f"network '{self.plan.network}' has no velocity to compare with the references")
        out = self.judged(prediction, images, labels, chosen, replace(self.plan.weights, velocity=0.0))
        out["velocity"] = self.plan.weights.velocity * losses.mse(level.velocity[:n], target)
        return out

    def _chosen(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Indices of moving and of fixed images, and the velocities (N, 3, D, H, W) of these pairs."""
        while True:
            moving, fixed = self.draw(generator)
            pairs = list(zip(fixed.tolist(), moving.tolist(), strict=True))
            if self.refused.intersection(pairs):
                continue
            found = torch.cat([self.velocities(self.names[a], self.names[b]) for a, b in pairs])
            determinants = fields.jacobian_determinant(fields.scale_and_square(found, 7)).flatten(1).amin(1)
            folded = {pair for pair, least in zip(pairs, determinants.tolist(), strict=True) if least <= 0}
            if not folded:
                return moving, fixed, found
            self.refused |= folded
            if len(self.refused) >= int((self.owners[:, None] != self.owners).sum()) - len(self.names):
                raise InputError("nearly all reference velocities fold; check the references' spacing and structures")
