"""The whole way from a scan at inhale and one at exhale to maps, figures for each region, and what supports them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from .. import dicom, files
from ..catalog import GENERIC
from ..deformation import scalar_image
from ..errors import InputError
from ..geometry import Grid, resample
from ..options import check_options
from ..output import check_free, complete_or_nothing
from ..pipeline import ImageSource, PointSource, register_and_segment
from ..preprocess import is_ct
from ..progress import Progress, silent, tell
from ..result import Registration
from ..text import percent
from . import checks, measures, outline, threshold
from .checks import Scan
from .evidence import doubts, error_of, evidence_of, failed, landmarks_in, shifted
from .expansion import RESOLUTION, Expansion, unfolded
from .record import PHASES, record
from .regions import regions, require_lungs, unnamed
from .table import Breath, maps, table

#: Width in mm (deviation of a Gaussian) over which densities are averaged: ratios of single voxels are mostly noise.
SMOOTHING = 3.0
#: Share of the lungs outside the other image beyond which there is nothing to review.
LOST = 0.5
#: Where lungs come from.
GIVEN, BY_MODEL = "given", f"outlined by the model {outline.MODEL}"
REPORT, TABLE, PAGE = "review.json", "table.csv", "report.html"
#: All names that the folder of a review can hold.
NAMES = {
    *(f"map_{name}.nii.gz" for name in (*measures.MEASURES, *measures.DERIVED)),
    *("warped.nii.gz", "lungs.nii.gz", "transform.h5", "inverse_transform.h5"),
    *(REPORT, TABLE, PAGE),
}


@dataclass
class Review:
    """What two scans of a breath tell.

    Attributes
    ----------
    registration : Registration
        Of the one scan to the other; ``reference`` names the fixed one, 'inhale' or 'exhale'.
    lungs : sitk.Image
        Labels of the fixed scan, on the lattice of the displacements, which is that of the maps.
    names : dict
        Of its values.
    maps : dict of str to sitk.Image
        float32 by measure, see `measures`; NaN outside the lungs, where there is nothing to tell; from a NIfTI file,
        ITK and Slicer read NaN as 0.
    report : dict
        All of it but the images: what ``review.json`` holds.
    inputs : tuple of paths
        What it was made of, which `save` does not replace.
    """

    registration: Registration
    reference: str
    lungs: sitk.Image
    names: dict[int, str]
    maps: dict[str, sitk.Image]
    report: dict[str, Any]
    inputs: tuple[str | Path, ...] = ()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The figures of each region, see `table.table`, and ``center_mm``, a place in it to look at (LPS)."""
        return self.report["regions"]

    def save(self, folder: str | Path, overwrite: bool = False, progress: Progress = silent) -> Path:
        """Write all files, all or none.

        ``map_*.nii.gz``, ``warped.nii.gz``, ``lungs.nii.gz``, both transforms, ``table.csv``, ``review.json`` and
        ``report.html``.

        Raises
        ------
        OutputError
            See `output.check_free`.
        """
        from .page import write_html

        folder = check_free(folder, overwrite, self.inputs, NAMES, REPORT)
        images = {f"map_{name}": image for name, image in self.maps.items()}
        images |= {"warped": self.registration.warped, "lungs": self.lungs}
        with complete_or_nothing(folder) as partial:
            for i, (name, image) in enumerate(images.items()):
                tell(progress, "writing", i / (len(images) + 1))
                files.write_image(image, partial / f"{name}.nii.gz")
            files.write_transform(self.registration.transform, partial / "transform.h5")
            files.write_transform(self.registration.inverse_transform, partial / "inverse_transform.h5")
            (partial / TABLE).write_text(self.csv(), encoding="utf-8")
            (partial / REPORT).write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")
            write_html(self, partial / PAGE)
            tell(progress, "writing", 1.0)
        return folder

    def csv(self) -> str:
        """The rows as a table for a spreadsheet, with a column for each figure."""
        names = [name for name in self.rows[0] if name != "center_mm"]
        lines = [names, *([row.get(name) for name in names] for row in self.rows)]
        return "".join(",".join(_cell(value) for value in line) + "\n" for line in lines)


