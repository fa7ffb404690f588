"""A breathing thorax made of formulas: two CT images whose true motion is known, for the demonstration and the tests.

The anatomy is drawn once, in the patient's frame at exhale: LPS millimeters, the diaphragm's right dome near z = 0.
Every random choice comes from one seed, and the anatomy does not depend on the lattices on which it is imaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .deformation import scalar_image
from .errors import InputError
from .geometry import Grid

LABELS = {1: "right lung", 2: "left lung", 3: "liver", 4: "heart"}
MAX_DEPTH_MM = 40.0  # no diaphragm rises farther; the motion would not fold at 80 mm either

# Half the body's width and thickness, in mm.
_WIDE, _DEEP = 140.0, 98.0
# Great vessels without the branches of the arch, and the airway down to the roots of the lungs.
# Tubes: rows of start (3), end (3) and radius, in mm.
_BLOOD = np.array(
    [
        (4, -14, 32, -10, -16, 74, 15),  # ascending aorta
        (-10, -16, 76, 6, 2, 92, 13),  # arch
        (6, 2, 92, 18, 25, 82, 12.5),
        (18, 25, 82, 18, 25, -40, 11.5),  # descending aorta
        (18, 25, -40, 8, 22, -160, 10.5),
        (-20, -6, 120, -24, -6, 30, 9),  # superior vena cava
        (-18, 8, 10, -20, 14, -160, 10.5),  # inferior vena cava
        (10, -14, 56, 26, 10, 62, 11),  # pulmonary arteries
        (6, -2, 58, -26, 8, 60, 9),
    ],
    float,
)
_AIRWAY = np.array([(-2, 10, 180, -1, 16, 74, 8), (-1, 16, 74, -26, 12, 60, 6), (-1, 16, 74, 30, 16, 60, 5.5)], float)
# The wave of the diaphragm: height of its crest, and where it has died out toward the apex and the abdomen, in mm.
_CREST, _UP, _DOWN = -25.0, 190.0, 140.0

_Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class ThoraxPair:
    """A thorax at inhale (fixed) and at exhale (moving), and the motion between them.

    Attributes
    ----------
    fixed, moving : sitk.Image
        int16, Hounsfield units, noise included.
    fixed_labels, moving_labels : sitk.Image
        uint8, the numbers of `LABELS`, on the lattices of the images.
    fixed_points, moving_points : (n, 3) ndarray
        Forks of vessels in lungs and liver at inhale, and the same forks at exhale; LPS mm.
    depth_mm : float
        How far the domes of the diaphragm rise from inhale to exhale.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    fixed_points: np.ndarray
    moving_points: np.ndarray
    depth_mm: float

    def motion(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) of the fixed image lie in the moving one, both in LPS mm, anywhere in space."""
        return _motion(points, self.depth_mm)


def breathing_thorax(
    seed: int = 0,
    size: Sequence[int] = (84, 68, 58),
    spacing: Sequence[float] = (3.6, 3.6, 5.0),
    depth_mm: float = 18.0,
    noise_hu: float = 12.0,
) -> ThoraxPair:
    """Image a phantom thorax at inhale and at exhale.

    The two lattices are oblique and share neither size, spacing, direction, order of the axes nor middle, so that no
    mistake with an axis or a sign can hide. Lung tissue keeps its mass: it is denser at exhale.

    Parameters
    ----------
    seed : int
        Chooses vessels, texture and noise.
    size, spacing : three numbers each
        Voxels and mm along i, j, k of the fixed image, which runs about 'LPS'; the moving image, about 'AIL', covers
        the same space. The default shows the whole thorax.
    depth_mm : float
        How far the domes of the diaphragm rise, 0 to 40; a little more behind, less in front. The walls of the chest
        move in by a quarter (front) and a seventh (sides) of it, the spine rests.
    noise_hu : float
        Standard deviation of the noise.

    Raises
    ------
    InputError
        If ``depth_mm`` or ``noise_hu`` is out of range, or size or spacing make no lattice.
    """
    if not 0 <= depth_mm <= MAX_DEPTH_MM:
        raise InputError(f"the diaphragm rises by 0 to {MAX_DEPTH_MM:g} mm, not {depth_mm}")
    if len(size) != 3 or len(spacing) != 3:
        raise InputError(f"the lattice needs three sizes and three spacings, not {size} and {spacing}")
    if not 0 <= noise_hu < np.inf:
        raise InputError(f"the noise has to be 0 HU or more, not {noise_hu}")
    # Streams of their own, so that another lattice or another noise leaves the anatomy as it is.
    anatomy, *noises = np.random.default_rng(seed).spawn(3)
    thorax, forks = _Thorax.grown(anatomy)
    images = []
    for grid, depth, noise in zip(_grids(size, spacing), (depth_mm, 0.0), noises, strict=True):
        hu, labels = _scan(thorax, grid, depth)
        hu = np.clip(hu + noise_hu * noise.standard_normal(hu.shape, np.float32), -1024, 3071)
        images.append((scalar_image(np.rint(hu).astype(np.int16), grid), scalar_image(labels, grid)))
    points = forks
    for _ in range(100):  # the motion's inverse at the forks, by a fixed-point iteration
        points = points + forks - _motion(points, depth_mm)
    (fixed, fixed_labels), (moving, moving_labels) = images
    return ThoraxPair(fixed, moving, fixed_labels, moving_labels, points, _motion(points, depth_mm), float(depth_mm))


def exhaled_thorax(seed: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The thorax of `breathing_thorax` at exhale, on any lattice and without noise.

    Returns
    -------
    tuple of ndarray
        (D, H, W) Hounsfield units, and the numbers of `LABELS`.
    """
    anatomy, *_ = np.random.default_rng(seed).spawn(3)
    return _scan(_Thorax.grown(anatomy)[0], grid, 0.0)


