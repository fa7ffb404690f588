"""Differentiable measures of how well two images, label maps or fields agree. Lower is better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from . import fields
from .precision import full


def mse(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared difference of two (N, C, D, H, W) images; within ``mask`` (N, 1, D, H, W) where there is one."""
    return _mean((a - b).square(), mask)


@full
def box_mean(image: torch.Tensor, window: int) -> torch.Tensor:
    """Mean over ``window``³ voxels around each voxel, (N, C, D, H, W) → the same; at borders over the voxels there.

    Products with band matrices: on a CPU several times as fast as pooling, forth and back.
    """
    depth, height, width = (_neighbors(n, window, image) for n in image.shape[2:])
    image = height @ (image @ width.T)
    return (depth @ image.flatten(-2)).view(image.shape)


def _neighbors(n: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """(n, n), of the type and place of ``like``: in each row the share of every voxel in the mean around one."""
    index = torch.arange(n, device=like.device)
    near = ((index[:, None] - index).abs() <= window // 2).to(like)
    return near / near.sum(1, keepdim=True)


def local_correlation(
    a: torch.Tensor, b: torch.Tensor, window: int = 9, mask: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """One minus the squared local correlation coefficient over ``window``³ voxels (Avants et al. 2008).

    Returns 0 for images that are locally linear functions of each other. ``window`` is odd. ``eps`` is added to the
    product of the local variances: regions flatter than that count as uncorrelated instead of as noise.
    """
    if window % 2 == 0:
        raise ValueError(f"the window has to be odd, not {window}")
    # In two parts, for an image that stays the same needs no gradient.
    ma, maa, mab = box_mean(torch.cat([a, a * a, a * b], 1), window).chunk(3, 1)
    mb, mbb = box_mean(torch.cat([b, b * b], 1), window).chunk(2, 1)
    cross, va, vb = mab - ma * mb, (maa - ma * ma).clamp_min(0), (mbb - mb * mb).clamp_min(0)
    return _mean(1 - cross * cross / (va * vb + eps), mask)


def correlation(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """One minus the correlation coefficient of two (N, C, D, H, W) images, over the whole image or ``mask``."""
    a = a - _mean(a, mask, keep=True)
    b = b - _mean(b, mask, keep=True)
    cross, va, vb = (_mean(x, mask, keep=True) for x in (a * b, a * a, b * b))
    return (1 - cross / (va * vb + 1e-10).sqrt()).mean()


def mutual_information(
    a: torch.Tensor, b: torch.Tensor, bins: int = 32, mask: torch.Tensor | None = None, samples: int = 65536
) -> torch.Tensor:
    """Negative mutual information in nats, with a linear Parzen window (Mattes et al. 2003 use a cubic one).

    Parameters
    ----------
    a, b : torch.Tensor
        (N, C, D, H, W) images in [0, 1]; values outside are cut. Each channel has a histogram of its own.
    samples : int
        Only every n-th voxel is counted, so that about this many remain.
    """
    out = []
    for i, c in itertools.product(range(a.shape[0]), range(a.shape[1])):
        keep = None if mask is None else mask[i].reshape(-1) > 0.5
        stride = max(1, (a[i, c].numel() if keep is None else int(keep.sum())) // samples)
        while math.gcd(stride, a[i, c].numel()) > 1:  # or it would come back to the same few columns of the volume
            stride += 1
        x, y = (image[i, c].reshape(-1)[::stride] for image in (a, b))
        if keep is not None:
            x, y = x[keep[::stride]], y[keep[::stride]]
        joint = _parzen(x, bins).T @ _parzen(y, bins)
        joint = joint / joint.sum().clamp_min(1e-10)
        independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        out.append(-(joint * ((joint + 1e-10) / (independent + 1e-10)).log()).sum())
    return torch.stack(out).mean()


def _parzen(values: torch.Tensor, bins: int) -> torch.Tensor:
    """(n,) values in [0, 1] → (n, bins) weights of a hat function, differentiable almost everywhere."""
    position = values.clamp(0, 1) * (bins - 1)
    centers = torch.arange(bins, device=values.device, dtype=values.dtype)
    return (1 - (position[:, None] - centers).abs()).clamp_min(0)


def dice(
    a: torch.Tensor,
    b: torch.Tensor,
    eps: float = 1e-3,
    known: torch.Tensor | None = None,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """One minus the soft Dice coefficient with squares below (Milletari et al. 2016), mean over labels and batch.

    Parameters
    ----------
    a, b : torch.Tensor
        (N, K, D, H, W) memberships without the background; a label absent from both counts as perfect.
    known : torch.Tensor, optional
        (N, K), 1 or true for the labels that an image's data set has; the mean is over them, and 0 if there are none.
    count : torch.Tensor, optional
        Scalar, what the sum is divided by instead of the number of ``known`` ones: their mean over several processes,
        each of which has a part of a batch.
    """
    a, b = a.flatten(2), b.flatten(2)
    sizes = [torch.linalg.vecdot(x, x) for x in (a, b)]
    missed = 1 - (2 * torch.linalg.vecdot(a, b) + eps) / (sum(sizes) + eps)
    if known is None:
        return missed.mean()
    known = known.to(missed.dtype)
    return (missed * known).sum() / (known.sum() if count is None else count).clamp_min(1e-6)


def segmentation(
    scores: torch.Tensor, labels: torch.Tensor, known: torch.Tensor | None = None, count: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy and Dice of class scores against memberships.

    Parameters
    ----------
    scores, labels : torch.Tensor
        (N, 1 + K, D, H, W), the background first. A label that an image lacks is background in its ``labels``.
    known : torch.Tensor, optional
        (N, K) as in `dice`. What an image's data set did not annotate may be hidden in its background: there the
        probability of either is right (the marginal loss of Shi et al. 2021).
    count : torch.Tensor, optional
        As in `dice`.
    """
    # Of convolutions on a CPU the classes of a voxel lie side by side, unlike the labels.
    scores = scores.contiguous()
    log = scores.log_softmax(1)
    probabilities = log.exp()
    if known is not None and not known.all():
        # Background and unknown labels form one class: each of them gets the probability of all.
        merged = F.pad(~known.bool(), (1, 0), value=True)[:, :, None, None, None]
        together = log.masked_fill(~merged, -torch.inf).logsumexp(1, keepdim=True)
        log = torch.where(merged, together, log)
    entropy = -torch.linalg.vecdot(labels.flatten(1), log.flatten(1)).mean() / labels[0, 0].numel()
    return entropy + dice(probabilities[:, 1:], labels[:, 1:], known=known, count=count)


def gradient_deviation(gradients: torch.Tensor) -> torch.Tensor:
    """Mean distance of spatial gradients from those of the identity, 0.5 (Estienne et al. 2020, L_smo)."""
    return (gradients - 0.5).abs().mean()


def affine_deviation(matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Mean distance of affine maps from the identity (Estienne et al. 2019, equation 5).

    Parameters
    ----------
    matrix : torch.Tensor
        (N, 3, 4) voxel matrices of a lattice with (D, H, W) ``shape``.

    Returns
    -------
    torch.Tensor
        Mean of the linear part's difference from the identity and of the shift of the lattice's middle, in halves of
        its sides.
    """
    half = torch.tensor([(n - 1) / 2 for n in shape], device=matrix.device)
    linear = matrix[:, :, :3] - torch.eye(3, device=matrix.device)
    shift = (linear @ half + matrix[:, :, 3]) / half
    return torch.cat([linear, shift[:, :, None]], 2).abs().mean()


def diffusion(displacement: torch.Tensor, spacing: Sequence[float] = (1, 1, 1)) -> torch.Tensor:
    """Mean squared gradient of a displacement, per voxel unit or with ``spacing`` of D, H, W per mm."""
    total = displacement.new_zeros(())
    for axis in range(3):
        if displacement.shape[2 + axis] > 1:
            total = total + (displacement.diff(dim=2 + axis) / spacing[axis]).square().mean()
    return total


def bending(displacement: torch.Tensor) -> torch.Tensor:
    """Mean over voxels of the squared Hessians, summed over components (Xu and Niethammer 2019, equation 5).

    In voxel units; zero for every affine map. Mixed derivatives count twice, once for either order.
    """
    total = displacement.new_zeros(())
    for a in range(3):
        pure = displacement.diff(n=2, dim=2 + a).square()
        mixed = [2 * displacement.diff(dim=2 + a).diff(dim=2 + b).square() for b in range(a)]
        total = total + sum(x.sum(1).mean() for x in [pure, *mixed] if x.numel())
    return total


def folding(displacement: torch.Tensor, margin: float = 0.1) -> torch.Tensor:
    """How far Jacobian determinants lie below ``margin``, on average."""
    return (margin - fields.jacobian_determinant(displacement)).clamp_min(0).mean()


def mass_change(
    moved: torch.Tensor, fixed: torch.Tensor, ratio: torch.Tensor, inside: torch.Tensor, window: int
) -> torch.Tensor:
    """Mean square of how much mass changes over ``window``³ voxels, for the mean mass there is.

    Where tissue is compressed it is denser (Yin et al. 2009, doi:10.1118/1.3193526). Mass that comes or goes everywhere
    alike, with blood or another calibration, does not count.

    Parameters
    ----------
    moved, fixed : torch.Tensor
        (N, 1, D, H, W) tissue in a voxel's volume: of the moving image, carried over, and of the fixed one.
    ratio : torch.Tensor
        Of the same shape, Jacobian determinant of the map by which ``moved`` was carried over.
    inside : torch.Tensor
        Of the same shape, 1 where mass is kept and 0 elsewhere.
    """
    found, target = moved * ratio * inside, fixed * inside
    dims = (1, 2, 3, 4)
    whole = target.sum(dims, keepdim=True).clamp_min(1e-6)
    found = found * (whole / found.sum(dims, keepdim=True).clamp_min(1e-6)).detach()
    count = inside.sum(dims, keepdim=True).clamp_min(1)
    change = box_mean(found - target, window) / box_mean(inside, window).clamp_min(0.1) * (count / whole)
    return (change.square() * inside).sum() / count.sum()


def inverse_consistency(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """Mean squared distance in voxels by which going there and back misses the start, both ways around."""
    there = fields.compose(backward, forward)
    back = fields.compose(forward, backward)
    return (there.square().sum(1).mean() + back.square().sum(1).mean()) / 2


def _mean(values: torch.Tensor, mask: torch.Tensor | None, keep: bool = False) -> torch.Tensor:
    """Mean over space (and, unless ``keep``, over batch and channels too), weighted by ``mask``."""
    if mask is None:
        return values.mean((2, 3, 4), keepdim=True) if keep else values.mean()
    weighted = (values * mask).sum((2, 3, 4), keepdim=True) / mask.sum((2, 3, 4), keepdim=True).clamp_min(1e-6)
    return weighted if keep else weighted.mean()