def review(
    inhale: ImageSource,
    exhale: ImageSource,
    *,
    inhale_lungs: ImageSource | None = None,
    exhale_lungs: ImageSource | None = None,
    names: Mapping[int, str] | None = None,
    inhale_points: PointSource | None = None,
    exhale_points: PointSource | None = None,
    reference: str = "inhale",
    transform: str | Path | sitk.Transform | None = None,
    patient: bool | Mapping[str, str] = False,
    progress: Progress = silent,
    **options: Any,
) -> Review:
    """Review how the lungs move and expand between two scans.

    Parameters
    ----------
    inhale, exhale : path or SimpleITK image
        CT in HU, or MRI.
    inhale_lungs, exhale_lungs : path or SimpleITK image, optional
        Label maps of lungs or lobes on the scans' grids; by default right and left lung are found in CT by density
        (`threshold.lungs`) and in anything else by a model (`outline.outlined`), which the report tells.
    names : mapping, optional
        Name of each value of the label maps; other values do not count.
    inhale_points, exhale_points : path or (n, 3) array, optional
        Corresponding landmarks in LPS mm: they give the error of the displacement.
    reference : 'inhale' or 'exhale'
        The scan that stays, on whose grid the maps are. Inhale is what is read: it shows most, its lungs are largest,
        and thresholds of emphysema hold for it. Measures are those from exhale to inhale either way.
    transform : path or SimpleITK transform, optional
        From points of the reference to the other scan; without one the two are registered.
    patient : bool or mapping
        Whether the report names the patient by the scans' DICOM tags and the files, or what it says of him or her. By
        default no name, number, date, file or folder is in any output.
    progress : callable, optional
        ``progress(stage, fraction)``; returning False cancels.
    **options
        ``model``, ``refine`` and all others of `pipeline.register_and_segment`.

    Raises
    ------
    InputError
        If an input cannot be used, lungs cannot be found, the deformation folds in them, or they hardly breathe.
    """
    if reference not in PHASES:
        raise InputError(f"the reference is 'inhale' or 'exhale', not '{reference}'")
    if names and inhale_lungs is None and exhale_lungs is None:
        raise InputError("names belong to label maps, of which none was given", "lungs")
    check_options(transform=transform, **options)
    if (
        all(isinstance(scan, str | Path) for scan in (inhale, exhale))
        and Path(inhale).resolve() == Path(exhale).resolve()
    ):
        raise InputError("inhale and exhale are the same scan; give two phases of breathing")
    began = time.perf_counter()
    given = {"inhale": (inhale, inhale_lungs, inhale_points), "exhale": (exhale, exhale_lungs, exhale_points)}
    tell(progress, "reading", 0.0)
    fill, device = options.pop("fill", None), options.get("device_name", "auto")
    read, origins, unlike = _scans(given, names, fill, device, progress)
    found = {phase for phase, origin in origins.items() if origin != GIVEN}
    ct = all(is_ct(sitk.GetArrayViewFromImage(scan.image)) for scan in read.values())
    other = PHASES[1 - PHASES.index(reference)]
    fixed, moving = read[reference], read[other]
    own_names = dict(threshold.NAMES if reference in found else names or unnamed(fixed.lungs))
    registration = _registered(fixed, moving, given[reference][2], given[other][2], transform, progress, options)
    registration.report["settings"]["fill"] = fill  # which was done before
    if names and reference in found:
        registration.report["notes"].append(
            f"the lungs at {reference}, the reference, were {origins[reference]} and are named right and left; the "
            f"names that were given only tell which labels at {other} are lung"
        )
    if transform is None and options.get("model", GENERIC) != GENERIC and not options.get("refine"):
        unlike.append(
            "the scans were registered by a network alone, which finds a part of the motion: refine for figures"
        )
    if BY_MODEL in origins.values():
        unlike.append(
            f"the scans hold no HU (MRI, or CT in other units), so the lungs were {BY_MODEL}, which is never perfect: "
            "look at the outlines before the figures"
        )
    tell(progress, "measuring", 0.0)
    grid = registration.deformation.grid
    labels = _on(fixed.lungs, fixed.grid, grid)
    labels *= unfolded(registration.deformation, labels > 0)
    parts = regions(labels, grid, own_names)
    inside = labels > 0
    expansion = Expansion.of(registration.deformation, torch.from_numpy(inside), reference == "inhale", RESOLUTION)
    outline = torch.from_numpy((moving.lungs > 0).astype(np.float32))[None, None]
    carried = registration.deformation.warp(outline, moving.grid, "nearest", 0.0)[0, 0].numpy() > 0.5
    still = resample(outline, moving.grid, grid, mode="nearest", fill=0.0)[0, 0].numpy() > 0.5
    densities = _densities(registration, inside, carried, reference) if ct else {}
    breath = Breath(expansion, grid.voxel_volume, reference == "inhale", **densities)
    expanded = breath.volumes()[reference == "exhale"].sum() / 1000
    evidence = evidence_of(registration, moving, inside, carried, still, float(expanded))
    if evidence["unseen_share"] > LOST:
        raise InputError(
            f"the transform takes {percent(evidence['unseen_share'])} of the lungs outside the {other} image; give the "
            f"one from points of the {reference} to those of the {other}, or check that both scans are of one person"
        )
    landmarks = landmarks_in(registration, inside, given[reference][2], given[other][2])
    uncertainty, error = error_of(landmarks, evidence)
    breath = replace(breath, uncertainty=uncertainty)
    tell(progress, "measuring", 0.4)
    values = maps(breath)
    masks = {name: mask[inside] for name, mask in parts.items()}
    rows = table(breath, masks)
    tell(progress, "measuring", 0.9)
    warnings = [
        *unlike,
        *checks.warnings(read["inhale"], read["exhale"], ct),
        # Labels of both scans mean the same if they are of one kind.
        *(
            checks.sides(fixed, own_names, reference not in found)
            if len(found) == 1
            else checks.both_sides(fixed, moving, own_names, not found)
        ),
        *(checks.alone(fixed, moving, threshold.NAMES) if len(found) == 2 else []),
        *doubts(evidence, other, fixed.volume),
        *shifted({row["region"]: row["displacement"] for row in rows}),
    ]
    for row in rows:
        row["center_mm"] = _center(parts[row["region"]], grid)
    sources = {**given, "transform": transform}
    report = record(
        *(registration, read, rows, failed(evidence), warnings, evidence, error, sources, origins, reference, values),
        patient,
    )
    report["ct"] = ct
    report["seconds"]["total"] = time.perf_counter() - began
    tell(progress, "measuring", 1.0)
    return Review(
        registration,
        reference,
        scalar_image(labels, grid),
        own_names,
        {name: scalar_image(_spread(of_lungs, inside), grid) for name, of_lungs in values.items()},
        report,
        tuple(x for x in (*itertools.chain(*given.values()), transform) if isinstance(x, str | Path)),
    )


