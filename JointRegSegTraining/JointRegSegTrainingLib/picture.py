"""One picture of a validation pair, on the working lattice: what a curve does not show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from JointRegSegLib import fields
from JointRegSegLib.networks import RegistrationNetwork
from JointRegSegLib.pictures import COLORS
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .subjects import Subject

_TITLES = ("fixed, its labels", "moving, its labels", "warped, fixed and carried labels", "deformation")


@torch.inference_mode()
def draw(
    network: RegistrationNetwork, moving: Subject, fixed: Subject, values: Sequence[int], path: Path
) -> np.ndarray:
    """Three planes through the middle of the fixed labels, as a PNG file and as (h, w, 3) uint8.

    Full lines are what was drawn, dashed ones what the deformation carries over from the moving image.
    """
    device = next(network.parameters()).device
    answer = network.infer(moving.image.to(device), fixed.image.to(device)).there.cpu()
    warped, carried = fields.warp(moving.image, answer), fields.warp(moving.labels, answer, "nearest")
    images = [x[0, 0].numpy() for x in (fixed.image, moving.image, warped)]
    labels = [x[0, 0].numpy() for x in (fixed.labels, moving.labels, carried)]
    places = np.argwhere(labels[0] > 0)
    middle = places.mean(0).round().astype(int) if len(places) else np.array(images[0].shape) // 2
    low, high = np.percentile(images[0], (1, 99.5))
    figure = Figure(figsize=(12, 9), dpi=72, facecolor="black", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for row, axis in enumerate((0, 1, 2)):
        for column, title in enumerate(_TITLES):
            axes = figure.add_subplot(3, 4, 4 * row + column + 1)
            axes.set_axis_off()
            axes.set_facecolor("black")
            if not row:
                axes.set_title(title, color="white", fontsize=9)
            shown = images[min(column, 2)].take(middle[axis], axis)
            axes.imshow(shown, "gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
            if column < 2:
                _outline(axes, labels[column].take(middle[axis], axis), values, "solid")
            elif column == 2:
                _outline(axes, labels[0].take(middle[axis], axis), values, "solid")
                _outline(axes, labels[2].take(middle[axis], axis), values, "dashed")
            else:
                _grid(axes, answer[0].numpy().take(middle[axis], 1 + axis), axis)
    canvas.draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _outline(axes: Axes, labels: np.ndarray, values: Sequence[int], style: str) -> None:
    for i, value in enumerate(values):
        inside = labels == value
        if inside.any() and not inside.all():
            axes.contour(inside, [0.5], colors=COLORS[i % len(COLORS)], linewidths=1, linestyles=style)


def _grid(axes: Axes, displacement: np.ndarray, axis: int) -> None:
    """Lines of the fixed lattice where the deformation puts them, (3, h, w) voxels."""
    down, across = (a for a in range(3) if a != axis)
    rows, columns = np.indices(displacement.shape[1:])
    y, x = rows + displacement[down], columns + displacement[across]
    step = max(min(rows.shape) // 12, 1)
    for lines in (zip(x[::step], y[::step], strict=True), zip(x.T[::step], y.T[::step], strict=True)):
        for a, b in lines:
            axes.plot(a, b, color="#35c9ff", linewidth=0.7)
