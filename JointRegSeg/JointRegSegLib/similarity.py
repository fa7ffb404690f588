"""Image similarity by name, for optimization and for reports."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from . import losses

Similarity = Literal["lncc", "mse", "mi"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
#: Product of local variances below which two regions count as flat, for images of unit deviation: noise must not steer.
FLAT = 1e-2


def dissimilarity(
    name: Similarity,
    a: torch.Tensor,
    b: torch.Tensor,
    window: int = 5,
    mask: torch.Tensor | None = None,
    flat: float = FLAT,
) -> torch.Tensor:
    """Local correlation, mean square or mutual information as a loss, for (N, C, D, H, W) images of unit deviation."""
    if name == "lncc":
        return losses.local_correlation(a, b, window, mask, flat)
    if name == "mse":
        return losses.mse(a, b, mask)
    if name == "mi":
        return losses.mutual_information(unit_range(a), unit_range(b), mask=mask)
    raise ValueError(f"unknown similarity '{name}'; known: {', '.join(SIMILARITIES)}")


def unit_range(image: torch.Tensor) -> torch.Tensor:
    """Each channel of each (N, C, D, H, W) scaled to 0 … 1 by its own extremes, which are constants to the gradient."""
    low, high = (extreme(image.detach(), (2, 3, 4), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (image - low) / (high - low).clamp_min(torch.finfo(image.dtype).tiny)
