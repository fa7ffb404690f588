"""The lungs in a CT volume, by density and shape alone: no training, any orientation of the lattice.

After Hu et al. 2001 (doi:10.1109/42.929615): what is less dense than the border of lung and does not reach the outside
of the body, less the airway, cut in two, and closed over vessels.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import InputError
from ..geometry import Grid
from ..preprocess import is_ct

#: Values of `lungs`, and their names.
RIGHT, LEFT = 1, 2
NAMES = {RIGHT: "right lung", LEFT: "left lung"}
#: HU of the border of lung (half way from inflated lung to tissue), and of the air in large airways.
BORDER, AIRWAY = -320, -930
#: Median HU of a part that holds gas and no tissue.
GAS = -975
#: Spacing in mm at which shapes are judged; borders keep the image's own.
COARSE = 2.5
#: Least volume of lungs in ml, of both together and of one of them.
LEAST, LEAST_ONE = 300.0, 120.0
#: Radius in mm of the ball that closes lungs over their vessels.
CLOSING = 7.5

#: The cure where lungs are not found.
ASK = "give label maps of the lungs with the images"


def lungs(hu: np.ndarray, grid: Grid) -> np.ndarray:
    """Find the lungs.

    Parameters
    ----------
    hu : ndarray
        (D, H, W) CT numbers in HU on ``grid``.

    Returns
    -------
    ndarray
        (D, H, W) uint8: `RIGHT`, `LEFT` and 0; right and left are the patient's, by the world's LPS axes. A lung of
        less than `LEAST_ONE` ml (one that was removed, or lies outside the image) is left out.

    Raises
    ------
    InputError
        If the values are no HU, or no lungs of plausible size are found.
    """
    if not is_ct(hu):
        low, high = np.percentile(hu, (0.1, 99.9))
        raise InputError(
            f"the values ({low:.0f} to {high:.0f}) are no CT numbers of a chest, whose air is near -1000; {ASK}"
        )
    factors = np.maximum(1, np.rint(COARSE / grid.spacing)).astype(int)
    small, lattice = _averaged(hu, grid, factors)
    ml = abs(np.linalg.det(lattice.affine[:3, :3])) / 1000
    found = _inside(small, lattice, ml)
    found = _without_airway(found, small, ml)
    both = _apart(found, lattice, ml)
    closed = np.zeros_like(both)
    for value in (RIGHT, LEFT):
        whole = _closed(both == value, lattice)
        closed[whole & (closed == 0)] = value
    return _at_full_resolution(closed, both, hu, factors)


def _averaged(hu: np.ndarray, grid: Grid, factors: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Means over blocks of ``factors`` (i, j, k) voxels; the last ones are padded by repeating the border."""
    counts = -(-np.array(grid.size) // factors)
    pad = [(0, int(n * f - s)) for n, f, s in zip(counts[::-1], factors[::-1], hu.shape, strict=True)]
    blocks = np.pad(hu.astype(np.float32), pad, "edge").reshape(
        [int(x) for n, f in zip(counts[::-1], factors[::-1], strict=True) for x in (n, f)]
    )
    affine = grid.affine @ np.diag([*factors, 1.0])
    affine[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, :3] @ ((factors - 1) / 2)
    return blocks.mean((1, 3, 5)), Grid(tuple(int(n) for n in counts), affine)


def _inside(hu: np.ndarray, grid: Grid, ml: float) -> np.ndarray:
    """Air-filled parts of the body large enough for lungs, airway and all."""
    air = hu < BORDER
    # The lungs may be cut at the top or the bottom of the image, air around the body is cut at its sides.
    height = int(np.argmax(np.abs(grid.direction[2])))  # lattice axis that runs along the body
    parts, _ = ndimage.label(air)
    outside = set()
    for axis in (axis for axis in range(3) if axis != 2 - height):
        for end in (0, -1):
            outside |= set(np.unique(np.take(parts, end, axis)))
    sizes = np.bincount(parts.ravel()) * ml
    kept = [n for n in range(1, len(sizes)) if n not in outside and sizes[n] > LEAST_ONE]
    if sum(sizes[n] for n in kept) < LEAST:
        raise InputError(f"no lungs of {LEAST:.0f} ml or more were found in the CT volume; {ASK}")
    # Bowel and stomach hold gas alone, without the tissue that even an emphysema has. The lungs are the largest, or
    # the largest is one of them.
    largest = max(kept, key=lambda n: sizes[n])
    middle = dict(zip(kept, ndimage.median(hu, parts, kept), strict=True))
    lungs = [n for n in kept if n == largest or (sizes[n] > 0.15 * sizes[largest] and middle[n] > GAS)]
    return np.isin(parts, lungs)


def _without_airway(found: np.ndarray, hu: np.ndarray, ml: float) -> np.ndarray:
    """Trachea and main bronchi are clear air within walls: small connected parts far below the density of lung."""
    clear = ndimage.binary_opening(found & (hu < AIRWAY))
    parts, count = ndimage.label(clear)
    if not count:
        return found
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * ml
    # Emphysema is clear, too, but lies in lung; walls of the airway are dense.
    airway = np.zeros_like(found)
    for n in np.flatnonzero((sizes > 3) & (sizes < 120)):
        if n == 0:
            continue
        part = parts == n
        shell = ndimage.binary_dilation(part, iterations=3) & ~ndimage.binary_dilation(part, iterations=1)
        if np.mean(hu[shell] > -500) > 0.35:
            airway |= ndimage.binary_dilation(part, iterations=2)
    parts, count = ndimage.label(found & ~airway)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * ml
    sizes[0] = 0
    return np.isin(parts, np.flatnonzero(sizes > 0.02 * sizes.max()))


def _apart(found: np.ndarray, grid: Grid, ml: float) -> np.ndarray:
    """Right and left: seeds deep in the lungs, which a watershed on the depth extends to all of them."""
    depth = _depth(np.pad(found, 1), grid)[1:-1, 1:-1, 1:-1]
    side = grid.to_world(np.argwhere(found)[:, ::-1])[:, 0]
    seeds = None
    for radius in np.arange(4.0, 40.0, 2.0):
        parts, count = ndimage.label(depth > radius)
        sizes = np.bincount(parts.ravel(), minlength=count + 1) * ml
        sizes[0] = 0
        large = np.argsort(sizes)[::-1][:2]
        if count >= 2 and sizes[large[1]] > 0.15 * sizes[large[0]] and sizes[large[1]] > LEAST_ONE / 8:
            middles = [grid.to_world(np.argwhere(parts == n)[:, ::-1]).mean(0) for n in large]  # LPS mm
            apart = np.abs(middles[0] - middles[1])
            # Lungs lie beside each other; what lies above the other are the lobes of one alone.
            if apart[0] > apart[2]:
                seeds = [parts == n for n in large]
                break
    out = np.zeros(found.shape, np.uint8)
    if seeds is None:  # one lung alone: on the side of the image's middle where it lies
        out[found] = RIGHT if np.mean(side) < grid.center[0] else LEFT
        return out
    right, left = (seeds[n] for n in np.argsort([middle[0] for middle in middles]))
    marks = np.zeros(found.shape, np.uint8)
    marks[right], marks[left] = RIGHT, LEFT
    flooded = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(-depth), sitk.GetImageFromArray(marks), False, True
    )
    out = sitk.GetArrayFromImage(flooded).astype(np.uint8)
    out[~found] = 0
    for value in (RIGHT, LEFT):
        if (out == value).sum() * ml < LEAST_ONE:
            out[out == value] = 0
    return out


