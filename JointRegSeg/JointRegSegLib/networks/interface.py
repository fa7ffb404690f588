"""What every network of the library takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from .. import fields, precision


@dataclass
class Prediction:
    """Answer of a registration network for a batch of N pairs on one lattice.

    Attributes
    ----------
    forward : torch.Tensor
        (N, 3, D, H, W) voxel displacement on the fixed lattice: x + forward(x) lies in the moving image, after
        ``affine`` where there is one.
    backward : torch.Tensor or None
        (N, 3, D, H, W), the other direction.
    affine, backward_affine : torch.Tensor or None
        (N, 3, 4) voxel matrix, applied after ``forward`` (``backward``).
    moving_segmentation, fixed_segmentation : torch.Tensor or None
        (N, K, D, H, W) class scores before softmax, channel 0 the background.
    levels : list of Level
        Coarse to fine estimates, for deep supervision.
    """

    forward: torch.Tensor
    backward: torch.Tensor | None = None
    affine: torch.Tensor | None = None
    backward_affine: torch.Tensor | None = None
    moving_segmentation: torch.Tensor | None = None
    fixed_segmentation: torch.Tensor | None = None
    levels: list[Level] = field(default_factory=list)

    @classmethod
    def split(
        cls,
        n: int,
        displacement: torch.Tensor,
        affine: torch.Tensor | None,
        scores: torch.Tensor | None,
        levels: list[Level],
    ) -> Prediction:
        """From answers whose batch holds the N forward and, where the network gives them, then the N backward pairs."""

        def halves(x: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            return (None, None) if x is None else (x[:n], x[n:] if len(x) > n else None)

        return cls(*halves(displacement), *halves(affine), *halves(scores), levels)

    @property
    def there(self) -> torch.Tensor:
        """(N, 3, D, H, W): ``forward`` and ``affine`` in one displacement."""
        return fields.then_affine(self.forward, self.affine)

    @property
    def back(self) -> torch.Tensor | None:
        """(N, 3, D, H, W): the other direction in one displacement, where the network gives it."""
        return None if self.backward is None else fields.then_affine(self.backward, self.backward_affine)


@dataclass
class Level:
    """One of several estimates: displacements in voxels of their own lattice, and the spatial gradients they came from.

    ``gradients`` is None where a level estimates a velocity instead. Both are (2 N, 3, d, h, w), first the forward,
    then the backward direction, or (N, 3, d, h, w) if the network answers in one direction only; ``affine`` is a
    (…, 3, 4) voxel matrix applied after the displacement, where there is one. ``velocity`` is the stationary velocity
    field, of the displacement's shape and unit, whose exponential all of the displacement is, where there is one.
    """

    displacement: torch.Tensor
    gradients: torch.Tensor | None
    affine: torch.Tensor | None = None
    velocity: torch.Tensor | None = None


def stacked(moving: torch.Tensor, fixed: torch.Tensor, both: bool) -> torch.Tensor:
    """Images side by side as channels, (N, 2 C, D, H, W); with ``both`` (2 N, …), the second half exchanged."""
    pairs = torch.cat([moving, fixed], 1)
    return torch.cat([pairs, torch.cat([fixed, moving], 1)]) if both else pairs


class RegistrationNetwork(nn.Module):
    """Base of all networks: ``network(moving, fixed)`` with two (N, C, D, H, W) images on one lattice."""

    #: Every side of the lattice has to be a multiple of this.
    divisor: int = 1
    inputs: int = 1
    #: Whether registration ends by bringing the network's own segmentations of both images onto each other.
    seeks_agreement: bool = False

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        """Register and segment a batch of pairs; see `Prediction`."""
        raise NotImplementedError

    @torch.inference_mode()
    def infer(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        """The answer without gradients, in half precision where the processor is faster so; see `precision.fast`."""
        with precision.fast(moving.device):
            return self(moving, fixed)

    def check(self, moving: torch.Tensor, fixed: torch.Tensor) -> None:
        """Raise ValueError unless the two images fit each other and the network."""
        if moving.shape != fixed.shape or moving.ndim != 5:
            raise ValueError(f"two equal (N, C, D, H, W) images are needed, not {moving.shape} and {fixed.shape}")
        if moving.shape[1] != self.inputs:
            raise ValueError(f"the network takes {self.inputs} channels, not {moving.shape[1]}")
        if any(n % self.divisor for n in moving.shape[2:]):
            raise ValueError(f"sides have to be multiples of {self.divisor}, not {tuple(moving.shape[2:])}")
