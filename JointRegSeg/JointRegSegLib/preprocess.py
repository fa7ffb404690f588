"""From an image in its own space to what a network was trained on: lattice and intensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from .geometry import Grid, resample

#: Level and width of the CT windows in HU: soft tissue, a wider one, bone (Estienne et al. 2020, abdominal network).
CT_WINDOWS = ((40, 400), (100, 800), (400, 1000))

Values = TypeVar("Values", np.ndarray, torch.Tensor)

ALIGNMENTS = ("center", "mass", "world")
UNITS = ("mm", "voxels")


@dataclass(frozen=True)
class Preprocessing:
    """The working space of a model.

    Attributes
    ----------
    size, spacing : tuple
        Voxels and their distance along i, j, k of the working lattice.
    orientation : str
        Directions in which i, j, k run, as in 'RAS'.
    intensity : str
        'zscore': zero mean and unit deviation over the voxels above the minimum, cut at ±5 (Estienne et al. 2020).
        'ct-windows': a channel for each of `CT_WINDOWS`, 0 … 1, for images in HU.
    alignment : str
        Where the moving lattice lies before registration: 'center' on the middle of its own image, for crops that
        share no frame; 'mass' on its center of mass, for organs cut out of their surroundings; 'world' where the fixed
        one lies.
    unit : str
        Of ``spacing``: 'mm', or 'voxels' of the image itself, for scans whose headers do not tell the true spacing; an
        axis that is no longer than the lattice then keeps its own voxels.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str = "RAS"
    intensity: str = "zscore"
    alignment: str = "center"
    unit: str = "mm"

    def __post_init__(self) -> None:
        if self.intensity not in INTENSITIES:
            raise ValueError(f"unknown intensity preprocessing '{self.intensity}'; known: {', '.join(INTENSITIES)}")
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"alignment is one of {', '.join(ALIGNMENTS)}, not '{self.alignment}'")

        if self.unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}, not '{self.unit}'")

    @property
    def channels(self) -> int:
        """Number of channels that a network sees."""
        return len(CT_WINDOWS) if self.intensity == "ct-windows" else 1

    def middle(self, image: torch.Tensor, grid: Grid) -> np.ndarray:
        """World point on which the working lattice of a (1, 1, D, H, W) image lies, (3,) LPS mm."""
        if self.alignment != "mass":
            return grid.center
        weight = (image[0, 0] - image.min()).double()
        total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        axes = zip(weight.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
        place = [float((weight.sum(others) * torch.arange(n)).sum() / total) for n, others in axes]
        return grid.to_world(place[::-1])

    def lattice(self, image: Grid, axes: Grid | None = None, center: np.ndarray | None = None) -> Grid:
        """Working lattice on the middle of ``image`` or on ``center``, along its own axes or those of ``axes``.

        Its voxels coincide with the image's where spacing and axes agree, so that nothing is blurred.
        """
        oriented = image.oriented(self.orientation)
        direction = (axes.oriented(self.orientation) if axes else oriented).direction
        place = image.center if center is None else center
        spacing = np.array(self.spacing, float)
        if self.unit == "voxels":
            spacing = oriented.spacing * np.where(np.array(oriented.size) > self.size, spacing, 1)
        return Grid.centered(place, self.size, spacing, direction).snapped(oriented)

    def seen(
        self, image: torch.Tensor, source: Grid, axes: Grid | None = None, center: np.ndarray | None = None
    ) -> tuple[torch.Tensor, Grid]:
        """What a network sees of an image by itself, and on which lattice: `apply` on the `lattice` on its `middle`."""
        target = self.lattice(source, axes, self.middle(image, source) if center is None else center)
        return self.apply(image, source, target), target

    def apply(self, image: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
        """(1, 1, D, H, W) image on ``source`` → (1, C, d, h, w) input of a network on ``target``.

        Outside the image the network sees the image's minimum.
        """
        return INTENSITIES[self.intensity](image, resample(image, source, target, fill=float(image.min())))

    def comparable(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(1, C, D, H, W) inputs of a network with each channel of about unit deviation, for `similarity`.

        All images are scaled alike, so that equal tissue stays equal.
        """
        if self.intensity == "zscore":
            return images
        deviation = torch.cat(images).std((0, 2, 3, 4), keepdim=True)
        deviation = torch.where(deviation > 1e-3, deviation, 1)  # a window may hold nothing
        return tuple(image / deviation for image in images)


def is_ct(values: np.ndarray) -> bool:
    """Whether values can be CT numbers of a chest in HU: with air, and with tissue."""
    low, high = np.percentile(values, (0.1, 99.9))
    return bool(low <= -700 and high >= 0)


def air_share(hu: Values) -> Values:
    """Share of air in a voxel, -HU / 1000 between 0 and 1 (Simon 2000): tissue counts as water. Any shape."""
    return (hu / -1000).clip(0, 1)


def _zscore(image: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    low, span = image.min(), image.max() - image.min()
    # Of what is above the minimum, which sums leave out by themselves; in units of the span, so that squares neither
    # vanish nor overflow.
    values = (image - low) / span
    count = int((values > 0).sum())
    mean = values.sum(dtype=torch.float64) / count
    variance = (values.square().sum(dtype=torch.float64) - count * mean**2) / max(count - 1, 1)
    deviation = variance.clamp_min(1e-12).sqrt()
    return (((resampled - low) / span - mean.float()) / deviation.float()).clamp(-5, 5)


def _ct_windows(image: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    return torch.cat([((resampled - level) / width + 0.5).clamp(0, 1) for level, width in CT_WINDOWS], 1)


#: Each takes the whole image, for its statistics, and the resampled one.
INTENSITIES = {"zscore": _zscore, "ct-windows": _ct_windows}
