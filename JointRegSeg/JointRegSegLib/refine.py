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

    ``spread`` is the number of passes of a 3³ mean that smooth the parameters: each moves a neighborhood, as a B-spline
    would.
    """

    factor: int
    iterations: int
    rate: float
    spread: int = 1


@dataclass(frozen=True)
class Objective:
    """What is optimized, and how.

    Attributes
    ----------
    similarity : 'lncc', 'mse' or 'mi'
        Of the images; ``window`` is the side of local correlation in voxels, ``flat`` as in `similarity.FLAT`.
    image, overlap, smoothness, folding, inverse, mass : float
        Weights of image similarity, segmentation agreement, diffusion, folding, inverse inconsistency (which an
        exponential does not have), and of a change of mass, which is told by `Evidence.tissue` alone.
    margin : float
        Jacobian determinants below this count as folding.
    """

    similarity: Similarity = "lncc"
    window: int = 5
    image: float = 1.0
    overlap: float = 0.0
    smoothness: float = 0.3
    folding: float = 10.0
    inverse: float = 0.0
    margin: float = 0.1
    flat: float = FLAT
    mass: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What is compared of two images on one lattice; lists hold that of the moving and of the fixed one.

    Attributes
    ----------
    images : list of torch.Tensor
        (1, C, D, H, W).
    classes : list of torch.Tensor, optional
        (1, K, D, H, W) memberships.
    known : torch.Tensor, optional
        (1, 1, D, H, W), 1 where the moving image was seen at all.
    tissue : list of torch.Tensor, optional
        (1, 1, D, H, W) share of a voxel that is tissue, whose mass the structures of ``classes`` keep.
    """

    images: list[torch.Tensor]
    classes: list[torch.Tensor] | None = None
    known: torch.Tensor | None = None
    tissue: list[torch.Tensor] | None = None

    def shrunk(self, blocks: Sequence[int]) -> Evidence:
        """Averaged over blocks of so many voxels along each axis."""
        images, classes, tissue = (
            None if pair is None else [_shrink(x, blocks) for x in pair]
            for pair in (self.images, self.classes, self.tissue)
        )
        return Evidence(images, classes, None if self.known is None else _shrink(self.known, blocks), tissue)


@dataclass(frozen=True)
class Refinement(Objective):
    """What follows a network's answer; a bundle's manifest may change any of it.

    Half resolution by default, where a step costs an eighth, and small steps: after a network that was trained on these
    very labels larger ones traded overlap for agreement of the two predictions, on people who were held out.

    Attributes
    ----------
    factors : sequence of int
        `Level.factor` of each resolution, one after the other. Each takes all the steps that are asked for.
    rate, spread : float, int
        As those of `Level`.
    turn : float
        Degrees by which the images are turned for more of the network's answers to begin with (`views.averaged`); with
        0 it is asked once.
    anew : bool
        Whether to optimize as `generic` does, on its lattice, from the network's answer or from an affine map: that
        from which the images come to be more alike. Nothing else but ``turn`` counts then, and the steps asked for are
        those of a small lattice, see `estimate.STEPS`. For networks that see much less than the images show.
    slides : bool
        Whether the structures are lungs that slide along the wall, where both images are CT: see `lung.refined`.
    """

    window: int = 3
    image: float = 0.3
    overlap: float = 1.0
    smoothness: float = 0.1
    folding: float = 100.0
    inverse: float = 0.1
    margin: float = 0.3
    factors: Sequence[int] = (2,)
    rate: float = 0.005
    spread: int = 1
    turn: float = 0.0
    anew: bool = False
    slides: bool = False

    def levels(self, steps: int) -> list[Level]:
        """``steps`` at each resolution."""
        return [Level(factor, steps, self.rate, self.spread) for factor in self.factors]


