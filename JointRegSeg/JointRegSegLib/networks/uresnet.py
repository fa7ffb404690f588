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
- *passes*: the network looks again, at the image carried over by what it has found, and the maps are composed. Each
  look but the last one is at half the resolution of the next: large motion first, for an eighth of the time.
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
from .linear import AffineHead, composed, inverted, refined


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
    passes : int
        How often the network looks, once or more.
    """

    def __init__(
        self,
        channels: Sequence[int] = (4, 8, 16),
        inputs: int = 1,
        classes: int = 4,
        velocity: bool = True,
        normalized: bool = True,
        both: bool = True,
        passes: int = 2,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError("channels needs at least two levels")
        if passes < 1:
            raise ValueError(f"passes has to be 1 or more, not {passes}")
        self.inputs, self.velocity, self.both, self.passes = inputs, velocity, both, passes
        self.divisor = 2 ** (len(channels) + passes - 2)
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
        return cls(channels, velocity=False, normalized=False, both=False, passes=1, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        pairs = stacked(moving, fixed, self.both)
        sources, targets = pairs.chunk(2, 1)
        displacement, affine, gradients = self._look(pairs, 2 ** (self.passes - 1))
        for remaining in reversed(range(self.passes - 1)):
            so_far = fields.then_affine(displacement, affine)
            carried = fields.warp(sources, so_far.to(sources.dtype))
            more, turn, gradients = self._look(torch.cat([carried, targets], 1), 2**remaining)
            affine = composed(affine, turn)
            total = fields.compose(so_far, fields.then_affine(more, turn))
            displacement, gradients = fields.then_affine(total, inverted(affine)), None
        scores = None
        if self.segmentation is not None:
            scores = self.classifier(self.segmentation(self._encoded(pairs))).float()
        return Prediction.split(len(moving), displacement, affine, scores, [Level(displacement, gradients, affine)])

    def _encoded(self, pairs: torch.Tensor) -> list[torch.Tensor]:
        """(N, 2 C, D, H, W) → features of each level, fine to coarse."""
        features = [self.first(pairs)]
        for level in self.down:
            features.append(level(features[-1]))
        return features

    def _look(self, pairs: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What a look at (N, 2 C, D, H, W) images finds, averaged over blocks of ``factor``³ voxels first.

        Displacement (N, 3, D, H, W), the affine map (N, 3, 4) after it, and the gradients that the first is made of.
        """
        shape, seen = pairs.shape[2:], F.avg_pool3d(pairs, factor) if factor > 1 else pairs
        found = self.registration(self._encoded(seen))
        answer, affine = self.deformable(found).float(), self.linear(found, seen.shape[2:])
        if self.velocity:
            displacement, gradients = fields.scale_and_square(F.avg_pool3d(answer, 2)), None
        else:
            gradients = torch.sigmoid(answer)
            displacement = fields.integrate_gradients(gradients)
        return fields.resize(displacement, shape), refined(affine, factor), gradients
