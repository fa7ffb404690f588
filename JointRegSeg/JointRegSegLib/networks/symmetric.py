"""The symmetric Learn2Reg network (Estienne et al. 2020, "Deep learning based registration using spatial gradients and
noisy segmentation labels").

One encoder E for each image, one decoder D for both directions: ∇Φ(M→F) = D(E(M) - E(F)), ∇Φ(F→M) = D(E(F) - E(M)).
The encodings are subtracted at every level, skip connections included. Settled here where the paper is silent:

- φ(i) = 2 Σ g - 1 with g = sigmoid(·), heads start at zero, so an untrained network is exactly the identity.
- Deep supervision: every level of the decoder has a head, and its field is compared at its own resolution.

Additions, off in the paper's version (``paper=True``):

- *warping*: a finer level first warps the moving encoding with the field of the coarser one, subtracts, and estimates
  what is still missing; the two are composed. Subtraction then compares the same anatomy, also after large motion.
- *joint*: the segmentation decoder's features are subtracted too, so that registration knows what it aligns
  (U-ReSNet, Estienne et al. 2019, shares the encoder only).
- *finest*: the level at which the field ends; 1 is half resolution, smooth enough and several times faster.
- *velocity*: what a finer level adds is a stationary velocity, integrated by scaling and squaring. An error in a
  spatial gradient displaces all that lies behind it, which hinders a small local correction.
- *passes*: the decoder runs again, with the same weights, on encodings warped by what it found (after Zhao et al. 2019,
  "Recursive cascaded networks"): it corrects what it missed, and the images are encoded only once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .. import fields
from .blocks import Decoder, Encoder, convolutions, zeroed
from .interface import Level, Prediction, RegistrationNetwork

#: Of a finer level's velocity, which is small: what is left to correct.
SQUARINGS = 5


class SymmetricNetwork(RegistrationNetwork):
    """Both deformations and both segmentations in one pass.

    Parameters
    ----------
    channels : sequence of int
        Width of each level, fine to coarse; the paper has (32, 64, 128, 256, 512).
    counts : sequence of int
        3³ convolutions a level; the authors' code has (1, 2, 3, 2, …).
    inputs : int
        Channels of an image (three for CT windows).
    classes : int
        Labels with the background; 0 leaves the segmentation decoder out.
    warping, joint : bool
        See the module's text.
    finest : int
        Level of the final field; 0 is full resolution.
    velocity : bool
        See the module's text; needs ``warping``.
    passes : int
        Runs of the registration decoder, more than one only with ``warping``.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 96),
        counts: Sequence[int] = (1, 2, 2, 2),
        inputs: int = 1,
        classes: int = 3,
        warping: bool = True,
        joint: bool = True,
        finest: int = 1,
        velocity: bool = True,
        passes: int = 2,
    ) -> None:
        super().__init__()
        if len(channels) != len(counts) or len(channels) < 2:
            raise ValueError("channels and counts need the same length, at least 2")
        if not 0 <= finest < len(channels):
            raise ValueError(f"finest is a level between 0 and {len(channels) - 1}, not {finest}")
        if joint and not classes:
            raise ValueError("joint needs a segmentation decoder: set classes")
        if passes < 1 or ((passes > 1 or velocity) and not warping):
            raise ValueError("passes is at least 1; more than one, and velocity, need warping")
        self.inputs, self.velocity, self.passes = inputs, velocity, passes
        self.divisor = 2 ** (len(channels) - 1)
        self.warping, self.joint, self.finest = warping, joint, finest
        self.encoder = Encoder(inputs, channels, counts)
        self.segmentation = Decoder(channels, counts) if classes else None
        self.classifier = nn.Conv3d(channels[0], classes, 1) if classes else None
        self.blocks, self.up, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for level in reversed(range(finest, len(channels))):
            width, coarsest = channels[level], level == len(channels) - 1
            encoded = width * (2 if joint and not coarsest else 1)
            if not coarsest:
                self.up[str(level)] = nn.ConvTranspose3d(channels[level + 1], width, 2, stride=2)
            self.blocks[str(level)] = convolutions(encoded + (0 if coarsest else width), width, counts[level])
            self.heads[str(level)] = zeroed(nn.Conv3d(width, 3, 3, padding=1))

    @classmethod
    def paper(cls, channels: Sequence[int] = (32, 64, 128, 256, 512), **options: int) -> SymmetricNetwork:
        """The published network: no warping between levels, encoder shared only, field at full resolution."""
        counts = ([1, 2, 3] + [2] * len(channels))[: len(channels)]
        off = {"warping": False, "joint": False, "finest": 0, "velocity": False, "passes": 1}
        return cls(channels, options.pop("counts", counts), **off, **options)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        self.check(moving, fixed)
        n = moving.shape[0]
        encoded = self.encoder(torch.cat([moving, fixed]))
        scores = None
        pyramid = encoded
        if self.segmentation is not None:
            decoded = self.segmentation(encoded)
            scores = self.classifier(decoded[0]).float()
            if self.joint:
                pyramid = [torch.cat(pair, 1) for pair in zip(encoded[:-1], decoded[:-1], strict=True)] + encoded[-1:]
        levels = self._register(pyramid, n)
        full = fields.resize(levels[-1].displacement, moving.shape[2:])
        return Prediction.split(n, full, None, scores, levels)

    def _register(self, pyramid: Sequence[torch.Tensor], n: int) -> list[Level]:
        """Fields of both directions, coarse to fine; the batch holds n forward and then n backward pairs."""
        levels: list[Level] = []
        displacement = None
        for _ in range(self.passes):
            hidden = None
            for level in reversed(range(self.finest, len(pyramid))):
                source = pyramid[level]
                target = source.roll(n, 0)  # moving and fixed change places
                if displacement is not None:
                    displacement = fields.resize(displacement, source.shape[2:])
                    if self.warping:
                        source = fields.warp(source, displacement)
                x = source - target
                if hidden is not None:
                    x = torch.cat([self.up[str(level)](hidden), x], 1)
                hidden = self.blocks[str(level)](x)
                found, gradients = self.heads[str(level)](hidden).float(), None
                if self.velocity and displacement is not None:
                    step = fields.scale_and_square(found, SQUARINGS)
                else:
                    gradients = torch.sigmoid(found)
                    step = fields.integrate_gradients(gradients)
                if self.warping and displacement is not None:
                    step = fields.compose(displacement, step)
                displacement = step
                levels.append(Level(displacement, gradients))
        return levels
