"""Whether two scans are fit for what a review of breathing asks of them: sentences about what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..dicom import PERSON
from ..files import grid_of
from ..geometry import Grid
from ..metrics import label_values

#: Area in cm² with which lungs have to touch the border of an image to count as cut off.
CUT = 1.0
#: Distance of slices in mm above which small airways and fissures are lost, and the factor by which two may differ.
THICK, APART = 2.5, 1.25
#: HU between which tissue is homogeneous (blood, muscle, liver), and the factor by which its noise may differ.
SOFT, NOISIER = (-20.0, 120.0), 2.0
#: Share of the volume by which masks and deformation may disagree.
DISAGREE = 0.05
#: Share of the breath by which outlines and expansion may disagree.
BREATH = 0.15
#: Dice of the lungs after registration below which it has failed, and by how much less than before.
OVERLAP, WORSE = 0.75, 0.05
#: Share of the lungs that may lie outside the other image.
UNSEEN = 0.01
#: mm between the lungs' surfaces after registration from which it is in doubt, and from which it has failed.
SURFACES, LOST_SURFACES = 3.0, 15.0

#: mm between the middles of two labels from right to left beyond which they are on different sides.
ACROSS = 40.0
#: mm that the upper third of the lungs may move, unless the lower one moves farther.
HANGING = 15.0

# Outward normals of an image's faces, as they are said.
_FACES = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "upper", "I": "lower"}


@dataclass(frozen=True, eq=False)
class Scan:
    """One of the two: 'inhale' or 'exhale', the image, its lungs (D, H, W; 0 outside), and its `dicom.TAGS`."""

    name: str
    image: sitk.Image
    lungs: np.ndarray
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The image's lattice."""
        return grid_of(self.image)

    @property
    def volume(self) -> float:
        """Of the lungs, in ml."""
        return float((self.lungs > 0).sum() * self.grid.voxel_volume / 1000)


def warnings(inhale: Scan, exhale: Scan, ct: bool) -> list[str]:
    """All that speaks against the two scans; ``ct`` says whether they are in HU."""
    return [
        *missing(inhale, exhale),
        *order(inhale, exhale),
        *(text for scan in (inhale, exhale) for text in cut_off(scan)),
        *slices(inhale, exhale, ct),
        *kernels(inhale, exhale, ct),
    ]


def _values(scan: Scan) -> set[int]:
    return set(label_values(scan.lungs))


def missing(inhale: Scan, exhale: Scan) -> list[str]:
    """Labels of lungs or lobes that one of the scans lacks, by density or as drawn."""
    return [
        f"{scan.name}: label {', '.join(map(str, sorted(lacking)))} is not there, which the other scan has; "
        "volumes cannot be compared"
        for scan, other in ((inhale, exhale), (exhale, inhale))
        if (lacking := _values(other) - _values(scan))
    ]


def people(inhale: Mapping[str, str], exhale: Mapping[str, str]) -> list[str]:
    """Whether two scans say that they are of two people: what they hold of `PERSON`."""
    other = [what for what in PERSON.values() if inhale.get(what) and exhale.get(what) and inhale[what] != exhale[what]]
    return [f"the scans name patients of different {' and '.join(other)}: are they of one person?"] if other else []


def alone(inhale: Scan, exhale: Scan, names: Mapping[int, str]) -> list[str]:
    """Whether one lung alone was found, of ``names``, which are two, where nobody drew them."""
    there = _values(inhale) | _values(exhale)
    if len(there) != 1:
        return []
    (value,) = there
    (lacking,) = (name for other, name in names.items() if other != value)
    return [
        f"no {lacking} was found in either scan, or one too small to tell: what is told of the lungs is told of the "
        f"{names[value]} alone"
    ]


def named(drawn: Sequence[np.ndarray], names: Mapping[int, str]) -> list[str]:
    """Whether label maps as they were drawn lack a value of ``names``, or have one side alone."""
    there = {value for labels in drawn for value in label_values(labels)}
    out = []
    if lacking := [f"{value} ({name})" for value, name in names.items() if value not in there]:
        others = ", ".join(map(str, sorted(there - set(names))[:20]))
        more = f"; label {others} has no name and does not count" if others else ""
        out.append(f"no label map holds {', '.join(lacking)}{more}")
    counting = " ".join(name.lower() for value, name in names.items() if value in there)
    sides = [side for side in ("right", "left") if side in counting]
    if len(sides) == 1:
        out.append(f"of the lungs the {sides[0]} one alone is named: what is told of the lungs is told of it alone")
    return out


def order(inhale: Scan, exhale: Scan) -> list[str]:
    """Whether the lungs are larger in the scan that is called the inhale; unknown if one has parts the other lacks."""
    if _values(inhale) != _values(exhale) or inhale.volume >= exhale.volume:
        return []
    return [
        f"the lungs hold {inhale.volume:.0f} ml in the scan called inhale and {exhale.volume:.0f} ml in the one called "
        "exhale: exchange the two"
    ]


def cut_off(scan: Scan) -> list[str]:
    """Where the lungs reach the border of the image."""
    lungs, grid = scan.lungs > 0, scan.grid
    steps = grid.array_affine[:3, :3]
    found = []
    for axis in range(3):
        area = grid.voxel_volume / np.linalg.norm(steps[:, axis]) / 100
        for end, sign in ((0, -1), (-1, 1)):
            if np.take(lungs, end, axis).sum() * area >= CUT:
                normal = sign * steps[:, axis]
                main = int(np.argmax(np.abs(normal)))
                found.append(_FACES["LPS"[main] if normal[main] > 0 else "RAI"[main]])
    if not found:
        return []
    where = "every" if len(found) == len(_FACES) else f"the {' and '.join(found)}"
    return [f"{scan.name}: the lungs are cut off at {where} border of the image; volumes miss a part"]


