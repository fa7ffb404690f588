"""The pictures of a lung review: both scans, the expansion and the motion in three planes, and a picture a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import SimpleITK as sitk
from contourpy import contour_generator
from matplotlib.colors import Colormap, ListedColormap, to_rgb

from .. import slices
from ..canvas import Panel, Stroke, Tile, color_bar, gray, render, round_length
from ..files import grid_of
from ..geometry import Grid
from ..pictures import MOTION, VOLUME, Row, Scale
from ..preprocess import is_ct
from ..slices import PLANES, Box, Plane, cut
from .measures import DERIVED, MEASURES, RESPONSES, Description
from .record import PHASES
from .reviewing import Review

#: Level and width of the window in HU in which lungs are read.
LEVEL, WIDTH = -600, 1500
#: Pixels along the longer side of a large picture and of a small one.
LARGE, SMALL = 384, 256
#: Of the lungs' outlines.
OUTLINE = "#ffd166"
#: Of the classes of `RESPONSES`, as they are published.
CLASSES = ("#4caf50", "#ffd54f", "#e53935", "#b0bec5")
#: Where a map that begins at zero is below it.
BELOW = "#e83e9c"

_EXPANSION: Colormap = matplotlib.colormaps["viridis"].with_extremes(under=BELOW)
#: Maps that are zero where nothing changes, and those that begin at zero; others are `RESPONSES`.
_SIGNED = ("log_jacobian", "strain_1", "strain_2", "strain_3")
_ALPHA = 0.72


@dataclass(frozen=True)
class Gallery:
    """All pictures: three planes of four, with scales by the panels' keys, and a coronal one of each map."""

    rows: list[Row]
    scales: dict[str, Scale]
    maps: list[Panel]
    map_scales: dict[str, Scale]
    position: str
    window: str


@dataclass(frozen=True)
class _Colors:
    """How the values of a map become colors: the map of colors, its ends, and the legend."""

    colors: Colormap
    low: float
    high: float
    scale: Scale

    def rgb(self, values: np.ndarray) -> np.ndarray:
        """(h, w) as (h, w, 3) from 0 to 1; anything where NaN."""
        share = (np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low)
        return self.colors(share)[..., :3]


def draw(review: Review) -> Gallery:
    """Draw the pictures of a review, through the middle of the lungs; only what they show is read."""
    result = review.registration
    grid = grid_of(result.fixed)
    lungs = slices.structure_points(review.lungs)
    box = Box.around(lungs, 0.08).within(Box.of_grid(grid))
    point = slices.focus(lungs, grid)
    windows, text = _windows(result.fixed, result.moving)
    colors = {name: _colors(name, image) for name, image in review.maps.items()}
    motion = _motion(review)
    step = round_length(float((box.high - box.low).max()) / 22)
    longest = max(float(np.nanpercentile(sitk.GetArrayViewFromImage(review.maps["displacement"]), 99)), 1.0)
    rows = []
    for plane in PLANES:
        picture = slices.picture_grid(plane, point, box, LARGE)
        tiles = _tiles(review, plane, picture, windows, colors["ventilation"], motion, step, longest)
        rows.append(Row(plane.name, plane.position(point), render(tiles, plane, float(picture.spacing[0]))))
    coronal = PLANES[1]
    picture = slices.picture_grid(coronal, point, box, SMALL)
    tiles = [
        Tile(name, _described(name).title, _overlaid(review, picture, windows[0], name, colors[name]))
        for name in review.maps
    ]
    lengths = ("0", f"{longest / 2:.2g}", f"≥ {longest:.2g}")
    scales = {
        "ventilation": colors["ventilation"].scale,
        "motion": Scale(color_bar(MOTION), lengths, "mm, from exhale (tail) to inhale (head), true to scale"),
    }
    return Gallery(
        rows,
        scales,
        render(tiles, coronal, float(picture.spacing[0])),
        {name: entry.scale for name, entry in colors.items()},
        coronal.position(point),
        text,
    )


def colors(review: Review) -> dict[str, dict[str, Any]]:
    """How to color the maps elsewhere, by name.

    ``low``, ``high``, RGB ``colors`` from low to high, ``range`` from the least to the greatest value, ``title``, and
    ``names`` of classes.
    """
    out = {}
    for name, image in review.maps.items():
        entry = _colors(name, image)
        names = list(RESPONSES.values()) if name == "parametric_response" else []
        table = entry.colors(np.linspace(0, 1, len(names) or 256))[:, :3]
        if entry.colors is _EXPANSION:
            table[0] = to_rgb(BELOW)  # what is below the end has the color of the end
        title = f"{_described(name).title}{' (mm)' if _described(name).unit else ''}"
        values = sitk.GetArrayViewFromImage(image)
        ends = [float(np.nanmin(values)), float(np.nanmax(values))]
        out[name] = {"low": entry.low, "high": entry.high, "colors": table.round(4).tolist()}
        out[name] |= {"range": ends, "title": title}
        if names:
            out[name]["names"] = names
    return out


def _described(name: str) -> Description:
    return (MEASURES | DERIVED)[name]


def _windows(fixed: sitk.Image, moving: sitk.Image) -> tuple[list[tuple[float, float]], str]:
    """Gray windows of both, and what they are."""
    if all(is_ct(sitk.GetArrayViewFromImage(image)) for image in (fixed, moving)):
        bounds = (LEVEL - WIDTH / 2, LEVEL + WIDTH / 2)
        return [bounds, bounds], f"Lung window: level {LEVEL} HU, width {WIDTH} HU."
    return [slices.window(fixed), slices.window(moving)], "Gray from the 1st to the 99th percentile of each image."


