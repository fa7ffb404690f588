"""DeepAtlas (Xu and Niethammer 2019, "DeepAtlas: Joint Semi-Supervised Learning of Image Registration and
Segmentation").

Two networks that share no weights and teach each other while they are trained: `registration` maps a pair of images to
a displacement, `segmentation` an image to its labels. The paper names their designs only; settled here, with the widths
of its authors' code:

- Registration is VoxelMorph (Balakrishnan et al. 2018), a U-Net on the stacked pair. An encoder of 3³ convolutions with
  16, 32, 32, 32, 32 channels, stride 2 but in the first; one of 32 at the coarsest level; on the way up, by the nearest
  neighbor, the encoder's features beside it and convolutions with 32, 32, 32, 8 channels; one more of 8. Leaky ReLU
  with a slope of 0.2, no normalization. The last layer starts at zero: the identity.
- Segmentation is a light 3D U-Net: two convolutions a level with 16, 32, 64, 64 channels and leaky ReLU. It halves by
  strided convolutions and normalizes by instance, since a batch holds a pair or two.
- Displacements are in voxels, where the paper scales coordinates to -1 … 1, and so is `losses.bending`: the paper's
  weight of it does not carry over.

Six additions, off in the paper's version (``paper``):

- *velocity*: the network's field is a stationary velocity, integrated by scaling and squaring, so that nothing folds
  and the negated one gives the way back.
- *stride*: registration computes at half resolution and its field is enlarged. It is smooth anyhow, and the network
  several times faster.
- *normalized*: registration normalizes by instance, too, and learns faster.
- *passes*: registration looks again, at the moving image carried over by what it has found, and the maps are composed.
- *demons*: so many steps of demons on the segmentations of both images end the registration, so that what few labels
  taught the one network helps the other with every pair, not in its training alone.
- *both*: the way back, too. Without velocity the network runs on the images exchanged.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .. import demons, fields
from .blocks import Decoder, Encoder, zeroed
from .interface import Level, Prediction, RegistrationNetwork, stacked


def _layer(inputs: int, outputs: int, stride: int = 1, normalized: bool = False) -> nn.Sequential:
    norm = [nn.InstanceNorm3d(outputs, affine=True)] if normalized else []
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, padding=1), *norm, nn.LeakyReLU(0.2, inplace=True))


class VoxelMorph(nn.Module):
    """Pairs (N, 2 C, D, H, W) → field (N, 3, d, h, w), where d, h, w are D, H, W divided by ``stride``.

    Parameters
    ----------
    inputs : int
        Channels of a pair.
    encoder, decoder : sequence of int
        Width of each convolution. The decoder's first one is at the coarsest level, as many as there are finer levels
        follow on the way up, and what is left is at the finest one.
    normalized : bool
        By instance, in front of each leaky ReLU.
    """

    def __init__(
        self, inputs: int, encoder: Sequence[int], decoder: Sequence[int], stride: int, normalized: bool = False
    ) -> None:
        super().__init__()
        layer = partial(_layer, normalized=normalized)
        if len(decoder) < len(encoder):
            raise ValueError("decoder needs at least as many widths as encoder")
        self.down = nn.ModuleList([layer(inputs, encoder[0], stride)])
        self.down.extend(layer(before, width, 2) for before, width in itertools.pairwise(encoder))
        self.bottom = layer(encoder[-1], decoder[0])
        skips = list(reversed(encoder[:-1]))
        self.up = nn.ModuleList(
            layer(before + skip, width) for before, skip, width in zip(decoder, skips, decoder[1:], strict=False)
        )
        self.last = nn.Sequential(*itertools.starmap(layer, itertools.pairwise(decoder[len(skips) :])))
        self.field = zeroed(nn.Conv3d(decoder[-1], 3, 3, padding=1))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        features = [self.down[0](pairs)]
        for layer in self.down[1:]:
            features.append(layer(features[-1]))
        x = self.bottom(features.pop())
        for layer in self.up:
            skip = features.pop()
            x = layer(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        return self.field(self.last(x)).float()


class UNet(nn.Module):
    """Images (N, C, D, H, W) → class scores (N, K, D, H, W).

    Parameters
    ----------
    channels : sequence of int
        Width of each level, fine to coarse.
    convolutions : int
        3³ convolutions a level.
    """

    def __init__(self, inputs: int, channels: Sequence[int], convolutions: int, classes: int) -> None:
        super().__init__()
        counts = [convolutions] * len(channels)
        self.encoder = Encoder(inputs, channels, counts)
        self.decoder = Decoder(channels, counts)
        self.classifier = nn.Conv3d(channels[0], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.decoder(self.encoder(images))[0]).float()


class DeepAtlas(RegistrationNetwork):
    """A registration and a segmentation network.

    Parameters
    ----------
    encoder, decoder : sequence of int
        Widths of the registration network, see `VoxelMorph`.
    channels : sequence of int
        Width of each level of the segmentation network, fine to coarse.
    convolutions : int
        3³ convolutions a level of the segmentation network.
    inputs : int
        Channels of an image.
    classes : int
        Labels with the background; 0 leaves the segmentation network out.
    velocity, both, normalized : bool
        See the module's text.
    stride : int
        1 for a field at full resolution, 2 for half.
    passes : int
        How often registration looks, once or more.
    demons : int
        Steps of demons after that.
    """

    def __init__(
        self,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32, 16),
        channels: Sequence[int] = (8, 16, 32, 64),
        convolutions: int = 2,
        inputs: int = 1,
        classes: int = 3,
        velocity: bool = True,
        stride: int = 2,
        both: bool = True,
        normalized: bool = False,
        passes: int = 1,
        demons: int = 0,
    ) -> None:
        super().__init__()
        if passes < 1:
            raise ValueError(f"passes has to be 1 or more, not {passes}")
        if demons and not classes:
            raise ValueError("demons need a segmentation: classes of 2 or more")
        self.inputs, self.velocity, self.both, self.passes = inputs, velocity, both, passes
        self.demons, self.seeks_agreement = demons, demons > 0
        self.divisor = max(stride, 2 ** (len(channels) - 1) if classes else 1)
        self.registration = VoxelMorph(2 * inputs, encoder, decoder, stride, normalized)
        self.segmentation = UNet(inputs, channels, convolutions, classes) if classes else None

    @classmethod
    def paper(cls, **options: int) -> DeepAtlas:
        """The published system: a displacement at full resolution, one direction."""
        widths = {"encoder": (16, 32, 32, 32, 32), "decoder": (32, 32, 32, 32, 8, 8), "channels": (16, 32, 64, 64)}
        return cls(**{**widths, "convolutions": 2, "velocity": False, "stride": 1, "both": False, **options})

    def register(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Displacements (N, 3, D, H, W) of two (N, C, D, H, W) images; with ``both`` (2 N, …), then the way back."""
        n, found = len(moving), self._look(moving, fixed)
        for _ in range(1, self.passes):
            found = fields.further(found, self._look(fields.warp(moving, found[:n]), fixed), n)
        return found

    def _look(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        found = self.registration(stacked(moving, fixed, self.both and not self.velocity))
        if self.velocity:
            found = fields.scale_and_square(torch.cat([found, -found]) if self.both else found)
        return fields.resize(found, moving.shape[2:])

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        displacement = self.register(moving, fixed)
        scores = None if self.segmentation is None else self.segmentation(torch.cat([moving, fixed]))
        if self.demons:
            # Registration learns to make use of the segmentation as it is, not to bend it to its own ends.
            seen = scores.detach().softmax(1)[:, 1:].split(len(moving))
            displacement = demons.steps(*seen, displacement, self.demons)
        return Prediction.split(len(moving), displacement, None, scores, [Level(displacement, None)])
