"""From numbers to PNG files in memory: gray and colored pictures with lines, orientation letters and a scale bar."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from .slices import Plane

#: Shown where there is no value: no gray, so that it is not taken for air.
OUTSIDE = (44, 62, 80)
# A power of two, so that pixels divided by it and multiplied again stay whole numbers.
_DPI = 64
_POINT = _DPI / 72
_DASHES = (0, (2.5, 1.8))


@dataclass(frozen=True)
class Panel:
    """A picture: what it shows (``key``), its title, a PNG file, its width and height, a note on this very picture."""

    key: str
    title: str
    png: bytes
    size: tuple[int, int]
    note: str = ""


@dataclass
class Stroke:
    """Lines (n, 2) of column and row in pixels; one color for all, or (lines, 4) RGBA from 0 to 1; width in pixels."""

    lines: Sequence[np.ndarray]
    colors: str | np.ndarray
    width: float
    dashed: bool = False


@dataclass
class Tile:
    """A panel to be: its picture (h, w, 3) uint8, and what is drawn on top."""

    key: str
    title: str
    rgb: np.ndarray
    strokes: list[Stroke] = field(default_factory=list)
    note: str = ""


def gray(share: np.ndarray) -> np.ndarray:
    """(h, w) from 0 (black) to 1 (white) as (h, w, 3) uint8; NaN as `OUTSIDE`."""
    known = np.isfinite(share)
    values = np.rint(255 * np.clip(np.where(known, share, 0), 0, 1)).astype(np.uint8)
    return np.where(known[..., None], values[..., None], np.array(OUTSIDE, np.uint8))


def colored(values: np.ndarray, limit: float, colors: Colormap) -> np.ndarray:
    """(h, w) from -limit to limit in diverging colors as (h, w, 3) uint8; NaN as `OUTSIDE`."""
    known = np.isfinite(values)
    rgb = colors(0.5 + np.where(known, values, 0) / (2 * limit), bytes=True)[..., :3]
    return np.where(known[..., None], rgb, np.array(OUTSIDE, np.uint8))


def color_bar(colors: Colormap) -> bytes:
    """All colors from left to right, as PNG."""
    return png(np.broadcast_to(colors(np.linspace(0, 1, 256), bytes=True)[None, :, :3], (12, 256, 3)))


def round_length(length: float) -> float:
    """The number nearest to ``length``, as a factor, that is 1, 2, 3 or 5 times a power of ten."""
    power = np.floor(np.log10(length))
    steps = np.outer(10.0 ** np.array([power, power + 1]), (1, 2, 3, 5)).ravel()
    return float(steps[np.argmin(np.abs(np.log(steps / length)))])


def render(tiles: list[Tile], plane: Plane, pixel: float) -> list[Panel]:
    """Draw tiles of one size, whose pixels are ``pixel`` mm wide: in one figure side by side, which is then cut."""
    height, width = tiles[0].rgb.shape[:2]
    total = width * len(tiles)
    figure = Figure(figsize=(total / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    figure.figimage(np.concatenate([t.rgb for t in tiles], 1), origin="upper", zorder=-1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, total - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    for i, tile in enumerate(tiles):
        frame = Rectangle((i * width - 0.5, -0.5), width, height, transform=axes.transData)
        for stroke in tile.strokes:
            lines = LineCollection(
                [np.add(line, (i * width, 0)) for line in stroke.lines],
                colors=stroke.colors,
                linewidths=stroke.width / _POINT,
                linestyles=_DASHES if stroke.dashed else "solid",
            )
            axes.add_collection(lines, autolim=False)
            lines.set_clip_path(frame)  # after adding, which had clipped it to the whole row
        _annotate(axes, i * width, width, height, plane, pixel)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    cuts = [rgb[:, i * width : (i + 1) * width] for i in range(len(tiles))]
    return [Panel(t.key, t.title, png(c), (width, height), t.note) for t, c in zip(tiles, cuts, strict=True)]


def _annotate(axes: Axes, left: int, width: int, height: int, plane: Plane, pixel: float) -> None:
    """Orientation letters at the edges, and a scale bar."""
    text = {"color": "white", "fontweight": "bold", "path_effects": [withStroke(linewidth=2.4, foreground="black")]}
    start, end, top, bottom = plane.letters
    size = 11 / _POINT
    axes.text(left + 4, height / 2, start, va="center", ha="left", fontsize=size, **text)
    axes.text(left + width - 5, height / 2, end, va="center", ha="right", fontsize=size, **text)
    axes.text(left + width / 2, 3, top, va="top", ha="center", fontsize=size, **text)
    axes.text(left + width / 2, height - 4, bottom, va="bottom", ha="center", fontsize=size, **text)
    length = round_length(width * pixel / 4)
    ends = left + 8 + np.array([0, length / pixel])
    halo = [withStroke(linewidth=5, foreground="black")]
    axes.plot(ends, [height - 8] * 2, color="white", linewidth=2.5, solid_capstyle="butt", path_effects=halo)
    axes.text(left + 8, height - 12, f"{length:g} mm", va="bottom", ha="left", fontsize=9 / _POINT, **text)


def png(rgb: np.ndarray) -> bytes:
    """A PNG file of (h, w, 3) uint8."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PNG")
    return stream.getvalue()
