"""The one way from two images to a result: read, prepare, estimate, resample, check."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from . import __version__, device, domain, files, models, points, quality
from .carry import resampled
from .catalog import GENERIC_ENTRY, WORKING_SIZE
from .deformation import Deformation, field_lattice, scalar_image, vector_image
from .errors import InputError
from .estimate import Estimate, Settings, Volume, by_model, by_optimization
from .geometry import Grid, resample
from .lung.dense import without_dense
from .lung.refined import refined
from .options import check_options
from .progress import Progress, silent, tell
from .regularize import LIMIT, invertible
from .result import Registration
from .segmentation import segmentation_on
from .similarity import Similarity
from .sliding import by_organs

#: The image measure that the verdict looks at, for each that can be optimized.
JUDGED_BY = {"lncc": "local_correlation", "mse": "correlation", "mi": "mutual_information"}
#: What takes the place of a model where the transform was given.
GIVEN_ENTRY = {"name": "given", "title": "a transform that was made before", "license": None, "sha256": None}
NOTICE = "For research use only. Not for clinical diagnosis or treatment."

ImageSource = str | Path | sitk.Image
PointSource = str | Path | np.ndarray


def register_and_segment(
    fixed: ImageSource,
    moving: ImageSource,
    model: str | Path = models.GENERIC,
    *,
    refine: int = 0,
    fixed_labels: ImageSource | None = None,
    moving_labels: ImageSource | None = None,
    fixed_points: PointSource | None = None,
    moving_points: PointSource | None = None,
    similarity: Similarity = "lncc",
    align: str | None = None,
    fill: float | None = None,
    working_size: int | None = None,
    device_name: str = "auto",
    seed: int = 0,
    fixed_organs: ImageSource | None = None,
    moving_organs: ImageSource | None = None,
    transform: str | Path | sitk.Transform | None = None,
    progress: Progress = silent,
) -> Registration:
    """Register a moving volume to a fixed one and segment both.

    Parameters
    ----------
    fixed, moving : path or SimpleITK image
        Two 3D scalar volumes; a folder is read as a DICOM series.
    model : str or path
        'generic' (optimization, no training), the name of an installed bundle, or a bundle's folder.
    refine : int
        Steps of optimization on the pair itself after the network, or after those of `generic`; 0 for none. See
        `detail.SHARE` for where `generic`, and what refines as it does, spends them.
    fixed_labels, moving_labels : path or SimpleITK image, optional
        Label maps on their images' grids: the moving one is carried over; with both, overlap is measured. They never
        influence the registration.
    fixed_points, moving_points : path or (n, 3) array, optional
        Corresponding landmarks in LPS mm, to measure the error.
    similarity : 'lncc', 'mse' or 'mi'
        Image similarity that is optimized; 'mi' for different modalities.
    align : 'world' or 'center', optional
        Whether the images begin where they lie in space or with their middles on each other; by default what the model
        was made for, 'world' for `generic`.
    fill : float, optional
        Replaces NaN and infinite voxels.
    working_size : int, optional
        Longest side, in voxels, of the lattice on which `generic` compares the images, `catalog.WORKING_SIZE` by
        default; finer where so many voxels cubed are enough for that. So does a refinement that is `Refinement.anew`;
        other networks have a lattice of their own.
    device_name : 'auto', 'cpu' or 'cuda'
        Where to compute; 'auto' takes a GPU if there is one, and the CPU if its memory does not suffice.
    seed : int
        Of torch's random numbers; the same seed on the same CPU gives the same result.
    fixed_organs, moving_organs : path or SimpleITK image, optional
        Label maps, on their images' grids, of organs that slide along their surroundings, as lungs do: `generic` looks
        at them and what is near them, and finds the motion of each by itself, see `sliding`. All labels count alike.
        They begin on each other, so that ``align`` has to be left out.
    transform : path or SimpleITK transform, optional
        Of fixed to moving points, from elsewhere: it is taken as it is and checked, and nothing is estimated.
    progress : callable, optional
        ``progress(stage, fraction)``; returning False cancels.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If an input or option cannot be used; the message says what to do.
    ModelError
        If the bundle is unknown or damaged.
    Canceled
        If ``progress`` returned False.
    """
    check_options(refine, similarity, align, fill, working_size, seed, model, transform, fixed_organs, moving_organs)
    given = {
        "fixed": fixed,
        "moving": moving,
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_points": fixed_points,
        "moving_points": moving_points,
        "fixed_organs": fixed_organs,
        "moving_organs": moving_organs,
        "transform": transform,
    }
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    torch.manual_seed(seed)

    with _timed(seconds, "reading"):
        tell(progress, "reading", 0.0)
        stamps = {name: files.stamp(source) for name, source in given.items() if isinstance(source, str | Path)}
        fixed_image = files.read_image(fixed, fill=fill, name="fixed image")
        moving_image = files.read_image(moving, fill=fill, name="moving image")
        labels = {
            "fixed": None if fixed_labels is None else files.read_labels(fixed_labels, fixed_image, "fixed"),
            "moving": None if moving_labels is None else files.read_labels(moving_labels, moving_image, "moving"),
        }
        organs = [
            None if given[f"{side}_organs"] is None else files.read_labels(given[f"{side}_organs"], image, side)
            for side, image in (("fixed", fixed_image), ("moving", moving_image))
        ]
        landmarks = landmarks_of(fixed_points, moving_points, fixed_image, moving_image)
    with _timed(seconds, "loading model"):
        ready = files.read_transform(transform) if isinstance(transform, str | Path) else transform
        bundle = None if ready is not None or str(model) == models.GENERIC else models.find(model)
        if bundle is not None:
            models.load(bundle)
        chosen = device.choose(device_name)
    with _timed(seconds, "estimating"):
        volumes = [Volume(*files.to_tensor(image)) for image in (fixed_image, moving_image)]
        notes: list[str] = []
        lattice = field_lattice(volumes[0].grid)
        if ready is not None:
            estimate, used = Estimate(Deformation.of_itk(ready, lattice), "world"), torch.device("cpu")
        else:
            masks = None if organs[0] is None else [files.to_tensor(labels)[0] for labels in organs]
            estimate, used = _estimate(
                bundle, volumes, masks, refine, similarity, align, working_size, chosen, progress, notes
            )
    with _timed(seconds, "resampling"):
        tell(progress, "resampling", 0.0)
        _check_finite(estimate.deformation)
        deformation = estimate.deformation.on(lattice)
        if ready is None and not estimate.sliding:
            deformation = invertible(deformation, LIMIT if refine or bundle is None else bundle.round_trip)
        result = _assemble(fixed_image, moving_image, labels, deformation, estimate, bundle)
    with _timed(seconds, "checking"):
        tell(progress, "checking", 0.0)
        figures = _figures(result, volumes, landmarks, estimate)
        warnings = _warnings(bundle, volumes, estimate)
    seconds["total"] = time.perf_counter() - began
    result.report = {
        "notice": NOTICE,
        "verdict": quality.verdict(figures, warnings, JUDGED_BY[similarity]),
        "warnings": warnings,
        "quality": figures,
        "model": GIVEN_ENTRY if ready is not None else _model_entry(bundle),
        "settings": {
            "model": None if ready is not None else str(model),
            "refine": refine,
            "similarity": similarity,
            "align": estimate.alignment,
            "asked_align": align,
            "fill": fill,
            "working_size": working_size,
            "device": device_name,
            "seed": seed,
        },
        "working_lattice": None if ready is not None else _lattice_entry(estimate.deformation.grid),
        "inputs": {
            "fixed": _input_entry(fixed, fixed_image),
            "moving": _input_entry(moving, moving_image),
            **{name: str(given[name]) for name in stamps if name not in ("fixed", "moving")},
        },
        "stamps": stamps,
        "device": device.describe(used, network=bundle is not None),
        "notes": notes,
        "versions": {
            "jointregseg": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "SimpleITK": sitk.Version.VersionString(),
        },
        "seconds": seconds,
    }
    tell(progress, "checking", 1.0)
    return result


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


def landmarks_of(
    fixed_points: PointSource | None, moving_points: PointSource | None, fixed: sitk.Image, moving: sitk.Image
) -> tuple[np.ndarray, np.ndarray] | None:
    """Corresponding landmarks of both images, (n, 3) LPS mm each; None where neither has any.

    Raises
    ------
    InputError
        If they cannot be read, do not correspond, or lie far outside the images.
    """
    if fixed_points is None and moving_points is None:
        return None
    if fixed_points is None or moving_points is None:
        raise InputError("landmarks are needed for both images or for none; give those of the other one, too")
    pair = [
        points.read_points(p) if isinstance(p, str | Path) else points.checked(p, f"{side} landmarks")
        for side, p in (("fixed", fixed_points), ("moving", moving_points))
    ]
    if len(pair[0]) != len(pair[1]):
        raise InputError(
            f"{len(pair[0])} fixed and {len(pair[1])} moving landmarks do not correspond; give as many each"
        )
    for side, p, found, image in zip(
        ("fixed", "moving"), (fixed_points, moving_points), pair, (fixed, moving), strict=True
    ):
        name = str(p) if isinstance(p, str | Path) else f"{side} landmarks"
        _check_near(name, side, found, files.grid_of(image))
    return pair[0], pair[1]


def _check_near(name: str, side: str, landmarks: np.ndarray, grid: Grid) -> None:
    """Refuse landmarks that are farther away from their image than it is long: they are those of something else."""
    index = grid.to_index(landmarks)
    far = ((index < -np.array(grid.size)) | (index > 2 * np.array(grid.size))).any(1)
    if far.any():
        place = ", ".join(f"{x:.4g}" for x in landmarks[far][0])
        raise InputError(
            f"{name}: landmark {int(far.argmax()) + 1} at ({place}) lies far outside the {side} image; "
            "give LPS mm in that image's space"
        )


def _estimate(
    bundle: models.Bundle | None,
    volumes: list[Volume],
    organs: list[torch.Tensor] | None,
    refine: int,
    similarity: Similarity,
    align: str | None,
    working_size: int | None,
    chosen: torch.device,
    progress: Progress,
    notes: list[str],
) -> tuple[Estimate, torch.device]:
    """The estimate, and where it was computed in the end."""

    def attempt(where: torch.device) -> Estimate:
        settings = Settings(refine, similarity, align, working_size or WORKING_SIZE, where, progress)
        if organs is not None:
            return by_organs(*volumes, organs, settings)
        if bundle is None:
            return by_optimization(*volumes, settings)
        lungs = bundle.manifest["refinement"].get("slides")
        if refine and lungs and (found := refined(bundle, *volumes, settings)):
            notes.append("the lungs were found by density, and slide along the wall")
            return found
        found = by_model(bundle, *volumes, settings)
        return without_dense(bundle, found, *volumes) if lungs else found

    try:
        return attempt(chosen), chosen
    except torch.OutOfMemoryError:
        if chosen.type == "cpu":
            raise
        torch.cuda.empty_cache()
        notes.append("the GPU's memory did not suffice; computed on the CPU instead")
        cpu = torch.device("cpu")
        return attempt(cpu), cpu


def _check_finite(deformation: Deformation) -> None:
    fields = (deformation.displacement, deformation.inverse, torch.as_tensor(deformation.affine))
    if not all(bool(field.isfinite().all()) for field in fields):
        raise InputError("the images led to no finite deformation; check that both show the same body part")


def _assemble(
    fixed: sitk.Image,
    moving: sitk.Image,
    labels: dict[str, sitk.Image | None],
    deformation: Deformation,
    estimate: Estimate,
    bundle: models.Bundle | None,
) -> Registration:
    transform = deformation.to_itk()
    minimum = float(sitk.GetArrayViewFromImage(moving).min())
    out = Registration(
        fixed=fixed,
        moving=moving,
        warped=resampled(moving, fixed, transform, False, minimum),
        deformation=deformation,
        transform=transform,
        inverse_transform=deformation.to_itk(inverse=True),
        displacement=vector_image(deformation.vectors(), deformation.grid),
        jacobian=scalar_image(deformation.jacobian(), deformation.grid),
        fixed_labels=labels["fixed"],
        moving_labels=labels["moving"],
    )
    if labels["moving"] is not None:
        out.warped_labels = resampled(labels["moving"], fixed, transform, True, 0.0)
    if bundle is not None and estimate.fixed_probabilities is not None:
        out.label_names = {label["value"]: label["name"] for label in bundle.manifest["labels"]}
        out.label_colors = {label["value"]: label["color"] for label in bundle.manifest["labels"]}
        for n, (name, image) in enumerate((("fixed", fixed), ("moving", moving))):
            seen = getattr(estimate, f"{name}_probabilities"), getattr(estimate, f"{name}_grid")
            if estimate.outlines is None:
                labels = segmentation_on(*seen, image, bundle.label_values)
            else:
                labels = scalar_image(estimate.outlines[n], files.grid_of(image))
            setattr(out, f"{name}_segmentation", labels)
        out.warped_segmentation = resampled(out.moving_segmentation, fixed, transform, True, 0.0)
    return out


def _warnings(bundle: models.Bundle | None, volumes: list[Volume], estimate: Estimate) -> list[str]:
    """What of the two images casts doubt on any result, one sentence each; first, what is unlike the training data."""
    sides = list(zip(("fixed", "moving"), volumes, strict=True))
    out = []
    for side, volume in sides if bundle is not None else ():
        seen = getattr(estimate, f"{side}_probabilities"), getattr(estimate, f"{side}_grid")
        out += domain.unlike(bundle, f"{side} image", volume.values, volume.grid, *seen)
    if torch.equal(*(volume.values for volume in volumes)):
        out.append("both images hold the same values: is one scan given twice?")
    return out + [text for side, volume in sides for text in quality.meager(f"{side} image", volume.values)]


def _figures(
    result: Registration,
    volumes: list[Volume],
    landmarks: tuple[np.ndarray, np.ndarray] | None,
    estimate: Estimate,
) -> dict[str, Any]:
    fixed, moving = volumes
    deformation = result.deformation
    seen = resample(fixed.values, fixed.grid, deformation.grid)
    out: dict[str, Any] = {
        "similarity": quality.similarity(
            seen, moving.values, moving.grid, deformation, estimate.deformation.grid if estimate.sliding else None
        ),
        "regularity": quality.regularity(deformation),
        "two_way_disagreement_mm": estimate.disagreement,
    }
    if result.fixed_segmentation is not None:
        agreement = quality.overlap(result.warped_segmentation, result.fixed_segmentation, result.label_names)
        out["segmentation_agreement"] = agreement | {"sought": estimate.agreement_sought}
    if result.warped_labels is not None and result.fixed_labels is not None:
        still = resampled(result.moving_labels, result.fixed, sitk.Transform(3, sitk.sitkIdentity), True, 0.0)
        out["labels"] = {
            "before": quality.overlap(still, result.fixed_labels),
            "after": quality.overlap(result.warped_labels, result.fixed_labels),
        }
    if landmarks is not None:
        out["landmarks"] = quality.landmarks(*landmarks, deformation)
    return out


def _model_entry(bundle: models.Bundle | None) -> dict[str, Any]:
    if bundle is None:
        return {key: GENERIC_ENTRY[key] for key in ("name", "title", "license")} | {"sha256": None}
    entry = {key: bundle.manifest[key] for key in ("name", "title", "license", "sha256", "training")}
    return entry | {"checksum": bundle.checksum}


def _lattice_entry(grid: Grid) -> dict[str, Any]:
    return {"size": list(grid.size), "spacing_mm": [round(float(s), 6) for s in grid.spacing]}


def _input_entry(source: ImageSource, image: sitk.Image) -> dict[str, Any]:
    return {
        "file": str(source) if isinstance(source, str | Path) else None,
        **_lattice_entry(files.grid_of(image)),
        "type": image.GetPixelIDTypeAsString(),
    }
