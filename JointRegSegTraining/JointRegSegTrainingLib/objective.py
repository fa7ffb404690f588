"""The loss of a batch of pairs: every term of every paper, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from JointRegSegLib import fields, losses
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import Level, Prediction
from JointRegSegLib.similarity import dissimilarity

from .plan import Weights


def memberships(labels: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    """(N, 1, D, H, W) whole numbers → (N, 1 + K, D, H, W) one-hot memberships, background first."""
    found = [(labels == value).float() for value in values]
    return torch.cat([1 - sum(found), *found], 1)


def completed(labels: torch.Tensor, known: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Memberships of 2 N images, moving first, with what nobody annotated taken from the network's segmentation.

    What was drawn stays as drawn; the rest of each voxel is shared out among the background and the structures that
    were not annotated, as the network sees them (Xu and Niethammer 2019, equation 2, where an image has all or none).
    """
    scores = (prediction.moving_segmentation, prediction.fixed_segmentation)
    if any(s is None for s in scores):
        raise InputError("'complete' needs a network that segments both images; leave it out")
    open_ = torch.cat([torch.ones_like(known[:, :1]), ~known], 1)[:, :, None, None, None]
    guess = torch.cat(scores).float().contiguous().softmax(1) * open_
    drawn = labels * ~open_
    return drawn + guess / guess.sum(1, keepdim=True).clamp_min(1e-6) * (1 - drawn.sum(1, keepdim=True))


def one_way(prediction: Prediction, n: int) -> Prediction:
    """Of the answer for N pairs the direction from moving to fixed alone, as of a network that gives no other."""
    levels = []
    for level in prediction.levels:
        parts = (level.displacement, level.gradients, level.affine, level.velocity)
        levels.append(Level(*(None if part is None else part[:n] for part in parts)))
    return replace(prediction, backward=None, backward_affine=None, levels=levels)


def objective(
    prediction: Prediction,
    images: torch.Tensor,
    labels: torch.Tensor,
    weights: Weights,
    known: torch.Tensor | None = None,
    complete: bool = False,
    segmented: Sequence[int] | None = None,
    unannotated: bool = False,
) -> dict[str, torch.Tensor]:
    """Loss terms, weighted, of a batch of N pairs.

    Each level of the deep supervision is compared at its own resolution, and the answer's overlap once more at the
    image's, so that details weigh more than coarse levels; both directions count alike. What has no weight is not
    computed.

    Parameters
    ----------
    images : torch.Tensor
        (2 N, C, D, H, W), moving first.
    labels : torch.Tensor
        (2 N, 1 + K, D, H, W) memberships, background first.
    known : torch.Tensor or None
        (2 N, K) bool: the structures that were annotated; None for all. Overlap counts those known in both images.
    complete : bool
        Take what is not annotated from the network's own segmentation, wherever one image of a pair has annotations;
        the network has to segment every label then.
    segmented : sequence of int or None
        Places among the K labels of those that the network segments; None for all.
    unannotated : bool
        With ``complete``: where no image of a pair has annotations, too, if the segmentation is not being trained.
    """
    n = images.shape[0] // 2
    known = labels.new_ones(labels.shape[0], labels.shape[1] - 1, dtype=torch.bool) if known is None else known
    counted = known & known.roll(n, 0)
    targets = labels
    if complete:
        targets = completed(labels, known, prediction)
        resting = not (prediction.moving_segmentation.requires_grad or prediction.fixed_segmentation.requires_grad)
        counted = (known | known.roll(n, 0)).any(1, keepdim=True).expand_as(known) | (unannotated and resting)
    out = {name: images.new_zeros(()) for name in asdict(weights)}
    used = {name for name, weight in asdict(weights).items() if weight}
    share = 1 / len(prediction.levels)
    for level in prediction.levels:
        u, count = level.displacement, len(level.displacement)
        moving, fixed, moving_labels, target = (
            _at(x[:count], u.shape[2:]) for x in (images, images.roll(n, 0), targets, targets.roll(n, 0))
        )
        total = fields.then_affine(u, level.affine)
        if used & {"similarity", "error", "correlation", "mutual_information"}:
            warped = fields.warp(moving, total)
            window = 9 if u.shape[2:] == images.shape[2:] else 5
            if "similarity" in used:
                out["similarity"] += share * losses.local_correlation(warped, fixed, window)
            if "error" in used:
                out["error"] += share * losses.mse(warped, fixed)
            if "correlation" in used:
                out["correlation"] += share * losses.correlation(warped, fixed)
            if "mutual_information" in used:
                out["mutual_information"] += share * dissimilarity("mi", warped, fixed)
        if "overlap" in used:
            out["overlap"] += share * _overlap(moving_labels[:, 1:], target[:, 1:], total, counted[:count])
        if "gradient" in used and level.gradients is not None:
            out["gradient"] += share * losses.gradient_deviation(level.gradients)
        if "affine" in used and level.affine is not None:
            out["affine"] += share * losses.affine_deviation(level.affine, u.shape[2:])
        if "folding" in used:
            out["folding"] += share * losses.folding(u)
        if "smoothness" in used:
            out["smoothness"] += share * losses.diffusion(u)
        if "bending" in used:
            out["bending"] += share * losses.bending(u)
        if count > n and "inverse" in used:
            out["inverse"] += share * losses.inverse_consistency(total[:n], total[n:])
    if "overlap" in used and len(prediction.levels) > 1:
        both = [way for way in (prediction.there, prediction.back) if way is not None]
        count = n * len(both)
        moving_labels, target = targets[:count, 1:], targets.roll(n, 0)[:count, 1:]
        out["overlap"] = out["overlap"] + _overlap(moving_labels, target, torch.cat(both), counted[:count])
    scores = [s for s in (prediction.moving_segmentation, prediction.fixed_segmentation) if s is not None]
    if scores and "segmentation" in used:
        count = n * len(scores)
        chosen = list(range(known.shape[1]) if segmented is None else segmented)
        target = labels[:count, 1:][:, chosen]
        target = torch.cat([1 - target.sum(1, keepdim=True), target], 1)
        drawn = known[:count, chosen]
        out["segmentation"] = losses.segmentation(torch.cat(scores), target, drawn, _shared(drawn))
    return {name: value * getattr(weights, name) for name, value in out.items()}


def _overlap(
    moving: torch.Tensor, fixed: torch.Tensor, displacement: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """`losses.dice` of memberships carried over; of many structures that is dear, so not where none is counted."""
    count = _shared(counted)
    if not counted.any():
        return 0 * displacement.mean()  # which keeps its place among the gradients
    return losses.dice(fields.warp(moving, displacement), fixed, known=counted, count=count)


def _shared(counted: torch.Tensor) -> torch.Tensor:
    """How many there are, on average over the processes that share a batch, of which each may have more or fewer."""
    return reduce(counted.sum().float(), "mean")


def _at(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(N, C, D, H, W) averaged down to ``shape``."""
    return image if image.shape[2:] == shape else F.adaptive_avg_pool3d(image, shape)
