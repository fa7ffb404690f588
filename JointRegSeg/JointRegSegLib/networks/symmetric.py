"""The symmetric Learn2Reg network (Estienne et al. 2020, "Deep learning based registration using spatial gradients and
noisy segmentation labels").

One encoder E for each image, one decoder D for both directions: ∇Φ(M→F) = D(E(M) - E(F)), ∇Φ(F→M) = D(E(F) - E(M)).
The encodings are subtracted at every level, skip connections included. Settled here where the paper is silent:

- φ(i) = 2 Σ g - 1 with g = sigmoid(·), heads start at zero, so an untrained network is exactly the identity.
- Deep supervision: every level of the decoder has a head, and its field is compared at its own resolution.

Additions, off in the paper's version (``paper``):

- *warping*: a finer level first warps the moving encoding with the field of the coarser one, subtracts, and estimates
  what is still missing; the two are composed. Subtraction then compares the same anatomy, also after large motion.
- *joint*: the segmentation decoder's features are subtracted too, so that registration knows what it aligns
  (U-ReSNet, Estienne et al. 2019, shares the encoder only).
- *finest*: the level at which the field ends; 1 is half resolution, smooth enough and several times faster.
- *velocity*: what a finer level adds is a stationary velocity, integrated by scaling and squaring. An error in a
  spatial gradient displaces all that lies behind it, which hinders a small local correction.
- *passes*: the decoder runs again, with the same weights, on encodings warped by what it found (after Zhao et al. 2019,
  "Recursive cascaded networks"): it corrects what it missed, and the images are encoded only once.
- *looks*: the images, carried over by all that was found, are encoded again, for features do not turn and stretch with
  the image that they were made of. Each is compared with its target where either of them lies, and the mean of the two
  answers is taken: what one way overshoots the other one falls short of. It counts half: all of it would gain more
  overlap, but by squeezing a structure until whatever is read lies well within it.
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
        Runs of the registration decoder at each look, more than one only with ``warping``.
    looks : int
        How often the network looks, once or more; the first look segments.
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
        looks: int = 1,
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
        if looks < 1:
            raise ValueError(f"looks has to be 1 or more, not {looks}")
        self.inputs, self.velocity, self.passes, self.looks = inputs, velocity, passes, looks
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
        n, images = len(moving), torch.cat([moving, fixed])
        encoded, decoded, scores = self.encoder(images), None, None
        if self.segmentation is not None:
            decoded = self.segmentation(encoded)
            scores, decoded = self.classifier(decoded[0]).float(), decoded[self.finest :]
        pyramid = self._compared(encoded, decoded)
        levels = self._register(pyramid, _exchanged(pyramid, n))
        full = fields.resize(levels[-1].displacement, images.shape[2:])
        for _ in range(self.looks - 1):
            full = self._look(images, pyramid, full)
            levels.append(Level(full, None))
        return Prediction.split(n, full, None, scores, levels)

    def _compared(self, encoded: list[torch.Tensor], decoded: list[torch.Tensor] | None) -> list[torch.Tensor]:
        """What is subtracted at each level from ``finest`` on; ``decoded`` begins there, ``encoded`` at level 0."""
        encoded = encoded[self.finest :]
        if not self.joint:
            return encoded
        return [torch.cat(pair, 1) for pair in zip(encoded[:-1], decoded[:-1], strict=True)] + encoded[-1:]

    def _look(self, images: torch.Tensor, pyramid: list[torch.Tensor], found: torch.Tensor) -> torch.Tensor:
        """What another look at (2 n, C, D, H, W) images makes of the displacements (2 n, 3, D, H, W) found so far."""
        encoded, n = self.encoder(fields.warp(images, found)), len(images) // 2
        carried = self._compared(encoded, self.segmentation(encoded, self.finest) if self.joint else None)
        # The carried images against their targets, and the images against what was carried to them.
        sources = [torch.cat(pair) for pair in zip(carried, pyramid, strict=True)]
        targets = [torch.cat(pair) for pair in zip(_exchanged(pyramid, n), _exchanged(carried, n), strict=True)]
        more = fields.resize(self._register(sources, targets)[-1].displacement / 2, images.shape[2:])
        here, there = more.chunk(2)
        return (fields.compose(found, here) + fields.compose(there, found)) / 2

    def _register(self, sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> list[Level]:
        """Fields that carry sources to targets, coarse to fine; pyramids of equal shapes, from level ``finest`` on."""
        levels: list[Level] = []
        displacement = None
        for _ in range(self.passes):
            hidden = None
            for level in reversed(range(self.finest, self.finest + len(sources))):
                source, target = (pyramid[level - self.finest] for pyramid in (sources, targets))
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


def _exchanged(pyramid: Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
    """A batch of n moving and n fixed images with the two in each other's place."""
    return [x.roll(n, 0) for x in pyramid]
