"""Linear and deformable registration in one pass (Christodoulidis et al. 2018, "Linear and Deformable Image
Registration with 3D Convolutional Neural Networks").

An encoder of dilated convolutions that keeps full resolution; its layers and the images themselves are merged into 290
features. Two branches read them: a squeeze-and-excitation block and plain convolutions give the spatial gradients, an
average over the volume and a linear layer the affine map. Settled here, where the paper is silent:

- Five 3³ layers with dilations 1, 1, 2, 3, 5, as in the encoder that the paper refers to; this gives its receptive
  field of 25³. Their widths, 288 together, are (32, 32, 64, 64, 96).
- The gradient branch has three 3³ convolutions of 64, 32 and 16 channels before the last one, whose sigmoid times 2 is
  Φ; φ(i) = Σ Φ - 1, which is `fields.integrate_gradients`, and all heads start at zero: the identity.
- Equation 3 applies the deformation to the moving image and then the affine map: a point goes to φ(A x), the affine map
  first. As T(x) = A (x + u(x)), which the library has, that is u(x) = A⁻¹ φ(A x) - x.

Additions, off in the paper's version (``paper``):

- *stride*: the images are averaged over blocks first, and the field is brought back to full resolution. It is smooth
  anyhow, and the network that many times faster.
- *both*: the network runs on the images exchanged, too, which gives the way back.
- *velocity*: the deformation is the exponential of a stationary velocity field. A sum of spatial gradients carries
  every error on to the far border, across the belly and the air around the body.
- *passes*: the network looks again, at the image carried over by what it has found, and the maps are composed; each
  look but the last one is at half the resolution of the next. So it sees all of the chest at once, and large motion
  is small.
- *squeeze*: a 1³ convolution narrows the merged features first, and the branches take a fraction of the time.
- *classes*: a third branch segments the second image of a pair, which no look moves; of the images exchanged that is
  the moving one. A transposed convolution brings it back to full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .. import fields, precision
from .blocks import convolutions, zeroed
from .interface import Level, Prediction, RegistrationNetwork, stacked
from .linear import AffineHead, composed, inverted, refined

DILATIONS = (1, 1, 2, 3, 5)
#: Of a look's velocity, which is a few of its voxels at most.
SQUARINGS = 5


class SqueezeExcitation(nn.Module):
    """Weigh channels by what they hold on average (Hu et al. 2018); (N, C, D, H, W) → the same."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.weigh = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(x.mean((2, 3, 4)))[:, :, None, None, None]


def _branch(inputs: int, widths: Sequence[int], squeeze: int) -> nn.Sequential:
    """(N, inputs, D, H, W) → (N, widths[-1], D, H, W), through ``squeeze`` channels first unless that is 0."""
    narrow = [nn.Conv3d(inputs, squeeze, 1), nn.LeakyReLU(0.1, inplace=True)] if squeeze else []
    before = [squeeze or inputs, *widths[:-1]]
    return nn.Sequential(*narrow, *(convolutions(a, b, 1) for a, b in zip(before, widths, strict=True)))


