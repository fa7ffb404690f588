"""Parts of the lungs to report on: each lung or lobe, and zones of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..errors import InputError
from ..geometry import Grid
from ..metrics import label_values

#: Depth of the peel below the lung's surface in mm; the core lies deeper.
PEEL = 15.0
#: Voxels of lung below which nothing can be told of it, and share of the image of which lungs are never more.
FEWEST, MOST = 100, 0.95
#: Labels of lungs, lobes or segments beyond which something else is meant.
LABELS = 50
WHOLE = "lungs"
#: Parts of all lungs, whatever is labeled.
ZONES = ("upper zone", "middle zone", "lower zone", "ventral half", "dorsal half", "peel", "core")


def require_lungs(labels: np.ndarray, name: str) -> None:
    """Raise `InputError` unless a label map, which the error calls ``name``, holds lungs and not but a few voxels."""
    count = int(np.count_nonzero(labels))
    if (kinds := len(label_values(labels))) > LABELS:
        raise InputError(
            f"{name} holds {kinds} labels: is it an image? Give a label map, and the values of lungs or lobes in it",
            "names",
        )
    if count < FEWEST:
        what = f"but {count} voxel{'s' * (count > 1)} of lung" if count else "no lung"
        raise InputError(f"{name} holds {what}; draw the lungs, and give the values of lungs or lobes", "names")
    if count > MOST * labels.size:
        raise InputError(
            f"{name} leaves nothing outside the lungs, where it has to be 0; or give the values of lungs alone",
            "names",
        )


def unnamed(labels: np.ndarray) -> dict[int, str]:
    """A name for each value of a label map that came without any."""
    return {value: f"label {value}" for value in label_values(labels)}


def regions(labels: np.ndarray, grid: Grid, names: Mapping[int, str], peel: float = PEEL) -> dict[str, np.ndarray]:
    """Masks by name: the lungs together, each label, and the zones of the lungs.

    Upper, middle and lower are thirds of the height of all lung along the body's axis; ventral and dorsal are the front
    and the back half of the lungs by volume; the peel reaches ``peel`` mm below the surface, and the core is the rest.
    The body's axes are those of the world (LPS), whatever the image's.

    Parameters
    ----------
    labels : ndarray
        (D, H, W) label map on ``grid``; other values than those of ``names`` do not count.
    names : mapping
        Name of each value: lungs or lobes.

    Returns
    -------
    dict of str to ndarray
        (D, H, W) bool; regions without a voxel are left out.

    Raises
    ------
    InputError
        If none of the labels is there, or two regions would have one name.
    """
    for name in names.values():
        if not name.strip() or name in (WHOLE, *ZONES) or list(names.values()).count(name) > 1:
            raise InputError(f"'{name}' cannot be the name of a lung or lobe, or is that of two; name each otherwise")
    parts = {name: labels == value for value, name in names.items()}
    lungs = np.any(list(parts.values()), axis=0)
    if not lungs.any():
        raise InputError(f"the label map holds none of {', '.join(names.values())}")
    place = np.argwhere(lungs)
    left_posterior_superior = grid.to_world(place[:, ::-1])
    back, height = left_posterior_superior[:, 1], left_posterior_superior[:, 2]
    # A third of the height between the outermost percent, so that a stray voxel does not shift the zones.
    low, high = np.percentile(height, (1, 99))
    third = np.clip(((height - low) / max(high - low, 1e-9) * 3).astype(int), 0, 2)
    dorsal = back > np.median(back)
    depth = distance_transform_edt(np.pad(lungs, 1), sampling=grid.spacing[::-1])[1:-1, 1:-1, 1:-1][lungs]
    chosen = {
        "lower zone": third == 0,
        "middle zone": third == 1,
        "upper zone": third == 2,
        "ventral half": ~dorsal,
        "dorsal half": dorsal,
        "peel": depth <= peel,
        "core": depth > peel,
    }
    found = {WHOLE: lungs, **parts}
    for name, inside in chosen.items():
        found[name] = np.zeros_like(lungs)
        found[name][tuple(place[inside].T)] = True
    return {name: mask for name, mask in found.items() if mask.any()}
