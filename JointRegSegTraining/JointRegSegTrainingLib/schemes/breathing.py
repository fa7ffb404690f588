"""Breaths that are simulated on real volumes, so that the true motion is known, and real pairs without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from JointRegSegLib import fields
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung.breathing import Breath, breathe
from JointRegSegLib.networks import Prediction
from JointRegSegLib.networks.linear import inverted
from torch import nn

from ..augment import Augmentation, rotations
from ..objective import memberships
from ..plan import Plan
from ..subjects import Subject
from .pairs import Pairs

#: Spacing in mm of the lattice on which breaths are made: a breath takes a tenth of the time that it takes at 4 mm.
LATTICE = 8.0
#: What the distance from the known motion counts outside of the body, in it, and in the lungs.
OUTSIDE, BODY, LUNGS = 0.05, 0.35, 1.0
#: What the distance of the affine part alone counts.
ALONE = 0.5
#: Knots of a random map of intensities, and the deviations about the mean between which they lie.
KNOTS, REACH = 7, 3.0
#: Distance in mm between the knots of the random shape of another person.
APART = 64.0


@dataclass(frozen=True, eq=False)
class Pair:
    """A simulated pair: (2, C, D, H, W) ``images`` and (2, 1 + K, D, H, W) ``labels``, the moving one first.

    ``displacement`` (1, 3, D, H, W) in voxels takes the fixed lattice to the same tissue in the moving image.
    """

    images: torch.Tensor
    labels: torch.Tensor
    displacement: torch.Tensor


class Breathing(Pairs):
    """Steps with simulated breaths, and steps with real pairs of one person or of two.

    The plan's labels have to be parts of the lungs. A subject of whom some are annotated takes breaths; real pairs
    are compared by the plan's losses alone, labels where both have them.
    """

    def __init__(self, plan: Plan, subjects: Sequence[Subject], device: torch.device) -> None:
        """Raise `InputError` if nobody has lungs to breathe with, or there are too few images."""
        super().__init__(plan, subjects, device)
        self.breathers = [i for i, s in enumerate(subjects) if bool((s.labels > 0).any())]
        if not self.breathers:
            raise InputError("no training image has labels of the lungs, which breathing needs")
        work = plan.preprocessing
        direction = Grid.from_geometry((2, 2, 2)).oriented(work.orientation).direction
        self.grid = Grid.centered((0, 0, 0), work.size, work.spacing, direction)
        self.coarse = _coarser(self.grid, LATTICE)

    def terms(
        self, network: nn.Module, generator: torch.Generator, rank: int = 0, processes: int = 1
    ) -> dict[str, torch.Tensor]:
        """See `Scheme.terms`."""
        if torch.rand((), generator=generator) >= self.plan.breaths.simulated:
            return super().terms(network, generator, rank, processes)
        plan, device = self.plan, self.images.device
        chosen = torch.randint(len(self.breathers), (plan.pairs,), generator=generator)
        seeds = torch.randint(2**62, (plan.pairs,), generator=generator).tolist()
        mine = [(self.breathers[chosen[i]], seeds[i]) for i in range(rank, plan.pairs, processes)]
        pairs = [self.simulated(index, torch.Generator().manual_seed(seed)) for index, seed in mine]
        images, labels = (
            torch.stack([getattr(p, key) for p in pairs], 1).flatten(0, 1) for key in ("images", "labels")
        )
        n = len(mine)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(plan.mixed)):
            prediction = network(images[:n], images[n:])
        # Where the motion is known the likeness of the images has nothing to add.
        weights = replace(plan.weights, similarity=0.0, error=0.0, correlation=0.0, mutual_information=0.0)
        out = self.judged(prediction, images, labels, torch.tensor([index for index, _ in mine] * 2), weights)
        truth = torch.cat([p.displacement for p in pairs])
        weight = _weight(images[n:], 1 - labels[n:, :1])
        out["displacement"] = plan.weights.displacement * missed(prediction, truth, weight)
        return out

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs of different people or, half of the time, both images of each pair from one person."""
        same = torch.rand((), generator=generator) < 0.5
        twins = torch.nonzero((self.owners[:, None] == self.owners) & ~torch.eye(len(self.owners), dtype=torch.bool))
        if not (same and len(twins)):
            return super().draw(generator)
        moving, fixed = twins[torch.randint(len(twins), (self.plan.pairs,), generator=generator)].T
        return moving, fixed

    def simulated(self, index: int, generator: torch.Generator) -> Pair:
        """A breath of the subject of that index, in an anatomy and with brightness of its own."""
        breaths, augmentation = self.plan.breaths, self.plan.augmentation
        image, drawn = self.images[[index] * 2], memberships(self.labels[[index] * 2], self.plan.values)
        image, labels = (x[:1] for x in augmentation.moved(image, drawn, generator))

        def chance(share: float) -> bool:
            return bool(torch.rand((), generator=generator) < share)

        displacement, ratio = self._breath(labels, generator)
        # Lungs keep their mass; the lowest value has none.
        air, lungs = image.amin((2, 3, 4), keepdim=True), 1 - fields.warp(labels[:, :1], displacement)
        fixed = fields.warp(image, displacement)
        fixed = fixed + lungs * (ratio - 1) * (fixed - air)
        images, labels = torch.cat([image, fixed]), torch.cat([labels, fields.warp(labels, displacement)])
        alike = [slice(None)]  # images of one person come from one scanner, those of two may not
        if chance(breaths.people):
            alike = [slice(0, 1), slice(1, 2)]
            there, back = wandered(self.grid, augmentation, breaths.wander, generator)
            there, back = there.to(image), back.to(image)
            images[:1], labels[:1] = fields.warp(images[:1], back), fields.warp(labels[:1], back)
            displacement = fields.compose(there, displacement)
        for chosen in alike:
            if chance(breaths.blanked):
                images[chosen] = torch.where(labels[chosen, :1] > 0.5, images[chosen].amin(), images[chosen])
            if chance(breaths.colors):
                images[chosen] = remapped(images[chosen], generator)
        return Pair(augmentation.toned(images, generator), labels, displacement)

    def _breath(self, labels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The displacement (1, 3, D, H, W) in voxels of a random breath, and the ratio of volumes (1, 1, D, H, W).

        ``labels`` (1, 1 + K, D, H, W) are where the tissue comes from.
        """
        way, ribs, sliding, stiffening = torch.rand(4, generator=generator).tolist()
        breaths, shape = self.plan.breaths, labels.shape[2:]
        depth, side = (2 * way - 1) * breaths.depth, 1.0 if way > 0.5 else -1.0
        breath = Breath(depth, side * ribs * breaths.ribs, sliding * breaths.sliding, stiffening * breaths.stiffening)
        grid = self.coarse
        seen = F.interpolate(labels, size=grid.shape, mode="trilinear", align_corners=False)[0]
        # Right and left lung slide by themselves; which label a part has does not matter to a breath.
        parts = torch.where(seen[0] < 0.5, seen[1:].argmax(0) + 1, 0).cpu().numpy().astype(np.int16)
        stiffness = fields.resize(torch.rand(1, 1, 4, 4, 4, generator=generator), grid.shape, rescale=False)
        if not parts.any():  # the variation has moved them out of the lattice
            return labels.new_zeros(1, 3, *shape), labels.new_ones(1, 1, *shape)
        spacing = max(LATTICE, *grid.spacing)
        still = np.zeros(grid.shape, np.float32)  # the motion alone is asked for
        breathed = breathe(still, grid, parts, breath, stiffness[0, 0].numpy(), None, spacing)
        displacement = fields.to_voxel(torch.from_numpy(breathed.displacement)[None], grid)
        ratio = torch.from_numpy(breathed.volume_ratio)[None, None]
        displacement, ratio = fields.resize(displacement, shape), fields.resize(ratio, shape, rescale=False)
        return displacement.to(labels), ratio.to(labels)


def missed(prediction: Prediction, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean distance in voxels from the (N, 3, D, H, W) truth under a (N, 1, D, H, W) weight, over all levels.

    Where there is an affine part its own distance counts too, `ALONE` as much: it shall take what it can.
    """
    out = truth.new_zeros(())
    n, shape = len(truth), truth.shape[2:]
    for level in prediction.levels:
        small = level.displacement.shape[2:]
        counts, goal = F.adaptive_avg_pool3d(weight, small), fields.resize(truth, small)
        affine = None if level.affine is None else level.affine[:n]
        parts = [(1.0, fields.then_affine(level.displacement[:n], affine))]
        if affine is not None:
            parts.append((ALONE, fields.then_affine(torch.zeros_like(goal), affine)))
        for share, found in parts:
            length = ((found - goal).square().sum(1, keepdim=True) + 1e-4).sqrt() * (shape[0] / small[0])
            each = (length * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)
            out = out + share * each.mean() / len(prediction.levels)
    return out


def _weight(fixed: torch.Tensor, lungs: torch.Tensor) -> torch.Tensor:
    """What each voxel of a (N, C, D, H, W) image counts; the body is what differs from the air around it."""
    first = fixed[:, :1]
    edge = first[:, :, :, [0, -1]].flatten(1).median(1).values  # in front of the chest and behind it
    body = ((first - edge[:, None, None, None, None]).abs() > 0.3).float()
    return torch.maximum(OUTSIDE + (BODY - OUTSIDE) * body, LUNGS * lungs)


def remapped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images through one random piecewise linear map of their intensities, rising, falling or neither.

    Parameters
    ----------
    images : torch.Tensor
        (N, C, D, H, W) with about zero mean and unit deviation; so has the answer.
    """
    place = torch.linspace(-REACH, REACH, KNOTS)
    slope = 3 * torch.rand((), generator=generator) - 1.5
    heights = (slope * place + torch.randn(KNOTS, generator=generator)).to(images)
    position = ((images + REACH) / (2 * REACH) * (KNOTS - 1)).clamp(0, KNOTS - 1 - 1e-4)
    low = position.floor().long()
    out = torch.lerp(heights[low], heights[low + 1], position - low)
    return (out - out.mean()) / out.std().clamp_min(1e-3)


def _coarser(grid: Grid, spacing: float) -> Grid:
    """A lattice of blocks of voxels, at most about ``spacing`` mm wide, that has the same outer borders."""
    most = [max(1, round(spacing / step)) for step in grid.spacing]
    return grid.strided([max(f for f in range(1, m + 1) if n % f == 0) for n, m in zip(grid.size, most, strict=True)])


def wandered(
    grid: Grid, augmentation: Augmentation, deviation: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random pose (``own_*``) and smooth change of shape, and its inverse: (1, 3, D, H, W) voxels of ``grid`` each.

    The first is an affine map after the exponential of a velocity of that ``deviation`` in mm, so that the second is
    exact but for interpolation.
    """

    def uniform(*size: int) -> torch.Tensor:
        return 2 * torch.rand(*size, generator=generator) - 1

    turn = rotations(torch.deg2rad(augmentation.own_rotation * uniform(1, 3)))[0]
    linear = turn @ torch.diag(torch.exp(augmentation.own_stretch * uniform(3)))
    center = torch.tensor([(n - 1) / 2 for n in grid.shape])
    shift = center + augmentation.own_translation * uniform(3) - linear @ center
    pose = torch.cat([linear, shift[:, None]], 1)[None]
    small = _coarser(grid, LATTICE)
    knots = torch.randn(1, 3, *(max(round(width / APART), 2) for width in grid.extent[::-1]), generator=generator)
    velocity = deviation / float(small.spacing.mean()) * fields.resize(knots, small.shape, rescale=False)
    there, back = (fields.resize(fields.scale_and_square(sign * velocity), grid.shape) for sign in (1, -1))
    undone = fields.then_affine(torch.zeros_like(there), inverted(pose))
    return fields.then_affine(there, pose), fields.compose(back, undone)