def _motion(review: Review) -> sitk.Image:
    """The way of the tissue from exhale to inhale in LPS mm, on the lattice of the displacements."""
    displacement = review.registration.displacement
    return -displacement if review.reference == PHASES[0] else displacement


def _share(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values - bounds[0]) / (bounds[1] - bounds[0])


def _tiles(
    review: Review,
    plane: Plane,
    picture: Grid,
    windows: list[tuple[float, float]],
    colors: _Colors,
    motion: sitk.Image,
    step: float,
    longest: float,
) -> list[Tile]:
    """The four pictures of a plane: both scans, the expansion, the motion."""
    result = review.registration
    fixed = gray(_share(cut(result.fixed, picture), windows[0]))
    other = next(phase for phase in PHASES if phase != review.reference)
    inside = cut(review.lungs, picture, sitk.sitkLabelLinear)
    outline = Stroke(contour_generator(z=(inside > 0).astype(float)).lines(0.5), OUTLINE, 1.0)
    warped = cut(result.warped, picture)
    there = slices.points_of(picture) + cut(result.displacement, picture)
    warped = np.where(grid_of(result.moving).contains(there), warped, np.nan)
    moved = _arrows(
        *(cut(motion, picture), inside > 0, plane, float(picture.spacing[0]), step, longest),
        from_here=review.reference == "exhale",
    )
    return [
        Tile("fixed", review.reference.capitalize(), fixed),
        Tile("warped", f"{other.capitalize()}, warped", gray(_share(warped, windows[1])), [outline]),
        Tile(
            "ventilation",
            _described("ventilation").title,
            _overlaid(review, picture, windows[0], "ventilation", colors),
        ),
        Tile("motion", "Motion of the lungs", (0.55 * fixed).astype(np.uint8), [outline, moved]),
    ]


def _overlaid(review: Review, picture: Grid, bounds: tuple[float, float], name: str, colors: _Colors) -> np.ndarray:
    """A map in color over the fixed scan, (h, w, 3) uint8."""
    values = cut(review.maps[name], picture, sitk.sitkNearestNeighbor)
    base = gray(_share(cut(review.registration.fixed, picture), bounds))
    mixed = _ALPHA * 255 * colors.rgb(values) + (1 - _ALPHA) * base
    return np.where(np.isfinite(values)[..., None], mixed, base).round().astype(np.uint8)


def _colors(name: str, image: sitk.Image) -> _Colors:
    """Colors, ends and legend of a map, by what 98 % of the lungs have."""
    entry = _described(name)
    told = f"{entry.formula}{f', {entry.unit}' if entry.unit else ', no unit'}"
    if name == "parametric_response":
        colors = ListedColormap([to_rgb(color) for color in CLASSES])
        legend = color_bar(colors)
        ticks = ("normal", "air trapping", "emphysema", "unclassified")
        return _Colors(colors, 0.5, len(RESPONSES) + 0.5, Scale(legend, ticks, "classes by HU"))
    values = sitk.GetArrayViewFromImage(image)
    values = values[np.isfinite(values)]
    if name in _SIGNED:
        limit = max(float(np.percentile(np.abs(values), 98)), 0.02)
        ticks = (f"≤ −{limit:.2g}", "0", f"≥ {limit:.2g}")
        return _Colors(VOLUME, -limit, limit, Scale(color_bar(VOLUME), ticks, told))
    limit = max(float(np.percentile(values, 98)), 0.05)
    ticks = ("0", f"{limit / 2:.2g}", f"≥ {limit:.2g}")
    below = " Pink: below 0." if (values < 0).any() else ""
    return _Colors(_EXPANSION, 0.0, limit, Scale(color_bar(_EXPANSION), ticks, f"{told}.{below}"))


def _arrows(
    motion: np.ndarray,
    inside: np.ndarray,
    plane: Plane,
    pixel: float,
    step: float,
    longest: float,
    from_here: bool = False,
) -> Stroke:
    """Arrows from exhale to inhale, through pixels inside the lungs, colored by their length in space.

    ``motion`` is (h, w, 3) in LPS mm; the picture shows its part in the plane. Tissue of a pixel is there at inhale,
    and with ``from_here`` at exhale.
    """
    every = max(round(step / pixel), 2)
    rows, columns = np.indices(inside.shape)[:, every // 2 :: every, every // 2 :: every].reshape(2, -1)
    chosen = inside[rows, columns] & np.isfinite(motion[rows, columns]).all(1)
    rows, columns = rows[chosen], columns[chosen]
    way = motion[rows, columns]
    shaft = way @ np.array([plane.right, plane.down], float).T / pixel
    head = np.stack([columns, rows], 1) + (shaft if from_here else 0.0)
    length = np.linalg.norm(shaft, axis=1, keepdims=True)
    unit = np.divide(shaft, length, out=np.zeros_like(shaft), where=length > 0)
    barb = np.minimum(0.4 * length, 5.0)
    side = np.stack([-unit[:, 1], unit[:, 0]], 1)
    lines = [
        np.stack([head - shaft, head], 1),
        *(np.stack([head - barb * unit + sign * 0.6 * barb * side, head], 1) for sign in (-1, 1)),
    ]
    colors = MOTION(np.linalg.norm(way, axis=1) / longest)
    return Stroke(np.concatenate(lines), np.tile(colors, (3, 1)), 1.3)