def _closed(lung: np.ndarray, grid: Grid) -> np.ndarray:
    """Closed over vessels by a ball, and its holes filled."""
    if not lung.any():
        return lung
    room = np.ceil(CLOSING / grid.spacing[::-1]).astype(int) + 1
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    wide = np.pad(lung[box], [(int(n), int(n)) for n in room])
    shut = _depth(_depth(~wide, grid) <= CLOSING, grid) > CLOSING
    inner = tuple(slice(int(n), -int(n)) for n in room)
    out = lung.copy()
    out[box] |= ndimage.binary_fill_holes(shut[inner] | lung[box])
    return out


def _depth(inside: np.ndarray, grid: Grid) -> np.ndarray:
    """(D, H, W) float32, mm from each voxel to the nearest one that is not ``inside``."""
    outside = sitk.GetImageFromArray((~inside).astype(np.uint8))
    outside.SetSpacing(grid.spacing.tolist())
    # Exact as SciPy's, several times as fast.
    found = sitk.SignedMaurerDistanceMap(outside, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(found).clip(0)


def _at_full_resolution(closed: np.ndarray, found: np.ndarray, hu: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The image's own voxels: lung by density near the border of what was found, and all of its inner part."""
    steps = factors[::-1]

    def fine(small: np.ndarray) -> np.ndarray:
        for axis, step in enumerate(steps):
            small = np.repeat(small, step, axis)
        return small[tuple(slice(0, n) for n in hu.shape)]

    out = np.zeros(hu.shape, np.uint8)
    for value in (RIGHT, LEFT):
        if not (closed == value).any():
            continue
        near = ndimage.binary_dilation(found == value) & ((closed == 0) | (closed == value))
        deep = ndimage.binary_erosion(closed == value, border_value=1)
        vessels = (closed == value) & (found != value)
        whole = fine(deep | vessels) | (fine(near) & (hu < BORDER))
        out[whole & (out == 0)] = value
    return out
