"""Instance optimization: a diffeomorphism fitted to one pair, from nothing or from a network's answer.

The deformation is the exponential of a stationary velocity field (Arsigny et al. 2006), so that its inverse is the
exponential of the negated field. Both directions are scored, as in symmetric normalization (Avants et al. 2008), on the
joint objective: image similarity, agreement of carried-over and predicted segmentations, smoothness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import fields, losses
from .progress import Progress, silent, tell
from .similarity import Similarity, dissimilarity


@dataclass(frozen=True)
class Level:
    """One resolution: images averaged over blocks of ``factor``³ voxels, for ``iterations`` steps."""

    factor: int
    iterations: int


@dataclass(frozen=True)
class Objective:
    """What is optimized, and how.

    Attributes
    ----------
    similarity : 'lncc', 'mse' or 'mi'
        Of the images; ``window`` is the side of local correlation in voxels.
    image, overlap, smoothness, folding : float
        Weights of image similarity, segmentation agreement, and the velocity's diffusion and folding penalties.
    spread : int
        Passes of a 3³ mean that smooth the velocity: each parameter moves a neighborhood, as a B-spline would.
    rate : float
        Step of Adam in control voxels.
    """

    similarity: Similarity = "lncc"
    window: int = 3
    image: float = 1.0
    overlap: float = 1.0
    smoothness: float = 0.1
    folding: float = 10.0
    spread: int = 1
    rate: float = 0.3


#: Spacing of the velocity's lattice in voxels of the level's images.
CONTROL = 2


def optimize(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    objective: Objective,
    levels: Sequence[Level],
    start: torch.Tensor | None = None,
    moving_classes: torch.Tensor | None = None,
    fixed_classes: torch.Tensor | None = None,
    progress: Progress = silent,
    stage: str = "optimizing",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a diffeomorphism.

    Parameters
    ----------
    moving, fixed : torch.Tensor
        (1, 1, D, H, W) images on one lattice.
    levels : sequence of Level
        Coarse to fine.
    start : torch.Tensor, optional
        (1, 3, D, H, W) displacement in voxels to continue from.
    moving_classes, fixed_classes : torch.Tensor, optional
        (1, K, D, H, W) memberships without the background, whose agreement is optimized too.

    Returns
    -------
    forward, inverse : torch.Tensor
        (1, 3, D, H, W) displacements in voxels; inverse to each other up to discretization, see
        `Deformation.inverted`.

    Raises
    ------
    Canceled
        If ``progress`` asks to stop.
    """
    shape = moving.shape[2:]
    total, done = max(1, sum(level.iterations for level in levels)), 0
    velocity = None
    with torch.enable_grad():
        for level in levels:
            images = [_shrink(x, level.factor) for x in (moving, fixed)]
            classes = None
            if moving_classes is not None and fixed_classes is not None and objective.overlap:
                classes = [_shrink(x, level.factor) for x in (moving_classes, fixed_classes)]
            here = images[0].shape[2:]
            lattice = tuple(max(-(-n // CONTROL), 2) for n in here)
            if velocity is not None:
                velocity = fields.resize(velocity, lattice)
            elif start is not None:
                velocity = fields.resize(logarithm(fields.resize(start, lattice)), lattice)
            else:
                velocity = torch.zeros(1, 3, *lattice, device=moving.device)
            # The smoothed parameters are added to what is there, so that each level starts where the last one ended.
            change = torch.zeros_like(velocity, requires_grad=True)
            adam = torch.optim.Adam([change], lr=objective.rate)
            for iteration in range(level.iterations):
                tell(progress, stage, done / total)
                loss = _loss(velocity + _smooth(change, objective.spread), images, classes, objective)
                adam.zero_grad(set_to_none=True)
                loss.backward()
                # Steps shrink towards the end of a level, which settles the noise of Adam's equal-sized steps.
                adam.param_groups[0]["lr"] = objective.rate * (1 - 0.8 * iteration / level.iterations)
                adam.step()
                done += 1
            velocity = (velocity + _smooth(change, objective.spread)).detach()
    tell(progress, stage, 1.0)
    with torch.no_grad():
        both = fields.resize(fields.scale_and_square(torch.cat([velocity, -velocity])), shape)
        return both[:1], both[1:]


def logarithm(displacement: torch.Tensor, iterations: int = 8) -> torch.Tensor:
    """A stationary velocity (N, 3, D, H, W) whose exponential comes close to ``displacement``: v ← v + u - exp(v)."""
    velocity = displacement.clone()
    for _ in range(iterations):
        velocity = velocity + displacement - fields.scale_and_square(velocity, 5)
    return velocity


def _loss(
    velocity: torch.Tensor, images: list[torch.Tensor], classes: list[torch.Tensor] | None, objective: Objective
) -> torch.Tensor:
    shape = images[0].shape[2:]
    both = fields.scale_and_square(torch.cat([velocity, -velocity]), 5)
    loss = objective.smoothness * losses.diffusion(velocity)
    if objective.folding:
        loss = loss + objective.folding * losses.folding(both)
    u = fields.resize(both, shape)
    stack = [torch.cat(pair) for pair in (images, images[::-1])]
    if classes is not None:
        sources = torch.cat([stack[0], torch.cat(classes)], 1)
        warped = fields.warp(sources, u)
        loss = loss + objective.overlap * losses.dice(warped[:, 1:], torch.cat(classes[::-1]))
        warped = warped[:, :1]
    else:
        warped = fields.warp(stack[0], u)
    if objective.image:
        loss = loss + objective.image * dissimilarity(objective.similarity, warped, stack[1], objective.window)
    return loss


def _shrink(image: torch.Tensor, factor: int) -> torch.Tensor:
    factors = [min(factor, n) for n in image.shape[2:]]
    return F.avg_pool3d(image, factors, factors, ceil_mode=True, count_include_pad=False) if factor > 1 else image


def _smooth(velocity: torch.Tensor, passes: int) -> torch.Tensor:
    for _ in range(passes):
        velocity = losses.box_mean(velocity, 3)
    return velocity
