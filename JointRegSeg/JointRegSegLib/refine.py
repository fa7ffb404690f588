"""Instance optimization: a deformation fitted to one pair, from nothing or from a network's answer.

From nothing the deformation is the exponential of a stationary velocity field (Arsigny et al. 2006), whose inverse is
the exponential of the negated field. A network's answer is two displacements, which are changed by addition, because
the nearest exponential is already less accurate; terms against folding and for inverse consistency keep them regular.

Both directions are scored, as in symmetric normalization (Avants et al. 2008), on the joint objective: image
similarity, agreement of carried-over and predicted segmentations, smoothness, no folding, inverse consistency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import fields, losses
from .progress import Progress, silent, tell
from .similarity import FLAT, Similarity, dissimilarity


@dataclass(frozen=True)
class Level:
    """One resolution: images averaged over blocks of ``factor`` voxels along each axis, for ``iterations`` steps.

    Along thick slices a block has fewer, so that it is as near to a cube as can be: they are few, and the more of them
    are averaged, the less is known of the motion through them.

    ``rate`` is the first step of Adam in control voxels. Adam moves every parameter equally far, however weak its
    gradient: on the finest level, where little is left to move, large steps would mostly be noise.
    """

    factor: int
    iterations: int
    rate: float


@dataclass(frozen=True)
class Objective:
    """What is optimized, and how.

    Attributes
    ----------
    similarity : 'lncc', 'mse' or 'mi'
        Of the images; ``window`` is the side of local correlation in voxels, ``flat`` as in `similarity.FLAT`.
    image, overlap, smoothness, folding, inverse : float
        Weights of image similarity, segmentation agreement, diffusion, folding and inverse inconsistency (which an
        exponential does not have).
    margin : float
        Jacobian determinants below this count as folding.
    spread : int
        Passes of a 3³ mean that smooth the parameters: each moves a neighborhood, as a B-spline would.
    """

    similarity: Similarity = "lncc"
    window: int = 5
    image: float = 1.0
    overlap: float = 0.0
    smoothness: float = 0.3
    folding: float = 10.0
    inverse: float = 0.0
    margin: float = 0.1
    spread: int = 2
    flat: float = FLAT


@dataclass(frozen=True)
class Refinement(Objective):
    """What follows a network's answer; a bundle's manifest may change any of it.

    Half resolution by default, where a step costs an eighth, and small steps: after a network that was trained on these
    very labels larger ones traded overlap for agreement of the two predictions, on people who were held out.

    Attributes
    ----------
    factors : sequence of int
        `Level.factor` of each resolution, one after the other. Each takes all the steps that are asked for.
    rate : float
        First step in control voxels.
    turn : float
        Degrees by which the images are turned for more of the network's answers to begin with (`views.averaged`); with
        0 it is asked once.
    """

    window: int = 3
    image: float = 0.3
    overlap: float = 1.0
    smoothness: float = 0.1
    folding: float = 100.0
    inverse: float = 0.1
    margin: float = 0.3
    spread: int = 1
    factors: Sequence[int] = (2,)
    rate: float = 0.005
    turn: float = 0.0

    def levels(self, steps: int) -> list[Level]:
        """``steps`` at each resolution."""
        return [Level(factor, steps, self.rate) for factor in self.factors]


#: How many times as long as the finest ones voxels are that count as thick. Where they are a little longer, averaging
#: as many along them reaches further, which large motion needs.
THICK = 2.0
#: Spacing of the parameters' lattice in voxels of the level's images, along their finest axis.
CONTROL = 2


def from_nothing(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    objective: Objective,
    levels: Sequence[Level],
    progress: Progress = silent,
    regions: tuple[torch.Tensor, torch.Tensor] | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    known: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a diffeomorphism to two (1, C, D, H, W) images on one lattice, coarse to fine.

    ``spacing`` is the lattice's along D, H, W, in mm or any one unit: what counts is how the axes compare. ``known``
    (1, 1, D, H, W) is 1 where the moving image was seen at all and 0 where it ends before the lattice does.

    ``regions`` are (1, K, D, H, W) memberships in the moving and in the fixed image of K organs that slide along what
    is around them: each, and the rest, has a diffeomorphism of its own, which counts where the organ is; organs have
    to come to lie on each other. A smooth deformation would smear their motion into the wall along which they slide
    (Schmidt-Richberg et al. 2012, doi:10.1016/j.media.2012.03.004).

    Returns
    -------
    forward, inverse : torch.Tensor
        (1, 3, D, H, W) displacements in voxels; inverse to each other up to discretization, see `regularize`.

    Raises
    ------
    Canceled
        If ``progress`` asks to stop.
    """
    parts = 1 if regions is None else 1 + regions[0].shape[1]
    velocity = torch.zeros(parts, 3, 2, 2, 2, device=moving.device)
    for level, told in _told(levels, progress, "deformation"):
        blocks = _blocks(level.factor, spacing)
        images = [_shrink(x, blocks) for x in (moving, fixed)]
        classes = None if regions is None else [_shrink(x, blocks) for x in regions]
        seen = None if known is None else _shrink(known, blocks)
        lengths = [length * n for length, n in zip(spacing, blocks, strict=True)]
        velocity = fields.resize(velocity, _lattice(images[0].shape[2:], lengths))

        def motion(change: torch.Tensor, start: torch.Tensor = velocity) -> torch.Tensor:
            v = start + change
            return fields.scale_and_square(torch.cat([v, -v]), 5)

        velocity = velocity + _descend(motion, velocity.shape, images, classes, objective, level, told, seen)
    with torch.no_grad():
        smooth = fields.resize(fields.scale_and_square(torch.cat([velocity, -velocity])), moving.shape[2:])
        # A voxel is of one of them: half of either motion would be neither.
        both = joined(smooth, None if regions is None else [(region > 0.5).to(smooth) for region in regions])
        return both[:1], both[1:]