def _scans(
    given: Mapping[str, tuple[ImageSource, ImageSource | None, Any]],
    names: Mapping[int, str] | None,
    fill: float | None,
    device: str,
    progress: Progress,
) -> tuple[dict[str, Scan], dict[str, str], list[str]]:
    """Both scans with their lungs, where each one's lungs come from, and what speaks against that."""
    images = {phase: files.read_image(given[phase][0], fill=fill, name=f"{phase} image") for phase in PHASES}
    # Beside a CT, something without its numbers is no MRI but a CT that was spoilt.
    ct = any(is_ct(sitk.GetArrayViewFromImage(image)) for image in images.values())
    lungs, origins, unlike, given_maps = {}, {}, [], []
    for phase, image in images.items():
        labels = given[phase][1]
        if labels is not None:
            drawn = sitk.GetArrayFromImage(files.read_labels(labels, image, phase))
            given_maps.append(drawn)
            lungs[phase] = drawn if names is None else np.where(np.isin(drawn, list(names)), drawn, 0)
            require_lungs(lungs[phase], f"{phase}: the label map")
            origins[phase] = GIVEN
        elif ct:
            try:
                lungs[phase] = threshold.lungs(sitk.GetArrayFromImage(image), files.grid_of(image))
            except InputError as error:
                raise InputError(f"{phase}: {error}", "lungs") from None
            origins[phase] = "found by density"
    if missing := [phase for phase in PHASES if phase not in lungs]:
        seen, unlike = outline.outlined(list(images.values()), PHASES, device, progress)
        lungs |= {phase: mask for phase, mask in zip(PHASES, seen, strict=True) if phase in missing}
        origins |= dict.fromkeys(missing, BY_MODEL)
    unlike += checks.named(given_maps, names) if names else []
    scans = {
        phase: Scan(phase, image, lungs[phase], files.tags(given[phase][0], dicom.TAGS))
        for phase, image in images.items()
    }
    unlike += checks.people(*(files.tags(given[phase][0], dicom.PERSON) for phase in PHASES))
    return scans, origins, unlike


