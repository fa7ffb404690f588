"""A network with weights as after a few steps of training."""

from __future__ import annotations

import torch
from torch import nn


def perturbed(network: nn.Module, deviation: float = 0.1) -> nn.Module:
    """Moved away from the neutral start, as by a few steps of training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += deviation * torch.randn(parameter.shape, generator=generator)
    return network
