"""Random pairs of different people, varied at random, and the losses of the plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import Prediction
from torch import nn

from ..objective import memberships, objective, one_way
from ..plan import Plan, Weights
from ..subjects import Subject


class Pairs:
    """The scheme of all systems but SVF-Net's first step; with ``complete`` and ``alternate`` it is DeepAtlas."""

    def __init__(self, plan: Plan, subjects: Sequence[Subject], device: torch.device) -> None:
        """Raise `InputError` if there are too few subjects for a batch of pairs."""
        owners = [s.owner for s in subjects]
        if len(set(owners)) < 2:
            raise InputError("two subjects at least make a pair")
        if len(subjects) < 2 * plan.pairs:
            raise InputError(
                f"{len(subjects)} images are too few for batches of {plan.pairs} pairs, which take {2 * plan.pairs}; "
                "lower 'pairs'"
            )
        # As many of one person as there are pairs can be in a batch, one in each pair.
        if sum(min(owners.count(owner), plan.pairs) for owner in set(owners)) < 2 * plan.pairs:
            raise InputError(f"too many images are of one subject for {plan.pairs} pairs of two people; lower 'pairs'")
        if plan.complete and len(plan.segmented) < len(plan.labels):
            raise InputError("'complete' needs a network that segments every label; leave 'segments' out")
        self.plan = plan
        self.images = torch.cat([s.image for s in subjects]).to(device)
        # Whole numbers up to 65535, in an eighth of the memory that floating point memberships would take.
        self.labels = torch.cat([s.labels for s in subjects]).to(torch.int32).to(device)
        self.known = torch.stack([s.known for s in subjects]).to(device)
        self.owners = torch.tensor([owners.index(owner) for owner in owners])
        self.annotated = torch.nonzero(self.known.any(1).cpu())[:, 0]
        if plan.annotated_share and not len(self.annotated):
            raise InputError("no training image has labels, but 'annotated_share' asks for pairs with some")

    def terms(
        self, network: nn.Module, generator: torch.Generator, rank: int = 0, processes: int = 1
    ) -> dict[str, torch.Tensor]:
        """See `Scheme.terms`."""
        moving, fixed = self.draw(generator)
        seeds = torch.randint(2**62, (len(moving),), generator=generator).tolist()
        mine = range(rank, len(moving), processes)
        images, labels = zip(*(self._varied((moving[i], fixed[i]), seeds[i]) for i in mine), strict=True)
        # (2, …) of each pair → moving images of all pairs, then the fixed ones.
        images, labels = (torch.stack(x, 1).flatten(0, 1) for x in (images, labels))
        chosen = torch.cat([moving[list(mine)], fixed[list(mine)]])
        n = len(mine)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bool(self.plan.mixed)):
            prediction = network(images[:n], images[n:])
        return self.judged(prediction, images, labels, chosen, self.plan.weights)

    def judged(
        self,
        prediction: Prediction,
        images: torch.Tensor,
        labels: torch.Tensor,
        chosen: torch.Tensor,
        weights: Weights,
    ) -> dict[str, torch.Tensor]:
        """`objective` of a batch of N pairs, whose 2 N images are the ``chosen`` ones of all, as the plan wants it."""
        plan = self.plan
        prediction = prediction if plan.both_ways else one_way(prediction, len(chosen) // 2)
        known = self.known[chosen.to(self.known.device)]
        return objective(prediction, images, labels, weights, known, plan.complete, plan.segmented, plan.unannotated)

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) indices of moving and of fixed images, of different people in each pair."""
        n, owners = self.plan.pairs, self.owners
        order = torch.randperm(len(owners), generator=generator)
        while len(alike := self._alike(order)):
            # Some exchange always helps, for `__init__` has seen to it that there are enough images of other people.
            tried, other = order.clone(), int(torch.randint(len(order), (), generator=generator))
            tried[alike[0]], tried[other] = order[other], order[alike[0]]
            order = tried if len(self._alike(tried)) < len(alike) else order
        moving, fixed = order[:n], order[n : 2 * n]
        wanted = torch.rand(n, generator=generator) < self.plan.annotated_share
        wanted &= ~(torch.isin(moving, self.annotated) | torch.isin(fixed, self.annotated))
        if wanted.any():
            pick = self.annotated[torch.randint(len(self.annotated), (n,), generator=generator)]
            side = torch.rand(n, generator=generator) < 0.5
            # In the place of the other image of the same person, where there is one.
            side = (side | (owners[pick] == owners[moving])) & (owners[pick] != owners[fixed])
            moving, fixed = torch.where(wanted & side, pick, moving), torch.where(wanted & ~side, pick, fixed)
        return moving, fixed

    def _alike(self, order: torch.Tensor) -> torch.Tensor:
        """Indices of the batch's pairs whose two images are of one person."""
        n = self.plan.pairs
        return torch.nonzero(self.owners[order[:n]] == self.owners[order[n : 2 * n]])[:, 0]

    def _varied(self, pair: tuple[torch.Tensor, torch.Tensor], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.stack(pair)
        labels = memberships(self.labels[chosen], self.plan.values)
        return self.plan.augmentation(self.images[chosen], labels, torch.Generator().manual_seed(seed))
