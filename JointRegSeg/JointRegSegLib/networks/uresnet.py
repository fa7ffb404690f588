"""U-ReSNet (Estienne et al. 2019, "U-ReSNet: Ultimate Coupling of Registration and Segmentation with Deep Nets").

One small encoder of both images together, a decoder for the deformation and one for the moving image's segmentation,
and an affine map from the registration decoder's features, averaged. Settled here, where the paper is silent:

- The layer list. The paper names two blocks of 8 and 16 channels; its authors' counts of parameters, 39,183 with and
  24,631 without segmentation, fit this one: a 3³ convolution to 4 channels; twice a 2³ convolution with stride 2 and
  a 3³ convolution (8, 16 channels); up again by transposed 2³ convolutions to half the width below, the encoder's
  features beside them, and a 3³ convolution; three 3³ convolutions to the answer. Three structures and the background.
- φ(i) = 2 Σ g - 1, g = sigmoid(·), as in `fields.integrate_gradients`; all heads start at zero: the identity.
- The moving image is read at A φ(x), lattice coordinates with the origin in the middle: the deformation first, then the
  affine map (equation 1).

Additions, off in the paper's version (``paper``):

- *velocity*: the deformation is the exponential of a stationary velocity field, means over 2³ voxels of the answer. A
  sum of spatial gradients carries every error on to the far border, across all the empty space around a brain.
- *normalized*: instance normalization, which lets so small a network be trained in minutes.
- *both*: the network runs on the images exchanged, too, which gives the way back and the fixed image's own
  segmentation, where the paper only carries the moving one's over.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .. import fields
from .blocks import zeroed
from .interface import Level, Prediction, RegistrationNetwork, stacked
from .linear import AffineHead


def _layers(inputs: int, outputs: int, normalized: bool) -> list[nn.Module]:
    out: list[nn.Module] = [nn.Conv3d(inputs, outputs, 3, padding=1)]
    if normalized:
        out.append(nn.InstanceNorm3d(outputs, affine=True))
    return [*out, nn.LeakyReLU(0.1, inplace=True)]


class _Decoder(nn.Module):
    """Back to full resolution; ends with as many channels as the second level of the encoder has."""

    def __init__(self, channels: Sequence[int], normalized: bool) -> None:
        super().__init__()
        self.up, self.levels = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for skip in reversed(channels[:-1]):
            self.up.append(nn.Sequential(nn.ConvTranspose3d(width, skip, 2, stride=2), nn.LeakyReLU(0.1, inplace=True)))
            width = 2 * skip
            self.levels.append(nn.Sequential(*_layers(width, width, normalized)))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        for up, level, skip in zip(self.up, self.levels, reversed(features[:-1]), strict=True):
            x = level(torch.cat([up(x), skip], 1))
        return x


def _head(width: int, outputs: int, normalized: bool) -> nn.Sequential:
    return nn.Sequential(
        *_layers(width, width, normalized),
        *_layers(width, width, normalized),
        zeroed(nn.Conv3d(width, outputs, 3, padding=1)),
    )


class UResNet(RegistrationNetwork):
    """Affine map, deformation and segmentation from one encoder.

    Parameters
    ----------
    channels : sequence of int
        Width of each level, fine to coarse; the paper has (4, 8, 16).
    inputs : int
        Channels of an image.
    classes : int
        Labels with the background; 0 leaves the segmentation decoder out.
    velocity, normalized, both : bool
        See the module's text.
    """

    def __init__(
        self,
        channels: Sequence[int] = (4, 8, 16),
        inputs: int = 1,
        classes: int = 4,
        velocity: bool = True,
        normalized: bool = True,
        both: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError("channels needs at least two levels")
        self.inputs, self.velocity, self.both = inputs, velocity, both
        self.divisor = 2 ** (len(channels) - 1)
        self.first = nn.Sequential(*_layers(2 * inputs, channels[0], normalized))
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, width, 2, stride=2),
                nn.LeakyReLU(0.1, inplace=True),
                *_layers(width, width, normalized),
            )
            for before, width in itertools.pairwise(channels)
        )
        width = 2 * channels[0]
        self.registration = _Decoder(channels, normalized)
        self.deformable = _head(width, 3, normalized)
        self.linear = AffineHead(width)
        self.segmentation = _Decoder(channels, normalized) if classes else None
        self.classifier = _head(width, classes, normalized) if classes else None

    @classmethod
    def paper(cls, channels: Sequence[int] = (4, 8, 16), **options: int) -> UResNet:
        """The published network: spatial gradients, no normalization, one direction, the moving image segmented."""
        return cls(channels, velocity=False, normalized=False, both=False, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        pairs = stacked(moving, fixed, self.both)
        features = [self.first(pairs)]
        for level in self.down:
            features.append(level(features[-1]))
        found = self.registration(features)
        answer = self.deformable(found).float()
        gradients = None
        if self.velocity:
            coarse = fields.scale_and_square(F.avg_pool3d(answer, 2))
            displacement = fields.resize(coarse, moving.shape[2:])
        else:
            gradients = torch.sigmoid(answer)
            displacement = fields.integrate_gradients(gradients)
        affine = self.linear(found, moving.shape[2:])
        scores = None
        if self.segmentation is not None:
            scores = self.classifier(self.segmentation(features)).float()
        levels = [Level(displacement, gradients, affine)]
        return Prediction.split(len(moving), displacement, affine, scores, levels)
