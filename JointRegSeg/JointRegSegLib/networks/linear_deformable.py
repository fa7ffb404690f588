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

Two additions, off in the paper's version (``paper``):

- *stride*: the images are averaged over blocks first, and the field is brought back to full resolution. It is smooth
  anyhow, and the network that many times faster.
- *both*: the network runs on the images exchanged, too, which gives the way back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .. import fields
from .blocks import convolutions, zeroed
from .interface import Level, Prediction, RegistrationNetwork, stacked
from .linear import AffineHead

DILATIONS = (1, 1, 2, 3, 5)


class SqueezeExcitation(nn.Module):
    """Weigh channels by what they hold on average (Hu et al. 2018); (N, C, D, H, W) → the same."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.weigh = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(x.mean((2, 3, 4)))[:, :, None, None, None]


class LinearDeformableNetwork(RegistrationNetwork):
    """Affine map and deformation; it does not segment.

    Parameters
    ----------
    channels : sequence of int
        Width of each dilated layer.
    decoder : sequence of int
        Width of each convolution of the gradient branch.
    inputs : int
        Channels of an image.
    linear : bool
        Whether to estimate an affine map; the paper compares both.
    stride : int
        Edge of the blocks over which the images are averaged.
    both : bool
        See the module's text.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 16, 32, 32, 48),
        decoder: Sequence[int] = (32, 16),
        inputs: int = 1,
        linear: bool = True,
        stride: int = 2,
        both: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) != len(DILATIONS):
            raise ValueError(f"channels needs {len(DILATIONS)} widths, one for each dilation")
        self.inputs, self.stride, self.both = inputs, stride, both
        self.divisor = stride
        self.layers = nn.ModuleList()
        before = 2 * inputs
        for width, dilation in zip(channels, DILATIONS, strict=True):
            convolution = nn.Conv3d(before, width, 3, padding=dilation, dilation=dilation)
            self.layers.append(nn.Sequential(convolution, nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.1)))
            before = width
        merged = 2 * inputs + sum(channels)
        self.excitation = SqueezeExcitation(merged)
        self.decoder = nn.Sequential(
            *(convolutions(a, b, 1) for a, b in zip([merged, *decoder[:-1]], decoder, strict=True))
        )
        self.gradients = zeroed(nn.Conv3d(decoder[-1], 3, 3, padding=1))
        self.linear = AffineHead(merged) if linear else None

    @classmethod
    def paper(cls, **options: int) -> LinearDeformableNetwork:
        """The published network: 290 features at full resolution, one direction."""
        return cls((32, 32, 64, 64, 96), (64, 32, 16), stride=1, both=False, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        pairs = stacked(moving, fixed, self.both)
        if self.stride > 1:
            pairs = F.avg_pool3d(pairs, self.stride)
        features = [pairs]
        for layer in self.layers:
            features.append(layer(features[-1]))
        merged = torch.cat(features, 1)
        gradients = torch.sigmoid(self.gradients(self.decoder(self.excitation(merged))).float())
        displacement = fields.resize(fields.integrate_gradients(gradients), moving.shape[2:])
        affine = None
        if self.linear is not None:
            affine = self.linear(merged, moving.shape[2:])
            displacement = _linear_first(displacement, affine)
        levels = [Level(displacement, gradients, affine)]
        return Prediction.split(len(moving), displacement, affine, None, levels)


def _linear_first(displacement: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """u of x ↦ A (x + u(x)) from v of x ↦ A x + v(A x), for (N, 3, D, H, W) v and (N, 3, 4) voxel matrices A."""
    linear = fields.then_affine(torch.zeros_like(displacement), affine)
    there = fields.warp(displacement, linear)
    return torch.einsum("nca,nadhw->ncdhw", torch.linalg.inv(affine[:, :, :3]), there)
