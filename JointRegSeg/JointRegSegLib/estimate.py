"""The two ways to estimate a deformation: by a model's network, or by optimization alone. Both may be refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from . import fields
from .affine import register_affine, shrink_as, shrink_within
from .catalog import WORKING_SIZE
from .deformation import Deformation, field_lattice
from .detail import around, detailed, finer
from .errors import InputError
from .geometry import Grid
from .models import Bundle, load
from .preprocess import INTENSITIES
from .progress import Progress, silent, tell
from .refine import Level, Objective, Refinement, from_network, from_nothing, likest
from .similarity import Similarity
from .views import averaged

#: Steps that `generic` spends at full resolution on a lattice of so many voxels, or fewer; on a larger one they are
#: fewer, in proportion: they cost most, and matter for small structures only.
STEPS, GENERIC_VOXELS = 40, 150_000
#: `Objective.smoothness` of `generic`: less than where organs slide, for brains, and livers that move far, need less.
SMOOTHNESS = 0.2
#: Voxels that the longest side of the lattice has to keep at the coarsest resolution, which is left out otherwise: deep
#: breaths need it, and small structures would be lost in it. With fewer no two starts can be told apart, either.
LEAST_SIDE = 12
#: By how many voxels the inverse of a network's answer may miss; what follows makes it exact on its own lattice.
ABOUT = 0.05
#: Of an affine map, the share of its volume to which it brings the fixed image, below which nothing can be right.
COLLAPSED = 1e-3

CPU = torch.device("cpu")


@dataclass
class Volume:
    """An image on its grid: ``values`` (1, 1, D, H, W), float32."""

    values: torch.Tensor
    grid: Grid

    def cropped(self, first: Sequence[int], size: Sequence[int]) -> Volume:
        """The part that begins at voxel ``first`` (i, j, k), of ``size`` along i, j, k."""
        part = tuple(slice(a, a + n) for a, n in zip(first[::-1], size[::-1], strict=True))
        return Volume(self.values[(..., *part)], self.grid.cropped(first, size))


@dataclass(frozen=True)
class Settings:
    """How to estimate, whatever the way.

    Attributes
    ----------
    refine : int
        Steps of optimization that are asked for beyond the least.
    side : int
        Longest side of the lattice of optimization in voxels, which is finer where ``side``³ voxels are enough for
        that.
    align : str or None
        How the images begin: 'world' or 'center'; None is the model's own way, and 'world' without one.
    """

    refine: int = 0
    similarity: Similarity = "lncc"
    align: str | None = None
    side: int = WORKING_SIZE
    device: torch.device = CPU
    progress: Progress = silent


@dataclass
class Estimate:
    """A deformation on a working lattice, its inverse a first approximation only, and what the network saw.

    ``*_probabilities`` are (1, K, d, h, w) memberships with the background on ``*_grid``; ``disagreement`` is the mean
    distance in mm by which the network's own two directions miss each other. ``outlines`` are (1, 1, D, H, W) labels of
    the model on the images' own grids, fixed and moving, where something better than the most probable ones is known.
    ``sliding`` says that the deformation jumps where an organ slides, and that beyond its lattice nothing is looked at,
    ``agreement_sought`` that it was made to bring both segmentations onto each other, so that it proves little if they
    agree.
    """

    deformation: Deformation
    alignment: str
    fixed_grid: Grid | None = None
    moving_grid: Grid | None = None
    fixed_probabilities: torch.Tensor | None = None
    moving_probabilities: torch.Tensor | None = None
    disagreement: float | None = None
    outlines: Sequence[torch.Tensor] | None = None
    sliding: bool = False
    agreement_sought: bool = False


def by_model(
    bundle: Bundle,
    fixed: Volume,
    moving: Volume,
    settings: Settings,
    closer: bool = True,
) -> Estimate:
    """One pass of a bundle's network, then steps of optimization.

    Without ``closer`` a refinement that is `Refinement.anew` does not end at a finer resolution.

    Raises
    ------
    ModelError
        If the weights are missing or damaged.
    InputError
        If the images do not overlap and are to stay where they are.
    """
    preprocessing, refine = bundle.preprocessing, settings.refine
    device, progress = settings.device, settings.progress
    if settings.align:
        preprocessing = replace(preprocessing, alignment=settings.align)
    network = load(bundle).to(device)
    tell(progress, "network", 0.0)
    require_overlap(fixed.grid, moving.grid, preprocessing.alignment)
    inputs = {}
    inputs["fixed"], lattice = preprocessing.seen(fixed.values, fixed.grid)
    if preprocessing.alignment == "world":
        partner = lattice
        inputs["moving"] = preprocessing.apply(moving.values, moving.grid, partner)
    else:
        inputs["moving"], partner = preprocessing.seen(moving.values, moving.grid, axes=fixed.grid)
    begin = initial = partner.array_affine @ np.linalg.inv(lattice.array_affine)
    objective = Refinement(similarity=settings.similarity, **bundle.manifest["refinement"])
    with torch.inference_mode():
        images = inputs["moving"].to(device), inputs["fixed"].to(device)
        if refine and objective.turn:
            answer = averaged(network, *images, objective.turn, lattice.spacing[::-1], progress)
        else:
            answer = network.infer(*images)
        disagreement = None
        if answer.backward is not None:
            disagreement = float(fields.round_trip(answer.there, answer.back, lattice).nanmean())
        # The affine part joins the one that the images begin with; what is left is a displacement alone.
        linear, forward, backward = None, answer.forward, answer.backward
        if answer.affine is not None:
            matrix = np.vstack([answer.affine[0].double().cpu().numpy(), [0, 0, 0, 1]])
            initial = partner.array_affine @ matrix @ np.linalg.inv(lattice.array_affine)
            linear = fields.then_affine(torch.zeros_like(forward), answer.affine)
            if backward is not None:  # its way back undoes the affine part, too, which is done again first
                backward = fields.compose(answer.back, linear)
        if backward is None:
            backward = fields.invert(forward, tolerance=ABOUT)
        probabilities = {
            "fixed": answer.fixed_segmentation.softmax(1) if answer.fixed_segmentation is not None else None,
            "moving": answer.moving_segmentation.softmax(1) if answer.moving_segmentation is not None else None,
        }
        sought = network.seeks_agreement or bool(refine and not objective.anew and objective.overlap)
        if probabilities["fixed"] is None and probabilities["moving"] is not None:
            # A network that segments the moving image alone: the fixed one's is what it carries over, and so agrees.
            sought = True
            probabilities["fixed"] = fields.warp(probabilities["moving"], answer.there)
    tell(progress, "network", 1.0)
    if refine and not objective.anew:
        classes = {k: None if v is None else v[:, 1:].clone() for k, v in probabilities.items()}
        moved = images[0]
        if linear is not None:
            moved = fields.warp(moved, linear)
            classes["moving"] = None if classes["moving"] is None else fields.warp(classes["moving"], linear)
        forward, backward = from_network(
            *preprocessing.comparable(moved.clone(), images[1].clone()),
            forward.clone(),
            backward.clone(),
            objective,
            objective.levels(refine),
            classes["moving"],
            classes["fixed"],
            progress,
        )
    found = Deformation(lattice, forward.float().cpu().clone(), backward.float().cpu().clone(), initial)
    if refine and objective.anew:

        def told(stage: str, fraction: float) -> bool | None:
            begun, share = {"affine": (0.0, 0.2), "deformation": (0.2, 0.8)}[stage]
            return progress("refining", begun + share * fraction)

        organs = None if probabilities["fixed"] is None else probabilities["fixed"][:, :1] < 0.5
        box = None if organs is None else around(organs, lattice, fixed.grid)
        part = None if box is None else fixed.cropped(*box)
        own = replace(settings, refine=refine if closer else 0, progress=told)
        found = _optimized(fixed, moving, begin, refine, own, part, found)
    return Estimate(
        found,
        preprocessing.alignment,
        lattice,
        partner,
        *(None if probabilities[k] is None else probabilities[k].float().cpu().clone() for k in ("fixed", "moving")),
        disagreement=disagreement,
        agreement_sought=sought,
    )


def by_optimization(fixed: Volume, moving: Volume, settings: Settings) -> Estimate:
    """`generic`: affine, then a diffeomorphism, from the images alone; steps asked for are at a finer resolution.

    Raises
    ------
    InputError
        If the images do not overlap and are to stay where they are.
    """
    alignment = settings.align or "world"
    require_overlap(fixed.grid, moving.grid, alignment)
    start = np.eye(4)
    if alignment == "center":
        start[:3, 3] = moving.grid.center - fixed.grid.center
    found = _optimized(fixed, moving, start, STEPS, settings)
    return Estimate(found, alignment)


def _optimized(
    fixed: Volume,
    moving: Volume,
    start: np.ndarray,
    steps: int,
    settings: Settings,
    part: Volume | None = None,
    other: Deformation | None = None,
) -> Deformation:
    """What `by_optimization` finds from the (4, 4) matrix ``start``, or from ``other`` where the images prefer that.

    At full resolution ``steps`` are made on a small lattice, fewer on a larger one. `Settings.refine` asks for more: of
    ``part`` of the fixed image, or of all, at a finer resolution or, where it has none, of all at that one.
    """
    refine, similarity, side = settings.refine, settings.similarity, settings.side
    device, progress = settings.device, settings.progress
    zscore = INTENSITIES["zscore"]
    seen = _foreground(fixed)
    part = seen if part is None else part
    small_fixed, lattice = shrink_within(seen.values, seen.grid, side)
    small_moving, moving_lattice = shrink_as(moving.values, moving.grid, lattice)
    target, small_moving = (zscore(x, x).to(device) for x in (small_fixed, small_moving))
    matrix = register_affine(small_moving, moving_lattice, target, lattice, start, similarity, progress)
    collapsed = abs(np.linalg.det(matrix[:3, :3])) < COLLAPSED
    starts = [] if collapsed else [Deformation.identity(lattice, matrix)]
    starts += [] if other is None else [other.on(lattice)]
    if not starts:
        raise InputError(
            "the images have too little in common: the affine map shrank one of them to nothing; check the pair"
        )
    views = (small_moving.cpu(), None), (torch.ones(small_moving.shape), 0.0)
    carried = [[s.warp(view, moving_lattice, fill=fill).to(device) for view, fill in views] for s in starts]
    objective, spacing = Objective(similarity=similarity, smoothness=SMOOTHNESS), lattice.spacing[::-1]
    closer = finer(part.values, part.grid, side, lattice) if refine else None
    fine = min(steps, steps * GENERIC_VOXELS // lattice.voxels) + (refine if closer is None and other is None else 0)
    coarsest, *levels = Level(8, 60, 0.3), Level(4, 30, 0.3), Level(2, 40, 0.3), Level(1, fine, 0.1)
    largest = max(lattice.shape) / LEAST_SIDE
    judge = next((level for level in levels if level.factor <= largest), levels[-1])
    best = 0 if len(starts) == 1 else likest(carried, target, objective, judge, spacing)
    if coarsest.factor <= largest:
        levels.insert(0, coarsest)
    image, known = carried[best]
    first, second = (progress, silent) if closer is None else _halves(progress)
    forward, inverse = from_nothing(image, target, objective, levels, first, spacing=spacing, known=known)
    found = starts[best].after(forward.cpu(), inverse.cpu())
    if closer is None:
        return found
    whole = field_lattice(fixed.grid)
    return detailed(found.on(whole), closer, (moving.values, moving.grid), objective, refine, device, second)


def _halves(progress: Progress) -> tuple[Progress, Progress]:
    """For two parts of a stage that take about as long."""
    return tuple(lambda stage, fraction, n=n: progress(stage, (n + fraction) / 2) for n in range(2))


def _foreground(volume: Volume, margin: int = 4) -> Volume:
    """Without the rim that holds nothing but the image's lowest value: padding costs time and tells nothing."""
    seen = volume.values[0, 0] > volume.values.min()
    along = [seen.amax(others).nonzero() for others in ((1, 2), (0, 2), (0, 1))]
    first = torch.stack([place.min() for place in along]).sub(margin).clamp_min(0)
    last = torch.stack([place.max() for place in along]).add(margin)
    last = torch.minimum(last, torch.tensor(volume.grid.shape) - 1)
    return volume.cropped(first.tolist()[::-1], (last - first + 1).tolist()[::-1])


def require_overlap(fixed: Grid, moving: Grid, alignment: str) -> None:
    """Raise `InputError` if the images share no space and are not to be moved onto each other first."""
    if alignment == "world" and fixed.overlap(moving) == 0 and moving.overlap(fixed) == 0:
        distance = float(np.linalg.norm(fixed.center - moving.center))
        raise InputError(
            f"the images do not overlap in space (their middles are {distance:.0f} mm apart); "
            "begin with their middles on each other",
            "align",
        )
