"""What a trainer asks of a scheme."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Scheme(Protocol):
    """Draws a batch, and says what a network's answer to it costs."""

    def terms(
        self, network: nn.Module, generator: torch.Generator, rank: int = 0, processes: int = 1
    ) -> dict[str, torch.Tensor]:
        """Weighted loss terms of one batch; every process draws the whole batch alike and computes its own share."""
        ...