def _thickness(scan: Scan) -> float:
    """Of slices in mm: the tag's, or the distance between them where that is larger or the only one known."""
    try:
        told = float(scan.tags.get("slice thickness", 0))
    except ValueError:
        told = 0.0
    return max(told, float(scan.grid.spacing.max()))


def slices(inhale: Scan, exhale: Scan, ct: bool) -> list[str]:
    """Thick slices, of which MRI has no others, and slices of different thickness."""
    thick = {scan.name: _thickness(scan) for scan in (inhale, exhale)}
    by_value: dict[str, list[str]] = {}
    for name, value in thick.items():
        if ct and value > THICK + 1e-3:
            by_value.setdefault(f"{value:.3g}", []).append(name)
    out = [
        f"{' and '.join(names)}: slices of {value} mm, thicker than {THICK:g} mm, blur what lies between them"
        for value, names in by_value.items()
    ]
    if max(thick.values()) > APART * min(thick.values()):
        told = " and ".join(f"{value:.3g} mm ({name})" for name, value in thick.items())
        out.append(f"slices differ in thickness: {told}; densities of the two compare poorly")
    return out


def kernels(inhale: Scan, exhale: Scan, ct: bool) -> list[str]:
    """Whether the reconstruction kernels differ, by what DICOM says of them, or else by the noise in soft tissue."""
    told = {scan.name: scan.tags.get("kernel") for scan in (inhale, exhale)}
    if all(told.values()):
        if len(set(told.values())) == 1:
            return []
        which = " and ".join(f"{value} ({name})" for name, value in told.items())
        return [f"reconstruction kernels differ: {which}; densities of the two compare poorly"]
    if not ct:
        return []
    noise = {scan.name: soft_noise(scan.image) for scan in (inhale, exhale)}
    if any(value is None for value in noise.values()) or max(noise.values()) <= NOISIER * min(noise.values()):
        return []
    which = " and ".join(f"{value:.0f} HU ({name})" for name, value in noise.items())
    return [f"noise in soft tissue differs: {which}; dose or reconstruction kernel may differ (an estimate)"]


def soft_noise(image: sitk.Image) -> float | None:
    """Standard deviation of noise in HU: that within the evenest tenth of small patches of soft tissue.

    None where there is too little of it to tell. Patches are 5 × 5 voxels in the plane of the finest sampling.
    """
    across = int(np.argmax(image.GetSpacing()[::-1]))
    # Every fourth slice tells as much as all.
    values = np.moveaxis(sitk.GetArrayViewFromImage(image), across, 0)[::4].astype(np.float32)
    size = (1, 5, 5)
    soft = ndimage.minimum_filter((values > SOFT[0] - 60) & (values < SOFT[1] + 60), size)
    mean = ndimage.uniform_filter(values, size)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(values**2, size) - mean**2, 0))
    deviation = deviation[soft & (mean > SOFT[0]) & (mean < SOFT[1])]
    return float(np.percentile(deviation, 10)) if len(deviation) > 500 else None


def _places(scan: Scan) -> dict[int, float]:
    """How far to the patient's left the middle of each label lies, in mm."""
    labels = {value: np.argwhere(scan.lungs == value) for value in _values(scan)}
    return {value: float(scan.grid.to_world(here.mean(0)[::-1])[0]) for value, here in labels.items()}


def sides(scan: Scan, names: Mapping[int, str], drawn: bool = True) -> list[str]:
    """Whether what is called right lies on the patient's right; ``drawn`` tells labels from a model's outlines."""
    places = _places(scan)
    middles = {
        side: [place for value, place in places.items() if side in names.get(value, "").lower()]
        for side in ("right", "left")
    }
    if not all(middles.values()) or np.mean(middles["right"]) < np.mean(middles["left"]):
        return []
    if not drawn:
        return [
            f"{scan.name}: what was outlined as the right lung lies on the patient's left: the outlines are wrong, or "
            "the image's header tells its axes wrongly"
        ]
    return [
        f"{scan.name}: what the labels call right lies on the patient's left: the image is mirrored, or the names are "
        "exchanged"
    ]


def both_sides(one: Scan, other: Scan, names: Mapping[int, str], drawn: bool = True) -> list[str]:
    """Whether right is right in both scans, or else whether labels, whatever their names, have changed sides."""
    return [*sides(one, names, drawn), *sides(other, names, drawn)] or _exchanged(one, other)


def _exchanged(one: Scan, other: Scan) -> list[str]:
    here, there = _places(one), _places(other)
    shared = sorted(here.keys() & there.keys())
    for a, b in combinations(shared, 2):
        across = here[b] - here[a], there[b] - there[a]
        if across[0] * across[1] < 0 and min(map(abs, across)) > ACROSS:
            return [
                f"labels {a} and {b} lie the other way round in the {other.name}: right and left are exchanged in one "
                "of the scans"
            ]
    return []


def surface_distance(carried: np.ndarray, fixed: np.ndarray, spacing: np.ndarray) -> float:
    """Root mean square distance in mm between the surfaces of two masks (D, H, W), there and back.

    ``spacing`` is that of the array's axes. Parts on the border of the lattice are no surface.
    """
    box = ndimage.find_objects((carried | fixed).astype(np.uint8))[0]
    cut = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    a, b = (mask[cut] & ~ndimage.binary_erosion(mask[cut], border_value=1) for mask in (carried, fixed))
    if not a.any() or not b.any():
        return float("nan")
    away = [ndimage.distance_transform_edt(~of, sampling=spacing)[at] for of, at in ((a, b), (b, a))]
    return float(np.sqrt(np.mean(np.concatenate(away) ** 2)))
