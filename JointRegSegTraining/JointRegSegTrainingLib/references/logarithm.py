"""The stationary velocity field whose exponential is a given displacement (Arsigny et al. 2006)."""

from __future__ import annotations

import torch
from JointRegSegLib import fields


def logarithm(
    displacement: torch.Tensor, squarings: int = 7, iterations: int = 20, tolerance: float = 0.02
) -> torch.Tensor:
    """v with exp(v) = id + u, both (1, 3, D, H, W) in voxels, by iterated square roots.

    ``fields.scale_and_square`` divides v by 2ⁿ and composes the result with itself n times. This undoes it step by
    step: n square roots, multiplied by 2ⁿ. The roots are those of the very composition that it uses, border included,
    so that nothing but what they miss is left between exp(v) and u. The scheme after Bossa and Olmos (2008), which
    corrects v by exp(-v) ∘ (id + u), was tried: it diverges where people differ much.

    Parameters
    ----------
    squarings : int
        n, of the ``scale_and_square`` that is to return u.
    iterations : int
        At most, for each root.
    tolerance : float
        Wanted distance from u in voxels. A displacement that folds, or turns far at the lattice's border, stays
        farther away: measure it with `distance`.
    """
    for step in range(1, squarings + 1):
        displacement = root(displacement, iterations, tolerance / 2**step)
    return displacement * 2**squarings


def root(displacement: torch.Tensor, iterations: int = 20, tolerance: float = 0.01, patience: int = 3) -> torch.Tensor:
    """w with (id + w) ∘ (id + w) = id + u, by w ← w + (u - w ∘ w) / 2 from u / 2.

    Of all w the one that misses least is returned; it ends when ``patience`` steps brought nothing.
    """
    w = best = displacement / 2
    least, idle = float("inf"), 0
    for _ in range(iterations):
        missing = displacement - fields.compose(w, w)
        error = float(missing.abs().max())
        if error < least:
            best, least, idle = w, error, 0
        else:
            idle += 1
        if error < tolerance or idle == patience:
            break
        w = w + missing / 2
    return best


def distance(velocity: torch.Tensor, displacement: torch.Tensor, squarings: int = 7) -> torch.Tensor:
    """Distance in voxels between exp(v) and id + u, (1, 1, D, H, W)."""
    return (fields.scale_and_square(velocity, squarings) - displacement).norm(dim=1, keepdim=True)
