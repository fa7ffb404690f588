"""From an image in its own space to what a network was trained on: lattice and intensities."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .geometry import Grid, resample


@dataclass(frozen=True)
class Preprocessing:
    """The working space of a model.

    Attributes
    ----------
    size, spacing : tuple
        Voxels and mm along i, j, k of the working lattice.
    orientation : str
        Directions in which i, j, k run, as in 'RAS'.
    intensity : str
        'zscore': zero mean and unit deviation over the voxels above the minimum, cut at ±5 (Estienne et al. 2020).
    alignment : str
        Where the moving lattice lies before registration: 'center' on the middle of its own image, for crops that
        share no frame; 'world' where the fixed one lies.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str = "RAS"
    intensity: str = "zscore"
    alignment: str = "center"

    def __post_init__(self) -> None:
        if self.intensity not in INTENSITIES:
            raise ValueError(f"unknown intensity preprocessing '{self.intensity}'; known: {', '.join(INTENSITIES)}")
        if self.alignment not in ("center", "world"):
            raise ValueError(f"alignment is 'center' or 'world', not '{self.alignment}'")

    def lattice(self, image: Grid, axes: Grid | None = None) -> Grid:
        """Working lattice on the middle of ``image``, along its own axes or those of ``axes``.

        Its voxels coincide with the image's where spacing and axes agree, so that nothing is blurred.
        """
        oriented = image.oriented(self.orientation)
        direction = (axes.oriented(self.orientation) if axes else oriented).direction
        return Grid.centered(image.center, self.size, self.spacing, direction).snapped(oriented)

    def apply(self, image: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
        """(1, 1, D, H, W) image on ``source`` → (1, C, d, h, w) input of a network on ``target``.

        Outside the image the network sees the image's minimum.
        """
        return INTENSITIES[self.intensity](image, resample(image, source, target, fill=float(image.min())))


def _zscore(image: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    values = image[image > image.min()]
    return ((resampled - values.mean()) / values.std().clamp_min(1e-6)).clamp(-5, 5)


#: Each takes the whole image, for its statistics, and the resampled one.
INTENSITIES = {"zscore": _zscore}
