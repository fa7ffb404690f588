"""Networks with weights that a test needs: as after a few steps of training, or such that one can do the sums."""

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


def passing(network: nn.Module) -> nn.Module:
    """Each convolution gives the sum of its inputs at its kernel's middle, for all its outputs, or where it is
    transposed over all of its kernel."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
                layer.weight.zero_()
                layer.bias.zero_()
                middle = tuple(slice(None) if layer.transposed else (n - 1) // 2 for n in layer.kernel_size)
                layer.weight[(..., *middle)] = 1
    return network