def joined(smooth: torch.Tensor, regions: Sequence[torch.Tensor] | None) -> torch.Tensor:
    """(2, 3, D, H, W) voxel displacements, forward and backward, of those of the rest and of K regions.

    ``smooth`` (2 (1 + K), 3, D, H, W) holds the forward ones of all parts, then the backward ones. ``regions`` are
    (1, K, D, H, W) in the moving and in the fixed image: forward begins in the fixed one, backward in the moving one.
    """
    if regions is None:
        return smooth
    ways = []
    for of_parts, region in zip(smooth.chunk(2), regions[::-1], strict=True):
        shares = torch.cat([1 - region.sum(1, keepdim=True), region], 1)[0, :, None]
        ways.append((shares * of_parts).sum(0, keepdim=True))
    return torch.cat(ways)


def from_network(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    forward: torch.Tensor,
    backward: torch.Tensor,
    objective: Objective,
    levels: Sequence[Level],
    moving_classes: torch.Tensor | None = None,
    fixed_classes: torch.Tensor | None = None,
    progress: Progress = silent,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Improve a network's two displacements.

    Parameters
    ----------
    moving, fixed : torch.Tensor
        (1, C, D, H, W) images on one lattice.
    forward, backward : torch.Tensor
        (1, 3, D, H, W) displacements in voxels to begin with.
    moving_classes, fixed_classes : torch.Tensor, optional
        (1, K, D, H, W) memberships without the background, whose agreement is optimized too.

    Returns
    -------
    forward, backward : torch.Tensor
        (1, 3, D, H, W) displacements in voxels.

    Raises
    ------
    Canceled
        If ``progress`` asks to stop.
    """
    both = torch.cat([forward, backward])
    for level, told in _told(levels, progress, "refining"):
        blocks = 3 * [level.factor]
        images = [_shrink(x, blocks) for x in (moving, fixed)]
        classes = None
        if moving_classes is not None and fixed_classes is not None:
            classes = [_shrink(x, blocks) for x in (moving_classes, fixed_classes)]
        here = images[0].shape[2:]
        start = fields.resize(both, here)

        def motion(change: torch.Tensor, start: torch.Tensor = start, shape: tuple = here) -> torch.Tensor:
            return start + fields.resize(change, shape)

        shape = (2, 3, *_lattice(here))
        change = _descend(motion, shape, images, classes, objective, level, told)
        both = both + fields.resize(change, both.shape[2:])
    return both[:1], both[1:]


def _told(levels: Sequence[Level], progress: Progress, stage: str) -> Sequence[tuple[Level, Callable[[int], None]]]:
    """Each level with a function that reports its n-th step as a share of all, by the voxels that it looks at."""
    costs = [1 / level.factor**3 for level in levels]
    total = sum(cost * level.iterations for cost, level in zip(costs, levels, strict=True)) or 1
    out, before = [], 0.0
    for cost, level in zip(costs, levels, strict=True):
        out.append((level, lambda n, begin=before, cost=cost: tell(progress, stage, min(begin + cost * n / total, 1))))
        before += cost * level.iterations / total
    return out


def _descend(
    motion: Callable[[torch.Tensor], torch.Tensor],
    shape: Sequence[int],
    images: list[torch.Tensor],
    classes: list[torch.Tensor] | None,
    objective: Objective,
    level: Level,
    told: Callable[[int], None],
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """The smoothed parameters, of ``shape``, for which ``motion`` gives the best displacements (2 K, 3, …)."""
    with torch.enable_grad():
        parameters = torch.zeros(*shape, device=images[0].device, requires_grad=True)
        adam = torch.optim.Adam([parameters], lr=level.rate)
        for iteration in range(level.iterations):
            told(iteration)
            smooth = motion(_smooth(parameters, objective.spread))
            both = fields.resize(smooth, images[0].shape[2:])
            both = both if len(both) == 2 else joined(both, classes)
            loss = joint_objective(both, images, classes, objective, smooth, known)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            # Steps shrink towards the end of a level, which settles the noise of Adam's equal-sized steps.
            adam.param_groups[0]["lr"] = level.rate * (1 - 0.8 * iteration / level.iterations)
            adam.step()
    told(level.iterations)
    return _smooth(parameters.detach(), objective.spread)


def joint_objective(
    both: torch.Tensor,
    images: list[torch.Tensor],
    classes: list[torch.Tensor] | None,
    objective: Objective,
    smooth: torch.Tensor,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """The objective of (2, 3, D, H, W) displacements, forward and backward, for [moving, fixed] images and classes.

    ``smooth`` are the (…, 3, d, h, w) displacements that have to be regular: those that ``both`` were made of. With
    ``known`` (see `from_nothing`) the images are compared only where both are.
    """
    sources, channels = torch.cat(images), images[0].shape[1]
    if classes is not None:
        sources = torch.cat([sources, torch.cat(classes)], 1)
    warped = fields.warp(sources, both)
    loss = objective.smoothness * losses.diffusion(smooth)
    loss = loss + objective.folding * losses.folding(smooth, objective.margin)
    if objective.inverse:
        loss = loss + objective.inverse * losses.inverse_consistency(both[:1], both[1:])
    if classes is not None and objective.overlap:
        loss = loss + objective.overlap * losses.dice(warped[:, channels:], torch.cat(classes[::-1]))
    if objective.image:
        seen, target = warped[:, :channels], torch.cat(images[::-1])
        mask = None if known is None else _common(known, both.detach(), objective.window)
        loss = loss + objective.image * dissimilarity(
            objective.similarity, seen, target, objective.window, mask, objective.flat
        )
    return loss


def _common(known: torch.Tensor, both: torch.Tensor, window: int) -> torch.Tensor:
    """(2, 1, D, H, W): 1 where a window of either direction holds nothing but what both images show.

    An image's border, repeated, would be matched with tissue that it does not show.
    """
    own = torch.cat([known, torch.ones_like(known)])
    shared = (fields.warp(own, both, fill=0) * own.flip(0) > 0.99).to(known)
    return 1 - F.max_pool3d(1 - shared, window, 1, window // 2)


def _blocks(length: int, spacing: Sequence[float]) -> list[int]:
    """Voxels along each axis that count as ``length`` of them: fewer along an axis whose voxels are `THICK`."""
    ratios = [along / min(spacing) for along in spacing]
    return [length if ratio < THICK else max(round(length / ratio), 1) for ratio in ratios]


def _lattice(shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> tuple[int, ...]:
    return tuple(max(-(-n // step), 2) for n, step in zip(shape, _blocks(CONTROL, spacing), strict=True))


def _shrink(image: torch.Tensor, blocks: Sequence[int]) -> torch.Tensor:
    if max(blocks) == 1:
        return image
    # An axis of one voxel could not be moved along.
    kernel = [min(block, max(n // 2, 1)) for block, n in zip(blocks, image.shape[2:], strict=True)]
    return F.avg_pool3d(image, kernel, kernel, ceil_mode=True, count_include_pad=False)


def _smooth(parameters: torch.Tensor, passes: int) -> torch.Tensor:
    for _ in range(passes):
        parameters = losses.box_mean(parameters, 3)
    return parameters
