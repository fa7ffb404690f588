"""The pictures of a report: both images, the deformation and the outlines in three planes."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import SimpleITK as sitk
from contourpy import contour_generator
from matplotlib.colors import LinearSegmentedColormap, is_color_like, to_hex
from scipy.ndimage import binary_dilation, minimum_filter1d

from . import slices
from .canvas import Panel, Stroke, Tile, color_bar, colored, gray, render, round_length
from .files import grid_of
from .geometry import Grid
from .result import Registration
from .slices import PLANES, Box, Plane, cut
from .text import percent

FOLD = (255, 0, 200)
DIFFERENCE = matplotlib.colormaps["RdBu_r"]
# White has to be exactly the middle, hence the odd number of colors.
VOLUME = LinearSegmentedColormap.from_list("volume", ["#084c61", "#4fb3bf", "#ffffff", "#e0a458", "#6b3e07"], 257)
MOTION = LinearSegmentedColormap.from_list("motion", ["#35c9ff", "#ffe14d", "#ff4b33"])
#: For labels that bring no color; to be told from each other, on gray, also with a color vision deficiency.
COLORS = ("#ffb000", "#56b4e9", "#3ddc97", "#f0e442", "#ff7043", "#e58bd0", "#9d8cff", "#c8e06c")
_TILE = 32  # of the checkerboard, in pixels
_MARGIN, _ZOOM_MARGIN = 0.05, 0.25  # around the body and the structures, as shares of the longest side

_Bounds = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """Pictures of one plane, with its position in the patient, such as 'S 12.3 mm'."""

    plane: str
    position: str
    panels: list[Panel]


@dataclass(frozen=True)
class Scale:
    """A color bar as PNG, what its places mean from left to right, and of what."""

    png: bytes
    ticks: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Gallery:
    """All pictures of a report.

    Attributes
    ----------
    rows : list of Row
        Axial, coronal, sagittal.
    outlines : list of Row
        Further slices through the structures, enlarged; empty where there are none.
    scales : dict
        `Scale` of the panels' keys that have one.
    legend : list of (str, str)
        Names and colors ('#rrggbb') of the outlined labels.
    same_window : bool
        Whether both images share one gray scale.
    """

    rows: list[Row]
    outlines: list[Row]
    scales: dict[str, Scale]
    legend: list[tuple[str, str]]
    same_window: bool


@dataclass(frozen=True)
class _Labels:
    """A pair of label maps on the fixed grid, either of which may be missing."""

    key: str
    title: str
    fixed: sitk.Image | None
    carried: sitk.Image | None


@dataclass
class _Cuts:
    """What is read in one plane. Images are shares of the gray window, (h, w); NaN outside them.

    ``motion`` is (h, w, 2): mm to the right and down, without the mean ``shift``. ``labels`` has for each pair of label
    maps the (h, w) cuts of both.
    """

    plane: Plane
    position: str
    grid: Grid
    fixed: np.ndarray
    labels: list[tuple[_Labels, np.ndarray, np.ndarray]]
    before: np.ndarray | None = None
    warped: np.ndarray | None = None
    motion: np.ndarray | None = None
    shift: float = 0.0
    jacobian: np.ndarray | None = None
    folded: np.ndarray | None = None


def draw(result: Registration) -> Gallery:
    """Draw the pictures of a registration; images and fields are read on the slices shown only.

    Returns
    -------
    Gallery
    """
    grid = grid_of(result.fixed)
    windows, same = _windows(result)
    pairs = [
        _Labels("outlines", "Outlines: segmentation", result.fixed_segmentation, result.warped_segmentation),
        _Labels("outlines_given", "Outlines: given labels", result.fixed_labels, result.warped_labels),
    ]
    pairs = [pair for pair in pairs if pair.fixed is not None or pair.carried is not None]
    maps = [image for pair in pairs for image in (pair.fixed, pair.carried) if image is not None]
    structure = next((points for image in maps if len(points := slices.structure_points(image))), None)
    body = slices.foreground_points(result.fixed)
    point = slices.focus(body if structure is None else structure, grid)
    everything = body if structure is None else np.vstack([body, structure])
    box = Box.around(everything, _MARGIN).within(Box.of_grid(grid))

    cuts = [_look(result, plane, point, box, pairs, windows[0]) for plane in PLANES]
    for c in cuts:
        _measure(result, c, windows[1])
    further = [] if structure is None else _further(result, structure, pairs, windows[0])
    palette, legend = _palette(result, cuts + further)
    paint = _Paint(cuts, windows[0] if same else None)
    return Gallery(
        [_row(c, [*paint.appearance(c), *_outlines(c, palette), *paint.deformation(c)]) for c in cuts],
        [_row(c, _outlines(c, palette)) for c in further],
        paint.scales(),
        legend,
        same,
    )


def _row(c: _Cuts, tiles: list[Tile]) -> Row:
    return Row(c.plane.name, c.position, render(tiles, c.plane, float(c.grid.spacing[0])))


def _windows(result: Registration) -> tuple[tuple[_Bounds, _Bounds], bool]:
    """Gray windows of the fixed and of the moving image: one and the same if their intensities are of one kind."""
    fixed, moving = slices.window(result.fixed), slices.window(result.moving)
    same = abs(fixed[0] - moving[0]) + abs(fixed[1] - moving[1]) < 0.5 * (fixed[1] - fixed[0])
    return (fixed, fixed if same else moving), same


def _share(values: np.ndarray, bounds: _Bounds) -> np.ndarray:
    return (values - bounds[0]) / (bounds[1] - bounds[0])


def _look(
    result: Registration, plane: Plane, point: np.ndarray, box: Box, pairs: list[_Labels], bounds: _Bounds
) -> _Cuts:
    """The fixed image and all label maps in a plane."""
    grid = slices.picture_grid(plane, point, box)
    fixed = _share(cut(result.fixed, grid), bounds)
    nothing = np.zeros(fixed.shape, np.uint8)
    labels = [
        (pair, *(nothing if i is None else cut(i, grid, sitk.sitkLabelLinear) for i in (pair.fixed, pair.carried)))
        for pair in pairs
    ]
    return _Cuts(plane, plane.position(point), grid, fixed, labels)


def _measure(result: Registration, c: _Cuts, bounds: _Bounds) -> None:
    """The moving image before and after, and the fields, in the same plane."""
    displacement = cut(result.displacement, c.grid)
    # The warped image is filled up where the moving one does not reach; what is not known is not to be judged.
    reached = grid_of(result.moving).contains(slices.points_of(c.grid) + displacement)
    voxels = grid_of(result.fixed).affine[:3, :3]
    for axis, direction in enumerate((c.plane.down, c.plane.right)):  # interpolation spreads the filling by a voxel
        width = int(np.ceil(np.abs(direction @ voxels).max() / c.grid.spacing[0]))
        reached = minimum_filter1d(reached, 2 * width + 1, axis)
    c.before = _share(cut(result.moving, c.grid), bounds)
    c.warped = _share(np.where(reached, cut(result.warped, c.grid), np.nan), bounds)
    motion = displacement @ np.array([c.plane.right, c.plane.down], float).T
    known = np.isfinite(motion).all(-1)
    shift = motion[known].mean(0) if known.any() else np.zeros(2)
    c.motion, c.shift = motion - shift, float(np.linalg.norm(shift))
    c.jacobian = cut(result.jacobian, c.grid)
    # Interpolation would fill small folds in.
    c.folded = np.nan_to_num(cut(result.jacobian, c.grid, sitk.sitkNearestNeighbor), nan=1.0) <= 0


def _further(result: Registration, structure: np.ndarray, pairs: list[_Labels], bounds: _Bounds) -> list[_Cuts]:
    """Enlarged cuts at a quarter, half and three quarters of the structures."""
    grid = grid_of(result.fixed)
    axis, places = slices.stations(structure, grid)
    plane = next(p for p in PLANES if p.axis == axis)
    low, high = np.percentile(structure, (1, 99), axis=0)
    margin = max(_ZOOM_MARGIN * float((high - low).max()), 2 * float(grid.spacing.max()))
    box = Box(low - margin, high + margin).within(Box.of_grid(grid))
    points = {}
    for place in places:
        point = structure.mean(0)
        point[axis] = place
        point = slices.on_voxel(point, grid)
        points[plane.position(point)] = point  # in a stack of a few slices some are the same
    return [_look(result, plane, point, box, pairs, bounds) for point in points.values()]


def _palette(result: Registration, cuts: list[_Cuts]) -> tuple[dict[int, str], list[tuple[str, str]]]:
    """A color for each label that is seen, and the legend."""
    seen: dict[int, bool] = {}  # whether the user's own labels have the value too
    for pair, *both in (entry for c in cuts for entry in c.labels):
        for value in np.unique(both).tolist():
            if value:
                seen[int(value)] = seen.get(int(value), False) or pair.key == "outlines_given"
    palette = {}
    for i, value in enumerate(sorted(seen)):
        color = result.label_colors.get(value)
        palette[value] = to_hex(color) if is_color_like(color) else COLORS[i % len(COLORS)]
    return palette, [(_legend(result.label_names.get(v), v, seen[v]), color) for v, color in palette.items()]


def _legend(name: str | None, value: int, given: bool) -> str:
    """What a label is called: the model's names need not be those of the user's own labels with the same numbers."""
    if name is None:
        return f"label {value}"
    return f"{name} (given labels: {value})" if given else name


def _outlines(c: _Cuts, palette: dict[int, str]) -> list[Tile]:
    """Outlines on the fixed image: its own solid, the carried-over ones dashed."""
    tiles = []
    for pair, own, carried in c.labels:
        strokes = [
            Stroke(contour_generator(z=(labels == v).astype(float)).lines(0.5), palette[int(v)], width, dashed)
            for labels, width, dashed in ((own, 1.2, False), (carried, 1.6, True))
            for v in np.unique(labels)
            if v
        ]
        tiles.append(Tile(pair.key, pair.title, gray(c.fixed), strokes))
    return tiles


class _Paint:
    """Turns numbers into colors, with one scale for all planes.

    ``bounds`` are those of the gray window if both images share it, which gives differences a unit.
    """

    def __init__(self, cuts: list[_Cuts], bounds: _Bounds | None) -> None:
        self._bounds = bounds
        self._difference = _limit([x - c.fixed for c in cuts for x in (c.before, c.warped)], 99, 0.02)
        self._log = min(_limit([_log(c.jacobian[c.jacobian > 0]) for c in cuts], 99, np.log(1.1)), np.log(5))
        self._step = round_length(max(max(c.grid.size) * c.grid.spacing[0] for c in cuts) / 14)
        self._motion = _limit([np.linalg.norm(c.motion, axis=-1) for c in cuts], 99.5, self._step / 20)

    def appearance(self, c: _Cuts) -> list[Tile]:
        """Fixed, moving before and after, the differences and the checkerboard."""
        row, column = np.indices(c.fixed.shape) // _TILE
        elsewhere = "" if np.isfinite(c.before).any() else "The moving image lies elsewhere in space."
        differences = [colored(x - c.fixed, self._difference, DIFFERENCE) for x in (c.before, c.warped)]
        return [
            Tile("fixed", "Fixed", gray(c.fixed)),
            Tile("before", "Moving, before", gray(c.before), note=elsewhere),
            Tile("warped", "Moving, warped", gray(c.warped)),
            Tile("difference_before", "Difference, before", differences[0]),
            Tile("difference_after", "Difference, after", differences[1]),
            Tile("checkerboard", "Checkerboard", gray(np.where((row + column) % 2, c.warped, c.fixed))),
        ]

    def deformation(self, c: _Cuts) -> list[Tile]:
        """The displaced grid and the map of volume change."""
        volume = colored(_log(c.jacobian), self._log, VOLUME)
        volume[binary_dilation(c.folded)] = FOLD  # single pixels would be overlooked
        folded = c.folded.sum() / max(np.isfinite(c.jacobian).sum(), 1)
        grid_note = f"A line every {self._step:g} mm; without the mean shift of {c.shift:.1f} mm in this plane."
        fold_note = f"{percent(folded)} of this slice is folded." if folded else "No folds in this slice."
        backdrop = (0.6 * gray(c.warped)).astype(np.uint8)
        return [
            Tile("grid", "Deformation grid", backdrop, [self._grid(c.motion, c.grid.spacing[0])], grid_note),
            Tile("jacobian", "Volume change (Jacobian)", volume, note=fold_note),
        ]

    def scales(self) -> dict[str, Scale]:
        """Color bars by the key of the panels."""
        if self._bounds is None:
            ends, text = f"{100 * self._difference:.0f} %", "moving − fixed, in % of the gray windows"
        else:
            ends, text = f"{self._difference * (self._bounds[1] - self._bounds[0]):.3g}", "moving − fixed, intensity"
        difference = Scale(color_bar(DIFFERENCE), (f"−{ends}", "0", f"+{ends}"), text)
        lengths = ("0", f"{self._motion / 2:.2g}", f"{self._motion:.2g}")
        changes = (f"≤ {np.exp(-self._log):.2f}", "1", f"≥ {np.exp(self._log):.2f}")
        return {
            "difference_before": difference,
            "difference_after": difference,
            "grid": Scale(color_bar(MOTION), lengths, "displacement in the plane, mm"),
            "jacobian": Scale(color_bar(VOLUME), changes, "moving volume / fixed volume"),
        }

    def _grid(self, motion: np.ndarray, pixel: float) -> Stroke:
        """A regular grid, drawn where ``motion`` (h, w, 2) takes it, in pieces colored by its length."""
        row, column = np.indices(motion.shape[:2])
        there = np.stack([column, row], -1) + motion / pixel
        length = np.linalg.norm(motion, axis=-1)
        pieces, lengths = [], []
        for axis in (0, 1):
            places = np.arange(0, motion.shape[axis] - 0.5, self._step / pixel).astype(int)
            # Lines first, then the points along each; a piece for every third pixel.
            line = there.take(places, axis).swapaxes(0, axis)[:, ::3]
            pieces.append(np.stack([line[:, :-1], line[:, 1:]], 2).reshape(-1, 2, 2))
            lengths.append(length.take(places, axis).swapaxes(0, axis)[:, ::3][:, :-1].ravel())
        pieces, lengths = np.concatenate(pieces), np.concatenate(lengths)
        known = np.isfinite(pieces).all((1, 2))
        return Stroke(pieces[known], MOTION(lengths[known] / self._motion), 1.2)


def _log(jacobian: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(jacobian, 1e-6))


def _limit(arrays: list[np.ndarray], percentile: float, least: float) -> float:
    """The end of a color scale for the magnitude of all values."""
    values = np.abs(np.concatenate([a[np.isfinite(a)] for a in arrays]))
    return max(float(np.percentile(values, percentile)), float(least)) if len(values) else float(least)
