"""SVF-Net (Rohé et al. 2017, "SVF-Net: Learning Deformable Image Registration Using Shape Matching").

A U-Net on both images stacked, which answers with a stationary velocity field v: forward is exp(v), backward exp(-v).
It is made for short-axis cardiac MRI of 64 × 64 × 16 voxels, whose slices are thick: the first two levels convolve and
pool within slices (array axes H and W), after which voxels are about as thick as wide; the 3rd and 4th level are 3D.
Settled here, where the paper is silent:

- As in the U-Net that it follows: two convolutions a level (3 × 3, or 3³) with ReLU, maximum pooling by 2, transposed
  convolutions up again, the encoder's features beside them; widths double from 32. Weights begin with a deviation of
  √(2 / inputs of a neuron), without which its features would fade from layer to layer.
- The last layer, a 3 × 3 convolution within slices, starts at zero: the identity. Velocities are in voxels of the
  lattice, channels along D, H, W.
- exp by scaling and squaring with 7 steps.

Additions, off in the paper's version (``paper``):

- *normalized*: instance normalization and leaky ReLU.
- *symmetric*: the network also runs on the images exchanged, and v = (net(m, f) - net(f, m)) / 2: exchanging the images
  exchanges forward and backward exactly.
- *passes*: the network looks again, at both images carried half way to each other by what it has found, and adds to it:
  exp(v / 2) exp(w) exp(v / 2) is exp(v + w) but for terms of third order, and neither image is preferred.
- *coarse*: velocities, and all looks but the first, are at half resolution within slices, which the motion is smooth
  enough for: a fraction of the time.
- *classes*: a second head on the same features segments the first image of the stack, so with *symmetric* both.
- *guided*: looks after the first see the structures, too, as the first has segmented them: where contrasts differ from
  what was trained on, outlines still say what has to come to lie on what.
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

#: Levels whose convolutions stay within slices.
PLANAR = 2
SQUARINGS = 7


def _layers(inputs: int, outputs: int, planar: bool, normalized: bool) -> nn.Sequential:
    """Two convolutions; (N, inputs, D, H, W) → (N, outputs, D, H, W)."""
    kernel, padding = ((1, 3, 3), (0, 1, 1)) if planar else (3, 1)
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        layers.append(nn.Conv3d(before, outputs, kernel, padding=padding))
        if not normalized:
            nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")
            nn.init.zeros_(layers[-1].bias)
        layers += [nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.1, True)] if normalized else [nn.ReLU(True)]
    return nn.Sequential(*layers)


def _step(level: int) -> tuple[int, int, int]:
    """By how much D, H, W shrink from ``level`` to the next."""
    return (1, 2, 2) if level < PLANAR else (2, 2, 2)


class Pool(nn.Module):
    """Maximum of neighbors along the axes whose ``step`` is 2: `nn.MaxPool3d`, which is slower on CPUs."""

    def __init__(self, step: tuple[int, int, int]) -> None:
        super().__init__()
        self.axes = [2 + axis for axis, n in enumerate(step) if n == 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis in self.axes:
            x = torch.maximum(*x.unflatten(axis, (-1, 2)).unbind(axis + 1))
        return x


class SVFNet(RegistrationNetwork):
    """A stationary velocity field, both of its exponentials and both segmentations.

    Parameters
    ----------
    channels : sequence of int
        Width of each level, fine to coarse; the first two are planar.
    inputs : int
        Channels of an image.
    classes : int
        Labels with the background; 0 leaves the segmentation out.
    normalized, symmetric : bool
        See the module's text. Without ``symmetric`` only the moving image is segmented.
    passes : int
        How often the network looks, once or more; the first pass segments.
    coarse, guided : bool
        See the module's text. ``guided`` takes ``symmetric`` and ``classes``.
    """

    def __init__(
        self,
        channels: Sequence[int] = (12, 24, 48, 96),
        inputs: int = 1,
        classes: int = 4,
        normalized: bool = True,
        symmetric: bool = True,
        passes: int = 2,
        coarse: bool = True,
        guided: bool = False,
    ) -> None:
        super().__init__()
        if guided and not (classes and symmetric):
            raise ValueError("guided needs classes, of both images: symmetric")
        if passes < 1:
            raise ValueError(f"passes has to be 1 or more, not {passes}")
        if len(channels) <= PLANAR:
            raise ValueError(f"channels needs more than {PLANAR} levels, the planar ones")
        self.inputs, self.symmetric, self.passes = inputs, symmetric, passes
        self.halved = (1, 2, 2) if coarse else (1, 1, 1)
        self.divisor = 2 ** (len(channels) - (0 if coarse and passes > 1 else 1))
        self.down, self.pool, self.widen, self.up = (nn.ModuleList() for _ in range(4))
        for level, (before, width) in enumerate(itertools.pairwise([2 * inputs, *channels])):
            self.down.append(_layers(before, width, level < PLANAR, normalized))
        for level, (width, below) in enumerate(itertools.pairwise(channels)):
            self.pool.append(Pool(_step(level)))
            self.widen.append(nn.ConvTranspose3d(below, width, _step(level), stride=_step(level)))
            self.up.append(_layers(2 * width, width, level < PLANAR, normalized))
        self.velocity = zeroed(nn.Conv3d(channels[0], 3, (1, 3, 3), padding=(0, 1, 1)))
        self.classifier = nn.Conv3d(channels[0], classes, 1) if classes else None
        # Added to what the first layer makes of the images, and nothing at first, so that it can be learned later.
        self.guide = zeroed(nn.Conv3d(2 * classes, channels[0], (1, 3, 3), padding=(0, 1, 1))) if guided else None

    @classmethod
    def paper(cls, channels: Sequence[int] = (32, 64, 128, 256), **options: int) -> SVFNet:
        """The published network: no normalization, one order of the images, no segmentation."""
        return cls(channels, classes=0, normalized=False, symmetric=False, passes=1, coarse=False, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        n, shape = len(moving), moving.shape[2:]
        features = self._features(stacked(moving, fixed, self.symmetric))
        scores = None if self.classifier is None else self.classifier(features).float()
        sources = torch.cat([moving, fixed])
        if self.guide is not None:
            sources = torch.cat([sources, scores.detach().softmax(1).to(sources.dtype)], 1)
        lattice = [side // factor for side, factor in zip(shape, self.halved, strict=True)]
        velocity = fields.resize(self._velocity(features, n), lattice)
        for _ in range(1, self.passes):
            half = fields.scale_and_square(torch.cat([velocity, -velocity]) / 2, SQUARINGS)
            carried = fields.warp(sources, fields.resize(half, shape).to(moving.dtype))
            carried = F.avg_pool3d(carried, self.halved)
            images, classes = carried[:, : self.inputs], carried[:, self.inputs :]
            images = stacked(images[:n], images[n:], self.symmetric)
            classes = None if self.guide is None else stacked(classes[:n], classes[n:], self.symmetric)
            velocity = velocity + self._velocity(self._features(images, classes), n)
        velocity = torch.cat([velocity, -velocity])
        displacement = fields.resize(fields.scale_and_square(velocity, SQUARINGS), shape)
        levels = [Level(displacement, None, velocity=fields.resize(velocity, shape))]
        return Prediction.split(n, displacement, None, scores, levels)

    def _velocity(self, features: torch.Tensor, n: int) -> torch.Tensor:
        """(N, 3, d, h, w), float32, from the features of N pairs, or of 2 N where images were exchanged, too."""
        velocity = self.velocity(features).float()
        return (velocity[:n] - velocity[n:]) / 2 if self.symmetric else velocity

    def _features(self, x: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 2 inputs, d, h, w) and, where guided, (N, 2 classes, d, h, w) → (N, channels[0], d, h, w)."""
        first = self.down[0][0](x)
        first = first if classes is None else first + self.guide(classes)
        encoded = [self.down[0][1:](first)]
        for pool, down in zip(self.pool, self.down[1:], strict=True):
            encoded.append(down(pool(encoded[-1])))
        x = encoded.pop()
        for widen, up in reversed(list(zip(self.widen, self.up, strict=True))):
            x = up(torch.cat([widen(x), encoded.pop()], 1))
        return x
