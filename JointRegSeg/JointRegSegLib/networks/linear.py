"""An affine map from features."""

from __future__ import annotations

import torch
from torch import nn

from .. import precision


class AffineHead(nn.Module):
    """Features averaged over the volume and a linear layer; it starts at the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 12)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, features: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(N, C, d, h, w) → (N, 3, 4) voxel matrices of a lattice with (D, H, W) ``shape``.

        The linear part acts about the middle of the lattice, and a shift of 1 is half its side, so that one learning
        rate suits all twelve.
        """
        return _about_middle(self.layer(features.float().mean((2, 3, 4))).float().view(-1, 3, 4), shape)


@precision.full
def _about_middle(parameters: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(N, 3, 4) matrices from what they add to the identity and shifts in half sides; see `AffineHead.forward`."""
    linear = parameters[:, :, :3] + torch.eye(3, device=parameters.device)
    half = torch.tensor([(size - 1) / 2 for size in shape], device=parameters.device)
    shift = parameters[:, :, 3] * half + half - linear @ half
    return torch.cat([linear, shift[:, :, None]], 2)


@precision.full
def composed(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """(N, 3, 4) matrices of ``inner`` first and then ``outer``, both (N, 3, 4)."""
    return torch.cat([outer[:, :, :3] @ inner[:, :, :3], outer[:, :, :3] @ inner[:, :, 3:] + outer[:, :, 3:]], 2)


@precision.full
def inverted(matrix: torch.Tensor) -> torch.Tensor:
    """(N, 3, 4) matrices of the maps back."""
    back = torch.linalg.inv(matrix[:, :, :3])
    return torch.cat([back, -back @ matrix[:, :, 3:]], 2)


@precision.full
def refined(matrix: torch.Tensor, factor: int) -> torch.Tensor:
    """(N, 3, 4) matrices in voxels of a lattice whose voxels are ``factor`` times as fine; outer borders agree."""
    middle = torch.full((3, 1), (factor - 1) / 2, device=matrix.device)
    linear = matrix[:, :, :3]
    return torch.cat([linear, factor * matrix[:, :, 3:] + middle - linear @ middle], 2)