def _registered(
    fixed: Scan,
    moving: Scan,
    fixed_points: PointSource | None,
    moving_points: PointSource | None,
    transform: str | Path | sitk.Transform | None,
    progress: Progress,
    options: Mapping[str, Any],
) -> Registration:
    """The one place where the two are registered; `generic` lets the lungs slide along the wall."""
    if transform is None and options.get("model", GENERIC) == GENERIC:
        organs = [scalar_image((scan.lungs > 0).astype(np.uint8), scan.grid) for scan in (fixed, moving)]
        options = {**options, "fixed_organs": organs[0], "moving_organs": organs[1]}
    return register_and_segment(
        fixed.image,
        moving.image,
        fixed_points=fixed_points,
        moving_points=moving_points,
        transform=transform,
        progress=progress,
        **options,
    )


def _on(labels: np.ndarray, grid: Grid, lattice: Grid) -> np.ndarray:
    """Labels (D, H, W) of ``grid`` on another lattice."""
    values = torch.from_numpy(labels.astype(np.float32))[None, None]
    return resample(values, grid, lattice, mode="nearest", fill=0.0)[0, 0].numpy().astype(labels.dtype)


def _densities(
    registration: Registration, inside: np.ndarray, carried: np.ndarray, reference: str
) -> dict[str, np.ndarray]:
    """(n,) HU at inhale and at exhale of the same tissue, averaged over `SMOOTHING` within the lungs.

    Voxels at the surface of either scan's lungs hold some of the wall: there the nearest tissue below it counts.
    """
    deformation = registration.deformation
    fixed, grid = files.to_tensor(registration.fixed)
    steps = deformation.grid.spacing[::-1]
    surface = max(*steps, *files.grid_of(registration.moving).spacing)
    pure = ndimage.distance_transform_edt(np.pad(inside & carried, 1), sampling=steps)[1:-1, 1:-1, 1:-1] > surface
    pure = pure if pure.any() else inside
    nearest = ndimage.distance_transform_edt(~pure, sampling=steps, return_distances=False, return_indices=True)
    width = SMOOTHING / steps
    weight = ndimage.gaussian_filter(pure.astype(np.float32), width)

    def smooth(values: torch.Tensor) -> np.ndarray:
        mean = ndimage.gaussian_filter(np.where(pure, values[0, 0].numpy(), 0), width) / np.where(pure, weight, 1)
        return mean[tuple(nearest[:, inside])].astype(float)

    seen = smooth(resample(fixed, grid, deformation.grid))
    warped = smooth(deformation.warp(*files.to_tensor(registration.moving)))
    return {"inhale": seen, "exhale": warped} if reference == "inhale" else {"inhale": warped, "exhale": seen}


def _center(mask: np.ndarray, grid: Grid) -> list[float]:
    """The voxel of a region (LPS mm) that is nearest to its centroid: a place to look at."""
    points = grid.to_world(np.argwhere(mask)[:, ::-1])
    return points[np.argmin(np.linalg.norm(points - points.mean(0), axis=1))].round(2).tolist()


def _spread(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    out = np.full(inside.shape, np.nan, np.float32)
    out[inside] = values
    return out


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(sign in text for sign in ',"\n') else text
