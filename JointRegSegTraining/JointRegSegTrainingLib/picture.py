"""One picture of a validation pair, on the working lattice: what a curve does not show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from JointRegSegLib import fields
from JointRegSegLib.networks import RegistrationNetwork
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .plan import Plan
from .subjects import Subject

_TITLES = (
    "fixed, its labels",
    "moving, its labels",
    "warped, fixed and carried labels",
    "moving, the fixed lattice in it",
)
_OTHER = dict(zip("RLAPSI", "LRPAIS", strict=True))


@torch.inference_mode()
def draw(network: RegistrationNetwork, moving: Subject, fixed: Subject, plan: Plan, path: Path) -> np.ndarray:
    """Three planes where the fixed labels are largest, as a PNG file and as (h, w, 3) uint8.

    Full lines are what was drawn, dashed ones what the deformation carries over from the moving image, in the colors of
    the plan's labels. Sides are as in reports: the patient's right, or front, on the left.
    """
    spacing = (plan.references.spacing if plan.references else plan.preprocessing.spacing)[::-1]
    device = next(network.parameters()).device
    answer = network.infer(moving.image.to(device), fixed.image.to(device)).there.cpu()
    warped, carried = fields.warp(moving.image, answer), fields.warp(moving.labels, answer, "nearest")
    images = [x[0, 0].numpy() for x in (fixed.image, moving.image, warped)]
    labels = [x[0, 0].numpy() for x in (fixed.labels, moving.labels, carried)]
    middle = [_fullest(labels[0] > 0, axis) for axis in range(3)]
    low, high = np.percentile(images[0], (1, 99.5))
    figure = Figure(figsize=(12, 9), dpi=72, facecolor="black", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(f"{moving.name} to {fixed.name}; full lines drawn, dashed carried over", color="white", fontsize=9)
    names = [Line2D([], [], color=label.color, label=label.name) for label in plan.labels]
    figure.legend(handles=names, loc="outside lower center", ncols=5, fontsize=7, frameon=False, labelcolor="white")
    for row, axis in enumerate((0, 1, 2)):
        for column, title in enumerate(_TITLES):
            axes = figure.add_subplot(3, 4, 4 * row + column + 1)
            axes.set_axis_off()
            axes.set_facecolor("black")
            if not row:
                axes.set_title(title, color="white", fontsize=9)
            shown = images[(0, 1, 2, 1)[column]].take(middle[axis], axis)
            down, across = (spacing[a] for a in range(3) if a != axis)
            axes.imshow(
                *(shown, "gray"), vmin=low, vmax=high, origin="lower", interpolation="nearest", aspect=down / across
            )
            if column < 2:
                _outline(axes, labels[column].take(middle[axis], axis), plan, "solid")
            elif column == 2:
                _outline(axes, labels[0].take(middle[axis], axis), plan, "solid")
                _outline(axes, labels[2].take(middle[axis], axis), plan, "dashed")
            else:
                _grid(axes, answer[0].numpy().take(middle[axis], 1 + axis), axis, (down, across))
            if plan.preprocessing.unit == "mm":  # the other is for headers that do not tell where the patient lies
                _face(axes, *(plan.preprocessing.orientation[2 - a] for a in range(3) if a != axis))
    canvas.draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _fullest(inside: np.ndarray, axis: int) -> int:
    """The plane across an axis that holds most of a mask; between two lungs there may be none."""
    counts = inside.sum(tuple(a for a in range(3) if a != axis))
    return int(counts.argmax()) if counts.any() else inside.shape[axis] // 2


def _outline(axes: Axes, labels: np.ndarray, plan: Plan, style: str) -> None:
    for label in plan.labels:
        inside = labels == label.value
        if inside.any() and not inside.all():
            axes.contour(inside, [0.5], colors=label.color, linewidths=1, linestyles=style)


def _face(axes: Axes, up: str, right: str) -> None:
    """Turn a picture as radiologists look at it, whose axes run to these letters, and write them at its edges."""
    for letter, shown, turn in ((up, "SALR", axes.invert_yaxis), (right, "LPIS", axes.invert_xaxis)):
        if letter not in shown:
            turn()
    ends = [letter if letter in shown else _OTHER[letter] for letter, shown in ((up, "SALR"), (right, "LPIS"))]
    style = {"color": "#ffe14d", "fontsize": 8, "transform": axes.transAxes}
    axes.text(0.5, 0.99, ends[0], ha="center", va="top", **style)
    axes.text(0.01, 0.5, _OTHER[ends[1]], ha="left", va="center", **style)


def _grid(axes: Axes, displacement: np.ndarray, axis: int, spacing: tuple[float, float]) -> None:
    """Lines of the fixed lattice where the deformation puts them, (3, h, w) voxels, about as far apart both ways."""
    down, across = (a for a in range(3) if a != axis)
    rows, columns = np.indices(displacement.shape[1:])
    y, x = rows + displacement[down], columns + displacement[across]
    apart = max(n * mm for n, mm in zip(rows.shape, spacing, strict=True)) / 12
    high, wide = (
        np.unique([*range(0, n, max(round(apart / mm), 1)), n - 1]) for n, mm in zip(rows.shape, spacing, strict=True)
    )
    for lines in (zip(x[high], y[high], strict=True), zip(x.T[wide], y.T[wide], strict=True)):
        for a, b in lines:
            axes.plot(a, b, color="#35c9ff", linewidth=0.7)
    axes.set_xlim(-0.5, columns.shape[1] - 0.5)
    axes.set_ylim(-0.5, rows.shape[0] - 0.5)
