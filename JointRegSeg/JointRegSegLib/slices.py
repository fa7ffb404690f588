"""Flat cuts through volumes on any lattice, turned as a radiologist expects them, and where to put them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .files import grid_of
from .geometry import AXES, Grid

#: Pixels along the longer side of a picture.
SIDE = 256
# A picture is at least this share of its longer side wide and high, so that a stack of few slices is no hairline.
_SLIMMEST = 0.45
# A look at so many voxels tells intensities, and where the structures are.
_SAMPLE = 1_000_000
_FEW = 500
# Pieces of the foreground count if they are at least this share of the largest.
_PIECE = 0.2
_BINS = 12
# A cut with less than this share of the most that a cut can have misses a structure.
_THIN = 0.15


@dataclass(frozen=True)
class Plane:
    """One of the three planes: where the columns and rows of its pictures run to, unit vectors in LPS."""

    name: str
    right: tuple[int, int, int]
    down: tuple[int, int, int]

    @property
    def axis(self) -> int:
        """Axis of LPS that the plane is perpendicular to."""
        return int(np.argmax(np.abs(np.cross(self.right, self.down))))

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """What lies at the left, right, upper and lower edge: letters of L, R, P, A, S, I."""
        return tuple(_letter(sign * np.asarray(v)) for v in (self.right, self.down) for sign in (-1, 1))

    def position(self, point: np.ndarray) -> str:
        """Where the plane through a point (3,) in LPS mm lies, as viewers say it: 'S 12.3 mm'."""
        value = round(float(point[self.axis]), 1)
        return f"{_letter(np.eye(3)[self.axis] * (1 if value >= 0 else -1))} {abs(value):.1f} mm"


def _letter(direction: np.ndarray) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return (AXES if direction[axis] > 0 else "RAI")[axis]


#: Radiological convention: the patient's right on the left; in the sagittal plane, anterior on the left.
PLANES = (
    Plane("axial", (1, 0, 0), (0, 1, 0)),
    Plane("coronal", (1, 0, 0), (0, 0, -1)),
    Plane("sagittal", (0, 1, 0), (0, 0, -1)),
)


@dataclass(frozen=True, eq=False)
class Box:
    """A box along the axes of LPS: ``low`` and ``high`` corner (3,) in mm."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, points: np.ndarray, margin: float = 0.0) -> Box:
        """The box of points (n, 3), wider by a share of its longest side."""
        low, high = points.min(0), points.max(0)
        pad = margin * (high - low).max()
        return cls(low - pad, high + pad)

    @classmethod
    def of_grid(cls, grid: Grid) -> Box:
        """The box of a lattice, borders of the outer voxels included."""
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.size])).reshape(3, -1).T
        return cls.around(grid.to_world(corners))

    def within(self, other: Box) -> Box:
        """The part inside ``other``."""
        return Box(np.clip(self.low, other.low, other.high), np.clip(self.high, other.low, other.high))


def picture_grid(plane: Plane, point: np.ndarray, box: Box, side: int = SIDE) -> Grid:
    """The lattice (w, h, 1) of a picture: square pixels in the plane through ``point`` (3,), around ``box``.

    The first array axis of a `cut` on it runs down, the second to the right.
    """
    right, down = np.asarray(plane.right, float), np.asarray(plane.down, float)
    extent = np.array([np.abs(v) @ (box.high - box.low) for v in (right, down)])
    extent = np.maximum(extent, _SLIMMEST * extent.max())
    pixel = float(extent.max()) / side
    width, height = np.maximum(np.rint(extent / pixel).astype(int), 1)
    center = (box.low + box.high) / 2
    center[plane.axis] = point[plane.axis]
    axes = np.column_stack([right, down, np.cross(right, down)])
    return Grid.centered(center, (width, height, 1), (pixel, pixel, pixel), axes)


def cut(image: sitk.Image, grid: Grid, interpolator: int = sitk.sitkLinear) -> np.ndarray:
    """Read an image on the lattice of a picture.

    Parameters
    ----------
    image : sitk.Image
        Scalar or vector volume on any lattice; only what a picture touches is read.
    grid : Grid
        As `picture_grid` makes it.
    interpolator : int
        ``sitk.sitkLinear``, ``sitk.sitkNearestNeighbor``, or ``sitk.sitkLabelLinear``, which leaves labels labels.

    Returns
    -------
    ndarray
        (h, w), or (h, w, C) of a vector image, float32; NaN outside the image. Labels: their type, 0 outside.
    """
    labels = interpolator == sitk.sitkLabelLinear
    components = image.GetNumberOfComponentsPerPixel()
    out = sitk.Resample(
        _touched(image, grid) if labels else image,
        grid.size,
        sitk.Transform(3, sitk.sitkIdentity),
        interpolator,
        grid.origin.tolist(),
        grid.spacing.tolist(),
        grid.direction.ravel().tolist(),
        0.0 if labels else np.nan,
        image.GetPixelID() if labels else sitk.sitkVectorFloat32 if components > 1 else sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(out)[0]


def _touched(image: sitk.Image, grid: Grid) -> sitk.Image:
    """The part of an image around a picture: interpolation of labels looks through all that it is given for labels."""
    corners = np.array(np.meshgrid((0, grid.size[0] - 1), (0, grid.size[1] - 1), 0)).reshape(3, -1).T
    index = grid_of(image).to_index(grid.to_world(corners))
    last = np.asarray(image.GetSize()) - 1
    low, high = np.clip([np.floor(index.min(0)) - 1, np.ceil(index.max(0)) + 1], 0, last).astype(int)
    return sitk.RegionOfInterest(image, (high - low + 1).tolist(), low.tolist())


def points_of(grid: Grid) -> np.ndarray:
    """Where the pixels of a picture lie, (h, w, 3) in LPS mm."""
    width, height, _ = grid.size
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return grid.to_world(np.stack([column, row, np.zeros_like(row)], -1))


def window(image: sitk.Image) -> tuple[float, float]:
    """The 1st and 99th percentile of an image, or its least and greatest value where these are one."""
    values = _thinned(image)[0]
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    if high > low:
        return low, high
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1)