#: How many times as long as the finest ones voxels are that count as thick. Where they are a little longer, averaging
#: as many along them reaches further, which large motion needs.
THICK = 2.0
#: Share of a voxel that has to be of the same structure in both images for its mass to be compared.
WHOLE = 0.9
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
    tissue: tuple[torch.Tensor, torch.Tensor] | None = None,
    free: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a diffeomorphism to two (1, C, D, H, W) images on one lattice, coarse to fine.

    ``spacing`` is the lattice's along D, H, W, in mm or any one unit: what counts is how the axes compare. ``known``
    (1, 1, D, H, W) is 1 where the moving image was seen at all and 0 where it ends before the lattice does. ``free``
    (1, 1, D, H, W) is 1 where there may be motion, 0 where there is none, and between them the share that is left.

    ``regions`` are (1, K, D, H, W) memberships in the moving and in the fixed image of K organs that slide along what
    is around them: each, and the rest, has a diffeomorphism of its own, which counts where the organ is; organs have
    to come to lie on each other. A smooth deformation would smear their motion into the wall along which they slide
    (Schmidt-Richberg et al. 2012, doi:10.1016/j.media.2012.03.004). ``tissue`` is `Evidence.tissue` of both
    images, and needs ``regions``.

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
    whole = Evidence([moving, fixed], regions and list(regions), known, tissue and list(tissue))
    for level, told in _told(levels, progress, "deformation"):
        blocks = _blocks(level.factor, spacing)
        evidence = whole.shrunk(blocks)
        lengths = [length * n for length, n in zip(spacing, blocks, strict=True)]
        velocity = fields.resize(velocity, _lattice(evidence.images[0].shape[2:], lengths))
        share = 1.0 if free is None else fields.resize(free, velocity.shape[2:], rescale=False)

        def motion(
            change: torch.Tensor, start: torch.Tensor = velocity, share: torch.Tensor | float = share
        ) -> torch.Tensor:
            v = share * (start + change)
            return fields.scale_and_square(torch.cat([v, -v]), 5)

        velocity = velocity + _descend(motion, velocity.shape, evidence, objective, level, told)
    with torch.no_grad():
        velocity = share * velocity
        smooth = fields.resize(fields.scale_and_square(torch.cat([velocity, -velocity])), moving.shape[2:])
        # A voxel is of one of them: half of either motion would be neither.
        both = joined(smooth, None if regions is None else [(region > 0.5).to(smooth) for region in regions])
        return both[:1], both[1:]


def likest(
    carried: Sequence[Sequence[torch.Tensor]],
    fixed: torch.Tensor,
    objective: Objective,
    level: Level,
    spacing: Sequence[float],
) -> int:
    """Which of several (1, C, D, H, W) moving images, each with its ``known``, comes to be most like ``fixed``.

    Each is fitted at one coarse ``level``, for some are nearer to begin with and lead nowhere; see `from_nothing`. They
    are compared where all of them are known, and none counts that looks past most of what another one sees.
    """
    shares = [float(known.mean()) for _, known in carried]
    usable = [n for n, share in enumerate(shares) if share >= max(shares) / 2]
    shared, scores = torch.cat([carried[n][1] for n in usable]).amin(0, keepdim=True), {}
    for n in usable:
        moving, known = carried[n]
        both = torch.cat(from_nothing(moving, fixed, objective, [level], spacing=spacing, known=known))
        evidence = Evidence([moving, fixed], known=shared).shrunk(_blocks(level.factor, spacing))
        both = fields.resize(both, evidence.images[0].shape[2:])
        with torch.no_grad():
            scores[n] = float(joint_objective(both, evidence, objective, both))
    return min(usable, key=scores.__getitem__)


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
    classes = None if moving_classes is None or fixed_classes is None else [moving_classes, fixed_classes]
    whole = Evidence([moving, fixed], classes)
    for level, told in _told(levels, progress, "refining"):
        evidence = whole.shrunk(3 * [level.factor])
        here = evidence.images[0].shape[2:]
        start = fields.resize(both, here)

        def motion(change: torch.Tensor, start: torch.Tensor = start, shape: tuple = here) -> torch.Tensor:
            return start + fields.resize(change, shape)

        shape = (2, 3, *_lattice(here))
        change = _descend(motion, shape, evidence, objective, level, told)
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
    evidence: Evidence,
    objective: Objective,
    level: Level,
    told: Callable[[int], None],
) -> torch.Tensor:
    """The smoothed parameters, of ``shape``, for which ``motion`` gives the best displacements (2 K, 3, …)."""
    with torch.enable_grad():
        parameters = torch.zeros(*shape, device=evidence.images[0].device, requires_grad=True)
        adam = torch.optim.Adam([parameters], lr=level.rate)
        for iteration in range(level.iterations):
            told(iteration)
            smooth = motion(_smooth(parameters, level.spread))
            parts = fields.resize(smooth, evidence.images[0].shape[2:])
            if len(parts) == 2:
                loss = joint_objective(parts, evidence, objective, smooth)
            else:
                loss = joint_objective(joined(parts, evidence.classes), evidence, objective, smooth, parts)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            # Steps shrink towards the end of a level, which settles the noise of Adam's equal-sized steps.
            adam.param_groups[0]["lr"] = level.rate * (1 - 0.8 * iteration / level.iterations)
            adam.step()
    told(level.iterations)
    return _smooth(parameters.detach(), level.spread)