class LinearDeformableNetwork(RegistrationNetwork):
    """Affine map, deformation and, with ``classes``, the segmentation of both images.

    Parameters
    ----------
    channels : sequence of int
        Width of each dilated layer.
    decoder : sequence of int
        Width of each convolution of the gradient branch, and of the segmentation's.
    inputs : int
        Channels of an image.
    linear : bool
        Whether to estimate an affine map; the paper compares both.
    stride : int
        Edge of the blocks over which the images are averaged, at the last look.
    both, velocity : bool
        See the module's text.
    passes : int
        How often the network looks, once or more.
    squeeze : int
        Channels to which the merged features are narrowed; 0 leaves them as they are.
    classes : int
        Labels with the background; 0 leaves the segmentation out. It needs ``both``.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 16, 32, 32, 48),
        decoder: Sequence[int] = (32, 16),
        inputs: int = 1,
        linear: bool = True,
        stride: int = 2,
        both: bool = True,
        velocity: bool = True,
        passes: int = 2,
        squeeze: int = 32,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if len(channels) != len(DILATIONS):
            raise ValueError(f"channels needs {len(DILATIONS)} widths, one for each dilation")
        if passes < 1:
            raise ValueError(f"passes has to be 1 or more, not {passes}")
        if classes and not both:
            raise ValueError("classes needs both directions: a run segments one of the two images")
        self.inputs, self.stride, self.both = inputs, stride, both
        self.velocity, self.passes = velocity, passes
        self.divisor = stride * 2 ** (passes - 1)
        self.layers = nn.ModuleList()
        before = 2 * inputs
        for width, dilation in zip(channels, DILATIONS, strict=True):
            convolution = nn.Conv3d(before, width, 3, padding=dilation, dilation=dilation)
            self.layers.append(nn.Sequential(convolution, nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.1)))
            before = width
        merged = 2 * inputs + sum(channels)
        self.excitation = SqueezeExcitation(merged)
        self.decoder = _branch(merged, decoder, squeeze)
        self.gradients = zeroed(nn.Conv3d(decoder[-1], 3, 3, padding=1))
        self.linear = AffineHead(merged) if linear else None
        self.segmentation = None
        if classes:
            up = nn.ConvTranspose3d(decoder[-1], classes, stride, stride=stride)
            self.segmentation = nn.Sequential(_branch(merged, decoder, squeeze), up)

    @classmethod
    def paper(cls, **options: int) -> LinearDeformableNetwork:
        """The published network: 290 features at full resolution, one look, one direction, spatial gradients."""
        off = {"stride": 1, "both": False, "velocity": False, "passes": 1, "squeeze": 0}
        return cls((32, 32, 64, 64, 96), (64, 32, 16), **off, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        n, pairs = len(moving), stacked(moving, fixed, self.both)
        levels: list[Level] = []
        for remaining in reversed(range(self.passes)):
            factor = self.stride * 2**remaining
            seen = F.avg_pool3d(pairs, factor) if factor > 1 else pairs
            last = None
            if levels:
                last = _finer(levels[-1], seen.shape[2:])
                source, target = seen.chunk(2, 1)
                seen = torch.cat([fields.warp(source, _whole(last)), target], 1)
            features = [seen]
            for layer in self.layers:
                features.append(layer(features[-1]))
            merged = torch.cat(features, 1)
            answer = self.gradients(self.decoder(self.excitation(merged)))
            found = self._level(answer.float(), merged)
            levels.append(found if last is None else _after(last, found))
        scores = None
        if self.segmentation is not None:
            scores = self.segmentation(merged).float().roll(n, 0)  # moving first
        displacement = fields.resize(levels[-1].displacement, moving.shape[2:])
        affine = None if self.linear is None else refined(levels[-1].affine, self.stride)
        return Prediction.split(n, displacement, affine, scores, levels)

    def _level(self, answer: torch.Tensor, merged: torch.Tensor) -> Level:
        """What one look found: the deformation from the (N, 3, d, h, w) answer, the affine map from the features."""
        gradients = None if self.velocity else torch.sigmoid(answer)
        displacement = (
            fields.scale_and_square(answer, SQUARINGS) if self.velocity else fields.integrate_gradients(gradients)
        )
        if self.linear is None:
            return Level(displacement, gradients)
        affine = self.linear(merged, merged.shape[2:])
        return Level(_linear_first(displacement, affine), gradients, affine)


def _whole(level: Level) -> torch.Tensor:
    """Displacement and affine map in one, (N, 3, d, h, w)."""
    return fields.then_affine(level.displacement, level.affine)


def _finer(level: Level, shape: torch.Size) -> Level:
    """The same maps on a lattice of ``shape``, whose voxels are half as wide."""
    affine = None if level.affine is None else refined(level.affine, 2)
    return Level(fields.resize(level.displacement, shape), None, affine)


def _after(first: Level, second: Level) -> Level:
    """The maps of two looks in one: what the second found on images that the first had carried over."""
    total = fields.compose(_whole(first), _whole(second))
    if first.affine is None:
        return Level(total, None)
    affine = composed(first.affine, second.affine)
    return Level(fields.then_affine(total, inverted(affine)), None, affine)


@precision.full
def _linear_first(displacement: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """u of x ↦ A (x + u(x)) from v of x ↦ A x + v(A x), for (N, 3, D, H, W) v and (N, 3, 4) voxel matrices A."""
    linear = fields.then_affine(torch.zeros_like(displacement), affine)
    there = fields.warp(displacement, linear)
    return torch.einsum("nca,nadhw->ncdhw", torch.linalg.inv(affine[:, :, :3]), there)
