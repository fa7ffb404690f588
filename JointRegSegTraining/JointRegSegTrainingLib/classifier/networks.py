"""Five cross-validated networks, as Christodoulidis et al. 2018 train them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from JointRegSegLib.lung.network import DeformationClassifier
from sklearn.model_selection import StratifiedKFold

from .cohort import FOLDS


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: Adam at ``rate``, halved every ``halving`` epochs (the paper's), on small batches.

    The paper does not tell the number of epochs, the size of a batch and the number of the convolution's ``filters``.
    """

    epochs: int = 150
    batch: int = 8
    rate: float = 1e-4
    halving: int = 50
    filters: int = 4
    hidden: int = 100
    seed: int = 0


def folds(diseased: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, left out) indices of each fold; both diagnoses are in each in proportion."""
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(diseased, diseased))


def fit(inputs: torch.Tensor, diseased: torch.Tensor, schedule: Schedule, seed: int) -> DeformationClassifier:
    """Train one network on (n, C, s, s, s) and (n,) 0 or 1, by binary cross entropy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeformationClassifier(inputs.shape[1], inputs.shape[-1], schedule.filters, schedule.hidden)
    optimizer = torch.optim.Adam(network.parameters(), schedule.rate, fused=True)
    course = torch.optim.lr_scheduler.StepLR(optimizer, schedule.halving, 0.5)
    network.train()
    for _ in range(schedule.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(schedule.batch):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(inputs[rows]), diseased[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        course.step()
    return network.eval().requires_grad_(False)


def cross_validated(
    inputs: np.ndarray, diseased: np.ndarray, schedule: Schedule, progress: Callable[[float], None] | None = None
) -> tuple[list[DeformationClassifier], np.ndarray]:
    """Networks, one for each fold, and the (n,) logit of each person by the network that has not seen them."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(diseased.astype(np.float32))
    members, logits = [], np.zeros(len(diseased))
    for number, (known, left_out) in enumerate(folds(diseased, schedule.seed)):
        member = fit(x[known], y[known], schedule, schedule.seed + number)
        logits[left_out] = member(x[left_out]).double().numpy()
        members.append(member)
        if progress:
            progress((number + 1) / FOLDS)
    return members, logits
