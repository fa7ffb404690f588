"""Does an input look like what a model was trained on?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .catalog import TOLERANCE
from .geometry import Grid
from .models import Bundle
from .preprocess import INTENSITIES, Preprocessing

#: The same for percentiles of normalized intensity, in standard deviations or shares of a CT window.
INTENSITY_TOLERANCE = 0.35
#: How far below that of the least clear training image the mean probability of the labels may lie.
CONFIDENCE_TOLERANCE = 0.05
PERCENTILES = (10, 50, 90)


def unlike(
    bundle: Bundle, name: str, image: torch.Tensor, grid: Grid, probabilities: torch.Tensor | None, lattice: Grid
) -> list[str]:
    """How a (1, 1, D, H, W) image, called ``name``, is unlike what a model was trained on, one sentence each.

    ``probabilities`` are what the model makes of it, (1, K, d, h, w) on ``lattice``, where it segments.
    """
    unit = bundle.preprocessing.unit
    seen = describe(image, grid, bundle.preprocessing)
    if probabilities is not None:
        seen |= describe_segmentation(probabilities, lattice, grid, unit)
    labels = [label["name"] for label in bundle.manifest["labels"]]
    return warnings(name, seen, bundle.manifest["domain"], labels, unit)


def describe(image: torch.Tensor, grid: Grid, preprocessing: Preprocessing) -> dict[str, Any]:
    """Spacing and extent in mm (of the part above the minimum; i, j, k) and percentiles of normalized intensity.

    Of several channels the first is described. Where the model counts voxels, both are in voxels.
    """
    seen = image[0, 0] > image.min()
    size = [int(seen.amax(axes).sum()) for axes in ((0, 1), (0, 2), (1, 2))]
    values = np.percentile(image[0, 0][seen].numpy(), PERCENTILES)
    # Normalizing keeps the order of values, so that theirs are the normalized image's percentiles.
    normalized = INTENSITIES[preprocessing.intensity](
        image, torch.tensor(values, dtype=image.dtype).view(1, 1, 1, 1, -1)
    )
    spacing = grid.spacing if preprocessing.unit == "mm" else np.ones(3)
    return {
        "spacing": spacing.tolist(),
        "extent": (spacing * size).tolist(),
        "intensity": normalized[0, 0].flatten().tolist(),
    }


def describe_segmentation(probabilities: torch.Tensor, lattice: Grid, image: Grid, unit: str) -> dict[str, Any]:
    """Volume of each label in (1, K, D, H, W) memberships with the background, and their mean where found.

    The memberships lie on ``lattice``; volumes are in mm³ or, where the model counts voxels, in voxels of ``image``.
    """
    voxel_volume = lattice.voxel_volume / (1.0 if unit == "mm" else image.voxel_volume)
    found = probabilities.argmax(1)
    volumes = [float((found == k).sum()) * voxel_volume for k in range(1, probabilities.shape[1])]
    inside = found > 0
    best = probabilities.amax(1)[inside]
    return {"volumes": volumes, "confidence": float(best.mean()) if len(best) else 0.0}


def warnings(
    name: str, seen: dict[str, Any], domain: dict[str, Any], label_names: list[str], unit: str = "mm"
) -> list[str]:
    """What is unlike the training data, one sentence each; ``seen`` joins both descriptions, ``name`` says of what."""
    cubic = "mm³" if unit == "mm" else "voxels"
    out = []
    for key, what in (("spacing", "voxel spacing"), ("extent", "extent")):
        low, high = domain[key]
        values = seen[key]
        if min(values) < low * (1 - TOLERANCE) or max(values) > high * (1 + TOLERANCE):
            text = " x ".join(f"{v:.3g}" for v in values)
            out.append(f"{name}: {what} of {text} {unit}; the model was trained on {low:.3g} to {high:.3g} {unit}")
    for value, (low, high), percentile in zip(seen["intensity"], domain["intensity"], PERCENTILES, strict=True):
        if not low - INTENSITY_TOLERANCE <= value <= high + INTENSITY_TOLERANCE:
            out.append(
                f"{name}: intensities are distributed unlike the training images' (normalized {percentile}th "
                f"percentile {value:.2f}, there {low:.2f} to {high:.2f}); is it the right contrast and anatomy?"
            )
            break
    if "confidence" in seen:
        for value, (low, high), label in zip(seen["volumes"], domain["volumes"], label_names, strict=True):
            if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                out.append(
                    f"{name}: the model finds {value:.0f} {cubic} of {label}, "
                    f"in training {low:.0f} to {high:.0f} {cubic}; is it the right anatomy?"
                )
        if seen["confidence"] < domain["confidence"] - CONFIDENCE_TOLERANCE:
            out.append(
                f"{name}: the model is unsure of its segmentation (mean probability {seen['confidence']:.2f}, "
                f"in training at least {domain['confidence']:.2f})"
            )
    return out
