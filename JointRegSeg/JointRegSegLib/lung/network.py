"""The classifier of Christodoulidis et al. 2018, section 3.3: a strided convolution and a perceptron."""

from __future__ import annotations

import torch
from torch import nn


class DeformationClassifier(nn.Module):
    """3³ convolution with stride 2 → batch norm → 100 units with tanh → one logit.

    Parameters
    ----------
    channels : int
        Of the input, (N, channels, size, size, size); the published one has the deformation's three.
    size : int
        Side of the input's lattice.
    filters : int
        Of the convolution, whose number the paper does not tell.
    hidden : int
        Units of the perceptron.
    """

    def __init__(self, channels: int = 3, size: int = 16, filters: int = 4, hidden: int = 100) -> None:
        super().__init__()
        self.down = nn.Conv3d(channels, filters, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm3d(filters)
        self.hidden = nn.Linear(filters * ((size + 1) // 2) ** 3, hidden)
        self.answer = nn.Linear(hidden, 1)

    def forward(self, motion: torch.Tensor) -> torch.Tensor:
        """(N,) logits of disease, of (N, channels, size, size, size)."""
        return self.answer(torch.tanh(self.hidden(self.norm(self.down(motion)).flatten(1))))[:, 0]