def _grids(size: Sequence[int], spacing: Sequence[float]) -> tuple[Grid, Grid]:
    """Lattices of the fixed and of the moving image."""
    fixed = Grid.centered((0, 2, 28), size, spacing, _rotation(0, 7) @ _rotation(2, -5))
    order = [1, 2, 0]  # i, j, k of the moving lattice run to anterior, inferior, left
    axes = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    step = np.asarray(spacing, float)[order] * (1.08, 0.86, 1.17)
    count = np.rint(fixed.extent[order] / step).astype(int)
    return fixed, Grid.centered((3, -3, 31), count, step, _rotation(1, -6) @ _rotation(0, -4) @ axes)


def _rotation(axis: int, degrees: float) -> np.ndarray:
    """Turn about the axis 0, 1 or 2, (3, 3)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.roll([[1, 0, 0], [0, c, -s], [0, s, c]], axis, (0, 1))


def _step(t: np.ndarray) -> np.ndarray:
    """A smooth step from 0 (t <= 0) to 1 (t >= 1), no steeper than 1.5."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _slope(t: np.ndarray) -> np.ndarray:
    """Derivative of `_step`."""
    t = np.clip(t, 0, 1)
    return 6 * t * (1 - t)


def _oval(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared radius whose level 1 is between a unit circle and a square, as is the cut through a chest."""
    x2, y2 = x * x, y * y
    return x2 + y2 - 0.3 * np.minimum(x2 * y2, 1)  # limited, or it would fall again far outside


def _moved(x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: float) -> tuple[_Coordinates, np.ndarray]:
    """From inhale to exhale, with the determinant of the derivative: (x, y, z), det.

    Two maps in turn: the first changes z alone, the second x and y at a given z. Each coordinate becomes an increasing
    function of itself, so that both maps can be undone. Both derivatives are triangular but for the order of the axes,
    and the determinant is the product of their diagonals.
    """
    # Tissue slides along spine and chest wall; here the rise fades toward them.
    wall = 1 - _step((np.sqrt(_oval(x / _WIDE, y / _DEEP)) - 0.55) / 0.42)
    spine = _step((np.hypot(x, (y - 62) / 1.6) - 22) / 45)
    rise = depth * (1 + 0.3 * y / _DEEP) * wall * spine
    length = np.where(z > _CREST, _UP, _DOWN).astype(z.dtype)
    phase = np.pi * np.clip((z - _CREST) / length, -1, 1)
    det = 1 - rise * np.sin(phase) * (np.pi / 2) / length
    z = z + rise * (1 + np.cos(phase)) / 2
    # The rib cage closes; most in the middle of the chest, less at its top and over the abdomen.
    close = depth * (0.4 + 0.6 / (1 + ((z - 20) / 90) ** 2))
    front, side = (32 - y) / 132, (np.abs(x) - 22) / 112
    det = det * (1 - close / 4 * _slope(front) / 132) * (1 - close / 7 * _slope(side) / 112)
    return (x - np.sign(x) * close / 7 * _step(side), y + close / 4 * _step(front), z), det


def _motion(points: np.ndarray, depth: float) -> np.ndarray:
    """Points (n, 3) from inhale to exhale."""
    return np.stack(_moved(*np.asarray(points, float).reshape(-1, 3).T, depth)[0], -1)


@dataclass(frozen=True, eq=False)
class _Thorax:
    """The anatomy at exhale. A tube is a row of start (3), end (3) and radius, in mm."""

    vessels: dict[int, np.ndarray]  # tubes in the organ of that label
    waves: np.ndarray  # (n, 4): wave vector in radians per mm and phase of the texture

    @classmethod
    def grown(cls, rng: np.random.Generator) -> tuple[_Thorax, np.ndarray]:
        """A thorax, and the forks (n, 3) of its vessels."""
        roots = {1: ((-26, 8, 60), 100, 1.5), 2: ((30, 10, 62), 90, 1.5), 3: ((-24, 0, -48), 30, 2.2)}
        trees = {label: _tree(rng, label, *root) for label, root in roots.items()}
        directions = rng.standard_normal((7, 3))
        directions *= 2 * np.pi / rng.uniform(14, 45, (7, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
        waves = np.column_stack([directions, rng.uniform(0, 2 * np.pi, 7)])
        return cls({k: tubes for k, (tubes, _) in trees.items()}, waves), np.concatenate([f for _, f in trees.values()])

    def tissue(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hounsfield units without noise, and labels, at points (n,) inside the body."""
        texture = sum(np.sin(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase in self.waves.astype(x.dtype))
        label = _organs(x, y, z)
        hu = _frame(x, y, z) + 5 * texture
        for number, tubes in self.vessels.items():
            at = np.flatnonzero(label == number)
            p = x[at], y[at], z[at]
            if number == 3:
                base, blood = 100 + 5 * texture[at], 185
            else:  # blood sinks to the back of a patient who lies on it
                base, blood = -836 + 0.35 * p[1] + 9 * texture[at], 140
            hu[at] = base + (blood - base) * _tubes(p, tubes)
        at = np.flatnonzero(label == 4)
        septum = np.abs(0.51 * (x[at] - 16) + 0.86 * (y[at] + 26) + 8) < 4.5  # the left ventricle is the larger
        chambers = (_heart(x[at], y[at], z[at]) < 0.6) & ~septum
        hu[at] = np.where(chambers, 170, 90) + 5 * texture[at]
        return hu, label


def _diaphragm(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the diaphragm: a dome on each side, the right one higher, and a saddle that bears the heart."""
    back = -38 * (y / 78) ** 2 - 26 * np.maximum(y / 78, 0) ** 2
    right = 8 - 34 * ((x + 58) / 56) ** 2
    left = -4 - 34 * ((x - 62) / 52) ** 2
    return np.maximum(np.maximum(right, left), -18 - 20 * (x / 50) ** 2) + back


def _heart(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Squared radius in an ellipsoid whose long axis points to the left, the front and down."""
    x, y, z = x - 16, y + 26, z - 18
    axes = 0.75 * x - 0.45 * y - 0.48 * z, 0.51 * x + 0.86 * y, 0.42 * x - 0.25 * y + 0.87 * z
    return _ball(*axes, 56, 38, 40)


def _cavity(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Squared radius in the rib cage, 1 at its inner face."""
    return _oval(x / 114, y / 80) + (np.maximum(z - 35, 0) / 130) ** 3


def _organs(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Labels at points (n,)."""
    cavity, floor, heart = _cavity(x, y, z), _diaphragm(x, y), _heart(x, y, z)
    lung = _oval((np.abs(x) - 54) / 60, (y - 1) / 80) + (np.maximum(z - 35, 0) / 118) ** 3 < 1
    lung &= (cavity < 1) & (z > floor) & (heart > 1.15)
    lung &= np.abs(x) > 11 + 12 / (1 + ((y - 8) / 28) ** 2)
    lung &= (np.hypot(x, (y - 58) / 1.3) > 26) & (np.hypot(x - 18, y - 25) > 14)  # spine, descending aorta
    # A wedge: it reaches deep on the right side and thins out toward the left.
    liver = (z < floor - 3) & (cavity < 0.95) & (z > -92 + 0.55 * np.maximum(x + 70, 0) + 0.15 * y) & (x < 42)
    liver &= np.hypot(x, (y - 58) / 1.3) > 30
    label = np.where(lung, np.where(x < 0, 1, 2), np.where(liver, 3, 0)).astype(np.uint8)
    label[heart < 1] = 4
    return label


def _frame(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Hounsfield units of all that bears no label: body wall, mediastinum, belly, bones."""
    skin, cavity, floor = _body(x, y, z), np.sqrt(_cavity(x, y, z)), _diaphragm(x, y)
    under = z < floor - 3
    hu = np.full_like(x, 55)
    hu[skin > 0.9**2] = -100
    hu[skin > 0.975**2] = 30
    hu[(cavity < 0.97) & (under | (z > floor))] = -90  # fat of mediastinum and belly; between them the diaphragm
    loops = sum(np.sin(p / 11 + 2 * np.sin(q / 19)) for p, q in ((x, y), (y, z), (z, x)))
    hu[(cavity < 0.95) & under & (loops > 0.1)] = 35  # bowel
    hu[(_ball(x - 84, y - 40, z + 44, 20, 28, 34) < 1) & under] = 125  # spleen
    stomach = np.where(under, _ball(x - 52, y + 14, z + 44, 36, 42, 32), 2)
    hu[stomach < 1] = 50
    hu[stomach < 0.8] = 15
    hu[(stomach < 0.8) & (y < -18)] = -950  # the patient lies on the back: air in front of the fluid
    for value, tubes, wall in ((165, _BLOOD, 0), (60, _AIRWAY, 2), (-980, _AIRWAY, 0)):
        hu += (value - hu) * _tubes((x, y, z), tubes, wall)
    # Ribs are rings that slant down to the front and end where the belly begins.
    ring = np.abs((z - 0.5 * y) % 25 - 12.5)
    ribs = (np.abs(cavity - 1.06) < 0.04) & (ring < 5) & (z - 0.5 * y > np.where(y < -20, -2, -80))
    sternum = (np.abs(cavity - 1.06) < 0.06) & (np.abs(x) < 17) & (y < 0) & (np.abs(z - 55) < 65)
    hu[(ribs & (np.abs(x) > 24)) | sternum] = 380
    # Vertebrae with discs, the canal and its arch.
    column, canal = _ball(x, y - 48, 0 * z, 20, 16, 1), np.hypot(x, y - 73)
    bone = (column < 1) & (np.abs(z % 26 - 13) < 10.5)
    hu[column < 1] = 75
    hu[bone] = np.where(column[bone] < 0.7, 190, 480)
    hu[(canal < 12) | ((np.abs(x) < 3.5) & (y > 75) & (y < 93) & (z % 26 < 15))] = 420
    hu[canal < 8] = 25
    return hu


def _ball(x: np.ndarray, y: np.ndarray, z: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """Squared radius in an ellipsoid of half-axes a, b, c."""
    return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2


def _body(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Squared radius in the body, 1 at the skin; slimmer toward the neck."""
    slim = 1 - 0.2 * _step((z - 70) / 120)
    return _oval(x / (_WIDE * slim), y / (_DEEP * slim))


def _tubes(points: _Coordinates, tubes: np.ndarray, wall: float = 0) -> np.ndarray:
    """Whether points (n,) lie in one of the tubes (m, 7), thicker by ``wall`` mm: 0 to 1, over an edge of 1.5 mm."""
    x, y, z = points
    inside = np.zeros_like(x)
    for row in tubes.astype(x.dtype):
        start, axis, radius = row[:3], row[3:6] - row[:3], row[6] + wall
        u, v, w = x - start[0], y - start[1], z - start[2]
        along = np.clip((u * axis[0] + v * axis[1] + w * axis[2]) / (axis @ axis), 0, 1)
        distance = np.sqrt((u - along * axis[0]) ** 2 + (v - along * axis[1]) ** 2 + (w - along * axis[2]) ** 2)
        np.maximum(inside, np.clip((radius - distance) / 1.5 + 0.5, 0, 1), out=inside)
    return inside


def _tree(
    rng: np.random.Generator, label: int, root: Sequence[float], twigs: int, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Grow vessels from a root to points strewn in an organ: tubes (twigs, 7) and forks (n, 3).

    Points join the tree from the root outward, each where its way to the root stays short. The cube of a tube's radius
    is the sum of the cubes of those that leave it (Murray's law), down to ``radius`` mm at the tips.
    """
    candidates = rng.uniform((-110, -80, -95), (110, 80, 150), (8000, 3))
    star = 7 * np.concatenate([np.eye(3), -np.eye(3)])
    candidates = candidates[(_organs(*np.moveaxis(candidates[:, None] + star, -1, 0)) == label).all(1)]
    nodes, nearest = [np.asarray(root, float)], np.inf
    for _ in range(twigs):  # far apart from each other
        nearest = np.minimum(nearest, np.linalg.norm(candidates - nodes[-1], axis=1))
        nodes.append(candidates[np.argmax(nearest * rng.uniform(0.6, 1, len(nearest)))])
    nodes = np.array(nodes)
    nodes = nodes[np.argsort(np.linalg.norm(nodes - nodes[0], axis=1))]
    parent, way = np.zeros(twigs + 1, int), np.zeros(twigs + 1)
    for n in range(1, twigs + 1):
        step = np.linalg.norm(nodes[:n] - nodes[n], axis=1)
        parent[n] = np.argmin(step + 0.7 * way[:n])
        way[n] = way[parent[n]] + step[parent[n]]
    children = np.bincount(parent[1:], minlength=twigs + 1)
    cubes = np.where(children == 0, radius**3, 0)
    for n in range(twigs, 0, -1):
        cubes[parent[n]] += cubes[n]
    tubes = np.column_stack([nodes[parent[1:]], nodes[1:], np.cbrt(cubes[1:])])
    return tubes, nodes[1:][children[1:] >= 2]


def _scan(thorax: _Thorax, grid: Grid, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units without noise, and labels, each (D, H, W), with the diaphragm ``depth`` mm below exhale."""
    hu, labels = np.full(grid.shape, -1000, np.float32), np.zeros(grid.shape, np.uint8)
    columns, rows, _ = (np.add.outer(np.arange(n), (-0.25, 0.25)).ravel() for n in grid.size)
    a = grid.affine
    for k in range(grid.size[2]):  # the arrays of one slice fit the cache
        # A voxel is the mean over eight points, the middles of its octants.
        slices = np.array((k - 0.25, k + 0.25))[:, None, None]
        points = (
            (a[c, 0] * columns + a[c, 1] * rows[:, None] + a[c, 2] * slices + a[c, 3]).astype(np.float32)
            for c in range(3)
        )
        points, det = _moved(*points, depth)
        body = _body(*points) < 1
        values, organs = np.full(body.shape, -1000, np.float32), np.zeros(body.shape, np.uint8)
        values[body], organs[body] = thorax.tissue(*(p[body] for p in points))
        lung = (organs == 1) | (organs == 2)  # lungs keep their mass, vessels and all; solid tissue keeps its density
        values[lung] = (values[lung] + 1000) * det[lung] - 1000
        octants = (2, grid.size[1], 2, grid.size[0], 2)
        hu[k] = values.reshape(octants).mean((0, 2, 4))
        for number in LABELS:
            labels[k][(organs == number).reshape(octants).mean((0, 2, 4)) >= 0.5] = number
    return hu, labels
