"""Layers that several networks share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def convolutions(inputs: int, outputs: int, count: int, norm: bool = True) -> nn.Sequential:
    """``count`` times a 3³ convolution, instance norm and leaky ReLU; (N, inputs, D, H, W) → (N, outputs, D, H, W)."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(nn.Conv3d(inputs if i == 0 else outputs, outputs, 3, padding=1))
        if norm:
            layers.append(nn.InstanceNorm3d(outputs, affine=True))
        layers.append(nn.LeakyReLU(0.1, inplace=True))
    return nn.Sequential(*layers)


def zeroed(convolution: nn.Conv3d) -> nn.Conv3d:
    """Set a head's weights and bias to zero, so that it starts neutral."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


class Encoder(nn.Module):
    """Features at full, half, quarter, … resolution.

    A level is ``counts[l]`` 3³ convolutions; between levels a 2³ convolution with stride 2. The first level has no
    normalization, so that the image's own contrast gets through.
    """

    def __init__(self, inputs: int, channels: Sequence[int], counts: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.down = nn.ModuleList()
        for level, (width, count) in enumerate(zip(channels, counts, strict=True)):
            if level:
                self.down.append(nn.Conv3d(channels[level - 1], width, 2, stride=2))
            self.levels.append(convolutions(width if level else inputs, width, count, norm=level > 0))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, inputs, D, H, W) → one tensor a level, fine to coarse."""
        out = []
        for level, block in enumerate(self.levels):
            if level:
                x = self.down[level - 1](x)
            x = block(x)
            out.append(x)
        return out


class Decoder(nn.Module):
    """The way back up: transposed 2³ convolutions, the encoder's features beside them, 3³ convolutions."""

    def __init__(self, channels: Sequence[int], counts: Sequence[int]) -> None:
        super().__init__()
        self.up = nn.ModuleList()
        self.levels = nn.ModuleList()
        for level in range(len(channels) - 1):
            self.up.append(nn.ConvTranspose3d(channels[level + 1], channels[level], 2, stride=2))
            self.levels.append(convolutions(2 * channels[level], channels[level], counts[level]))

    def forward(self, features: Sequence[torch.Tensor], finest: int = 0) -> list[torch.Tensor]:
        """The encoder's features, fine to coarse → from level ``finest`` on as many tensors of the same shapes.

        The coarsest is passed on.
        """
        out = [features[-1]]
        for level in reversed(range(finest, len(self.levels))):
            x = self.up[level](out[0])
            out.insert(0, self.levels[level](torch.cat([x, features[level]], 1)))
        return out
