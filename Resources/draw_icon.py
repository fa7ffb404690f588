"""Draws the icon of module and extension: an organ, and the same organ on a warped grid, brought onto it."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt

ICON = Path(__file__).resolve().parent.parent / "JointRegSeg" / "Resources" / "Icons" / "JointRegSeg.png"
PIXELS = 128
FIXED, MOVING = "#1e78d2", "#f57c00"
#: Where the grid's lines run, both ways: few and thick, so that they last at the 24 pixels of a tool bar.
LINES = (-0.5, 0, 0.5)
#: Size of the organ, and how far the two lie from the middle.
SCALE, APART = 0.78, np.array([0.15, -0.1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ICON, metavar="PNG")
    draw(parser.parse_args().output)


def draw(path: Path) -> None:
    """Write the icon, on a transparent background."""
    figure = plt.figure(figsize=(1, 1), dpi=PIXELS)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    axes.axis("off")
    fixed, moving = SCALE * organ() - APART, SCALE * warped(organ()) + APART
    axes.fill(*fixed.T, facecolor=FIXED, alpha=0.35)
    (outline,) = axes.fill(*moving.T, facecolor=MOVING, alpha=0.3)
    for line in grid():
        axes.plot(*(SCALE * warped(line) + APART).T, color=MOVING, linewidth=2.2, clip_path=outline)
    for contour, color in ((fixed, FIXED), (moving, MOVING)):
        axes.plot(*contour.T, color=color, linewidth=5.5, solid_joinstyle="round")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name of the program, which holds its version.
    figure.savefig(path, transparent=True, metadata={"Software": None})
    plt.close(figure)


def organ() -> np.ndarray:
    """Outline of a kidney, (n, 2), about within the unit circle."""
    angle = np.linspace(0, 2 * np.pi, 200)
    notch = np.exp(-(((angle - np.pi) / 0.5) ** 2))  # on the left
    radius = 1 - 0.48 * notch
    return np.stack([0.88 * radius * np.cos(angle), 0.98 * radius * np.sin(angle)], -1)


def grid() -> list[np.ndarray]:
    """Straight lines (n, 2) across the organ."""
    along = np.linspace(-1, 1, 60)
    pairs = [(along, np.full_like(along, position)) for position in LINES]
    return [np.stack(line, -1) for pair in pairs for line in (pair, pair[::-1])]


def warped(points: np.ndarray) -> np.ndarray:
    """Points (n, 2), bent smoothly."""
    x, y = points.T
    return np.stack([x + 0.14 * np.sin(2.8 * y), y + 0.1 * np.sin(3 * x)], -1)


if __name__ == "__main__":
    main()
