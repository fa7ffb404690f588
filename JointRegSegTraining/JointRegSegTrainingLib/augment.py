"""Random variation of training images: pose and shape by one resampling, then intensities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from JointRegSegLib import fields
from JointRegSegLib.geometry import affine_coordinates, sample


@dataclass(frozen=True)
class Augmentation:
    """Ranges; lengths in voxels, angles in degrees.

    ``rotation``, ``translation``, ``zoom`` and ``flips`` (probability along D, H, W) are the same for both images of a
    pair, as in Estienne et al. 2020; ``own_rotation``, ``own_translation``, ``own_stretch`` (of each axis by itself)
    and ``elastic`` differ, so that there are more shapes than subjects; ``stretch`` is for both. W is right and left,
    which both occur; a flip of H helps with files that have lost their orientation. ``planar`` keeps all motion but
    ``stretch``, and ``blur``, within slices (H, W), for voxels much thicker than wide.

    Intensities vary in each image by itself. ``structures`` makes each labeled structure brighter or darker than it is,
    so that what is learned is less of one scanner's contrast; ``blur`` takes the mean of neighbors, or sharpens.
    """

    rotation: float = 15
    translation: float = 4
    zoom: float = 0.15
    stretch: float = 0.0
    flips: tuple[float, float, float] = (0.0, 0.25, 0.5)
    own_rotation: float = 5
    own_translation: float = 2
    own_stretch: float = 0.0
    elastic: float = 1.5
    contrast: float = 0.15
    structures: float = 0.0
    blur: float = 0.0
    gamma: float = 0.0
    bias: float = 0.2
    noise: float = 0.1
    planar: bool = False

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vary pairs: images (2 N, C, D, H, W) with memberships (2 N, K, D, H, W), partners N places apart."""
        images, labels = self.moved(images, labels, generator)
        return self.toned(self.recolored(images, labels, generator), generator), labels

    def moved(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vary the pose and the shape alone, by one resampling."""
        count, shape = images.shape[0], images.shape[2:]
        device = images.device

        uniform = partial(_uniform, generator, device)

        def paired(*size: int) -> torch.Tensor:
            return uniform(count // 2, *size).repeat(2, *[1] * len(size))

        angles = torch.deg2rad(self.rotation * paired(3) + self.own_rotation * uniform(count, 3))
        along = torch.tensor([0.0 if self.planar else 1.0, 1.0, 1.0], device=device)
        if self.planar:
            angles[:, 1:] = 0
        scale = torch.exp(
            along * (self.zoom * paired(1) + self.own_stretch * uniform(count, 3)) + self.stretch * paired(3)
        )[:, :, None]
        linear = rotations(angles) * scale
        chance = torch.tensor(self.flips, device=device)
        linear = linear * torch.where((paired(3) + 1) / 2 < chance, -1.0, 1.0)[:, None, :]
        center = torch.tensor([(n - 1) / 2 for n in shape], device=device)
        shift = along * (self.translation * paired(3) + self.own_translation * uniform(count, 3))
        offset = center + shift - linear @ center
        coordinates = affine_coordinates(torch.cat([linear, offset[:, :, None]], 2), shape, images)
        if self.elastic:
            coarse = [max(n // 10, 2) for n in shape]
            waves = torch.randn(count, 3, *coarse, generator=generator).to(device)
            waves = waves * along.view(1, 3, 1, 1, 1)
            coordinates = coordinates + self.elastic * fields.resize(waves, shape, rescale=False)
        both = sample(torch.cat([images, labels], 1), coordinates)
        return both.split([images.shape[1], labels.shape[1]], 1)

    def recolored(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Vary the brightness of structures by themselves, and the sharpness."""
        uniform = partial(_uniform, generator, images.device)
        if self.structures:
            offsets = uniform(*labels.shape[:2], 1, 1, 1)
            images = images + self.structures * (offsets * labels).sum(1, keepdim=True)
        if self.blur:
            window = (1 if self.planar else 3, 3, 3)
            padding = tuple(n // 2 for n in window)
            mean = F.avg_pool3d(images, window, stride=1, padding=padding, count_include_pad=False)
            images = images + self.blur * uniform(len(images), 1, 1, 1, 1) * (mean - images)
        return images

    def toned(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Vary the intensities alone, of each image by itself."""
        count, shape, device = images.shape[0], images.shape[2:], images.device

        uniform = partial(_uniform, generator, device)
        if self.gamma:
            low, high = (f(images, (1, 2, 3, 4), keepdim=True) for f in (torch.amin, torch.amax))
            span = (high - low).clamp_min(1e-6)
            images = low + span * ((images - low) / span) ** torch.exp(self.gamma * uniform(count, 1, 1, 1, 1))
        coarse = [4] * 3
        log_gain = fields.resize(torch.randn(count, 1, *coarse, generator=generator).to(device), shape, rescale=False)
        images = images * torch.exp(self.contrast * uniform(count, 1, 1, 1, 1)) + self.bias * log_gain
        images = images + self.contrast * uniform(count, 1, 1, 1, 1)
        noise = torch.randn(images.shape, generator=generator).to(device)
        return images + self.noise * uniform(count, 1, 1, 1, 1).abs() * noise


def rotations(angles: torch.Tensor) -> torch.Tensor:
    """Matrices (N, 3, 3) of rotations about the axes D, H, W at once, by (N, 3) radians."""
    skew = torch.zeros(len(angles), 3, 3, device=angles.device)
    for axis, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        skew[:, a, b], skew[:, b, a] = -angles[:, axis], angles[:, axis]
    return torch.matrix_exp(skew)


def _uniform(generator: torch.Generator, device: torch.device, *size: int) -> torch.Tensor:
    """Between -1 and 1; drawn on the CPU, so that all devices see the same."""
    return 2 * torch.rand(*size, generator=generator).to(device) - 1