def structure_points(labels: sitk.Image) -> np.ndarray:
    """Where a sample of the voxels with a label lies, (n, 3) in LPS mm."""
    array, steps = _thinned(labels)
    index = np.argwhere(array)
    if len(index) < _FEW and steps.max() > 1:  # small structures slip through a coarse look
        array, steps = sitk.GetArrayViewFromImage(labels), np.ones(3, int)
        index = np.argwhere(array)
    return grid_of(labels).to_world((index * steps)[:, ::-1])


def foreground_points(image: sitk.Image) -> np.ndarray:
    """Where a sample of the voxels of the body lies, (n, 3) in LPS mm.

    They are above Otsu's threshold, in large pieces: no noise, no table.
    """
    array, steps = _thinned(image)
    if np.count_nonzero(array > array.min()) < _FEW:  # what is small slips through a coarse look
        array, steps = sitk.GetArrayViewFromImage(image), np.ones(3, int)
    clipped = sitk.GetImageFromArray(np.clip(array.astype(np.float32), *window(image)))
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.OtsuThreshold(clipped, 0, 1)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    index = np.argwhere((sizes >= max(_PIECE * sizes.max(), 1))[pieces])
    grid = grid_of(image)
    return grid.to_world((index * steps)[:, ::-1]) if len(index) else grid.center[None]


def _thinned(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """A view (d, h, w) of every n-th voxel, and n along each of its axes; thin axes are spared."""
    array = sitk.GetArrayViewFromImage(image)
    steps = np.ones(3, int)
    while np.prod(-(-np.asarray(array.shape) // steps)) > _SAMPLE:
        steps[np.argmax(np.asarray(array.shape) / steps)] += 1
    return array[:: steps[0], :: steps[1], :: steps[2]], steps


def focus(points: np.ndarray, grid: Grid) -> np.ndarray:
    """The point (3,) in LPS mm through which to cut a structure given by ``points`` (n, 3), a voxel of ``grid``.

    Its centroid; but along an axis where little of the structure lies there (between two lungs, say), where most does.
    """
    point = points.mean(0)
    for axis in range(3):
        counts, edges = _profile(points[:, axis], grid)
        if _at(point[axis], counts, edges) < counts.max() / 2:
            best = int(np.argmax(counts))
            point[axis] = (edges[best] + edges[best + 1]) / 2
    return on_voxel(point, grid)


def stations(points: np.ndarray, grid: Grid) -> tuple[int, np.ndarray]:
    """An axis of LPS, and three places (3,) in mm on it at which to cut a structure given by ``points`` (n, 3).

    A quarter, half and three quarters of the structure's longest extent along which none of these misses it.
    """
    low, high = np.percentile(points, (2, 98), axis=0)  # a few stray voxels are no structure
    for axis in np.argsort(low - high, kind="stable"):
        places = low[axis] + np.array([0.25, 0.5, 0.75]) * (high - low)[axis]
        counts, edges = _profile(points[:, axis], grid)
        if min(_at(place, counts, edges) for place in places) > _THIN * counts.max():
            return int(axis), places
    axis = int(np.argmax(high - low))
    return axis, np.percentile(points[:, axis], (25, 50, 75))


def _profile(values: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """How much of a structure lies where along an axis: counts, and the edges of the bins."""
    # In bins hardly wider than the distance of two slices, counts would alternate.
    return np.histogram(values, int(np.clip(np.ptp(values) / (4 * grid.spacing.max()), 1, _BINS)))


def _at(value: float, counts: np.ndarray, edges: np.ndarray) -> int:
    return int(counts[np.clip(np.searchsorted(edges, value) - 1, 0, len(counts) - 1)])


def on_voxel(point: np.ndarray, grid: Grid) -> np.ndarray:
    """The center (3,) of the nearest voxel, in LPS mm; between two thick slices, a picture would blend both."""
    return grid.to_world(np.clip(np.rint(grid.to_index(point)), 0, np.asarray(grid.size) - 1))