def joint_objective(
    both: torch.Tensor,
    evidence: Evidence,
    objective: Objective,
    smooth: torch.Tensor,
    parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """The objective of (2, 3, D, H, W) displacements, forward and backward, on the lattice of ``evidence``.

    ``smooth`` are the (…, 3, d, h, w) displacements that have to be regular: those that ``both`` were made of, as
    ``parts`` where organs slide, see `joined`.
    """
    loss = objective.smoothness * losses.diffusion(smooth)
    loss = loss + objective.folding * losses.folding(smooth, objective.margin)
    if objective.inverse:
        loss = loss + objective.inverse * losses.inverse_consistency(both[:1], both[1:])
    # One resampling for all; what is read in the moving image is compared with the fixed one, and the other way around.
    pairs = {name: getattr(evidence, name) for name in ("images", "classes", "tissue")}
    pairs = {name: torch.cat(pair) for name, pair in pairs.items() if pair is not None}
    warped = fields.warp(torch.cat(list(pairs.values()), 1), both).split([x.shape[1] for x in pairs.values()], 1)
    moved, target = dict(zip(pairs, warped, strict=True)), {name: x.flip(0) for name, x in pairs.items()}
    if "classes" in pairs and objective.overlap:
        overlap = losses.dice(moved["classes"], target["classes"]) if parts is None else _apart(evidence.classes, parts)
        loss = loss + objective.overlap * overlap
    if objective.image:
        mask = None if evidence.known is None else _common(evidence.known, both.detach(), objective.window)
        loss = loss + objective.image * dissimilarity(
            objective.similarity, moved["images"], target["images"], objective.window, mask, objective.flat
        )
    if "tissue" in pairs and objective.mass:
        ratio = fields.resize(fields.jacobian_determinant(smooth), both.shape[2:], rescale=False)
        inside = torch.minimum(moved["classes"].detach(), target["classes"]).sum(1, keepdim=True) > WHOLE
        loss = loss + objective.mass * losses.mass_change(
            moved["tissue"], target["tissue"], joined(ratio, evidence.classes), inside.to(ratio), objective.window
        )
    return loss


def _apart(classes: Sequence[torch.Tensor], parts: torch.Tensor) -> torch.Tensor:
    """How badly each part's own displacement takes it, border and all, onto itself; see `joined` and `losses.dice`.

    Put together, nothing would hold a surface in its place: where either part is too deep within itself, both look
    right, so that lungs would take on more volume than they have.
    """
    memberships = [torch.cat([1 - region.sum(1, keepdim=True), region], 1) for region in classes]
    moving, fixed = (m.movedim(1, 0) for m in memberships)
    return losses.dice(fields.warp(torch.cat([moving, fixed]), parts), torch.cat([fixed, moving]))


def _common(known: torch.Tensor, both: torch.Tensor, window: int) -> torch.Tensor:
    """(2, 1, D, H, W): 1 where a window of either direction holds nothing but what both images show.

    An image's border, repeated, would be matched with tissue that it does not show.
    """
    own = torch.cat([known, torch.ones_like(known)])
    shared = (fields.warp(own, both, fill=0) * own.flip(0) > 0.99).to(known)
    return (losses.box_mean(shared, window) > 1 - 0.5 / window**3).to(known)


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
