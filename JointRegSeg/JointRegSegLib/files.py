"""Images, label maps and transforms on disk, by SimpleITK."""

from __future__ import annotations

import glob
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from . import nifti, series
from .errors import InputError, OutputError, lacks_memory, reading
from .geometry import Grid

# ITK's own warnings go to the terminal in several lines; what matters is checked and said below.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ITK's format libraries print on stderr, in many lines, off it; the exception they raise is reported."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr, as in a program without a terminal on Windows
        yield
        return
    try:
        sys.stderr.flush()
        with Path(os.devnull).open("w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


#: Below it (mm) a spacing is a mistake, or a lattice too small to compute with.
SMALLEST_SPACING = 1e-4
#: Above it (mm) no body has more than one voxel.
LARGEST_SPACING = 1e4
#: Share of its greatest value over which an image has to vary: single precision tells no finer shades apart.
FINEST = 1e-5
#: Above it values cannot be summed up over a block of voxels in single precision.
LARGEST_VALUE = 1e35
#: An image with fewer voxels above its minimum shows nothing.
FEWEST_VOXELS = 10
#: Names of files that ITK can write any volume or transform to.
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".h5", ".tfm")


def read_image(
    source: str | Path | sitk.Image,
    labels: bool = False,
    fill: float | None = None,
    name: str = "image",
    values: bool = True,
) -> sitk.Image:
    """Read and check a scalar volume, or a label map.

    Parameters
    ----------
    source : path or SimpleITK image
        A NIfTI, NRRD, MetaImage or other file, or a folder with one DICOM series.
    labels : bool
        Whether values have to be whole numbers; they come back as such.
    fill : float, optional
        Takes the place of NaN and infinite voxels; not in a label map, which has none.
    name : str
        What an error calls an image that has no path.
    values : bool
        Whether to refuse an empty image, and NaN and infinite voxels without ``fill``.

    Returns
    -------
    sitk.Image
        3D, in its own pixel type.

    Raises
    ------
    InputError
        If the image cannot be read or registered; the message says why and what to do.
    """
    if isinstance(source, sitk.Image):
        image = source
    elif not isinstance(source, str | os.PathLike):
        raise InputError(f"{name}: is a {type(source).__name__}; give a path or a SimpleITK image")
    elif not os.fspath(source):
        raise InputError(f"{name}: its path is empty; name a file or a folder")
    else:
        name, image = str(source), _read(Path(source))
    _check_kind(name, image)
    if values:
        image = _check_values(name, image, fill, labels)
    return _whole_numbers(name, image) if labels else image


def _read(path: Path) -> sitk.Image:
    with reading(path):
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if not path.is_dir():
            with path.open("rb"):  # ITK would say of some formats that there is no such file
                pass
    try:
        if path.is_dir():
            return series.read(path)
        bad = nifti.check(path)
        _check_meta(path)
        with _quiet():
            image = sitk.ReadImage(str(path))
        return _with_nan(image, bad) if len(bad) else image
    except RuntimeError as error:
        text = str(error)
        if lacks_memory(error):
            raise MemoryError(f"{path}: {_last_line(error)}") from None
        if "orthonormal" in text or "eterminant" in text:
            raise InputError(_sheared(path)) from None
        if "pacing" in text and ("ero" in text or "egative" in text):
            raise InputError(_spacing(path)) from None
        raise InputError(
            f"{path}: cannot be read as an image ({_last_line(error)}); check that it is one and whole"
        ) from None


def _check_meta(path: Path) -> None:
    """Refuse a MetaImage with spacing of zero or less, which ITK would read as an axis that is flipped."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return
    with path.open("rb") as stream:
        found = re.search(rb"^ElementS(?:pacing|ize)\s*=([^\r\n]*)", stream.read(4096), re.MULTILINE)
    try:
        numbers = [float(word) for word in found[1].split()] if found else []
    except ValueError:
        text = found[1].decode(errors="replace").strip()
        raise InputError(f"{path}: its header is damaged (voxel spacing '{text}'); correct it") from None
    if not all(0 < number < math.inf for number in numbers):
        raise InputError(_spacing(path))


def _with_nan(image: sitk.Image, positions: np.ndarray) -> sitk.Image:
    """The image with NaN back at positions where the file has no finite value."""
    array = sitk.GetArrayFromImage(image)
    array.reshape(-1)[positions[positions < array.size]] = np.nan
    out = sitk.GetImageFromArray(array, isVector=image.GetNumberOfComponentsPerPixel() > 1)
    out.CopyInformation(image)
    return out


def tags(source: str | Path | sitk.Image, names: dict[str, str]) -> dict[str, str]:
    """What a volume's header says of itself: of DICOM slices the first one's.

    Parameters
    ----------
    names : dict
        What each wanted tag is called in the answer, by tag: ``{"0018|1210": "kernel"}``.

    Returns
    -------
    dict
        The tags that are there and not empty; none of a file without a header that can be read.
    """
    if isinstance(source, sitk.Image):
        header = source
    else:
        path = Path(source)
        if path.is_dir():
            slices = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path))
            path = Path(slices[0]) if slices else path
        header = sitk.ImageFileReader()
        header.SetFileName(str(path))
        try:
            with _quiet():
                header.ReadImageInformation()
        except RuntimeError:
            return {}
    found = {name: header.GetMetaData(tag).strip() for tag, name in names.items() if header.HasMetaDataKey(tag)}
    return {name: value for name, value in found.items() if value}


def _sheared(name: object) -> str:
    return (
        f"{name}: its direction cosines are not orthonormal (sheared or damaged header); "
        "resample it to a regular lattice first, for instance with Slicer's Resample Scalar/Vector/DWI Volume"
    )


def _spacing(name: object) -> str:
    return f"{name}: zero, negative or infinite voxel spacing; correct the header"


def _check_kind(name: str, image: sitk.Image) -> None:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(
            f"{name}: has {image.GetNumberOfComponentsPerPixel()} values a voxel (color or vector image); "
            "convert it to one scalar volume"
        )
    if image.GetPixelIDTypeAsString().startswith("label"):
        raise InputError(f"{name}: is a SimpleITK label map, not an image; convert it with SimpleITK.LabelMapToLabel")
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{name}: has complex voxels; convert it to its magnitude")
    if image.GetDimension() != 3:
        raise InputError(f"{name}: is {image.GetDimension()}D; a 3D volume is needed (extract one from a time series)")
    if min(image.GetSize()) < 2:
        raise InputError(f"{name}: has one slice only ({' x '.join(map(str, image.GetSize()))}); a volume is needed")
    if not np.isfinite(image.GetSpacing()).all() or min(image.GetSpacing()) <= 0:
        raise InputError(_spacing(name))
    for spacing in (min(image.GetSpacing()), max(image.GetSpacing())):
        if not SMALLEST_SPACING <= spacing <= LARGEST_SPACING:
            raise InputError(f"{name}: voxel spacing of {spacing:g} mm; correct the header")
    if not np.isfinite(image.GetOrigin()).all():
        raise InputError(f"{name}: its origin is not a number; correct the header")
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise InputError(_sheared(name))


def _check_values(name: str, image: sitk.Image, fill: float | None, labels: bool) -> sitk.Image:
    array = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(array.dtype, np.floating):
        bad = ~np.isfinite(array)
        if bad.any():
            k, j, i = np.argwhere(bad)[0]
            found = f"{name}: {int(bad.sum())} voxels are NaN or infinite, the first at index ({i}, {j}, {k})"
            if labels:
                raise InputError(f"{found}; give whole-numbered labels")
            if fill is None:
                raise InputError(f"{found}; replace them by a value", "fill")
            if not abs(fill) <= float(np.finfo(array.dtype).max):
                raise InputError(
                    f"{name}: {fill:g} does not fit into its {array.dtype} voxels; fill with another", "fill"
                )
            filled = sitk.GetImageFromArray(np.where(bad, np.asarray(fill, array.dtype), array))
            filled.CopyInformation(image)
            image, array = filled, sitk.GetArrayViewFromImage(filled)
    low, high = array.min(), array.max()
    span, largest = float(high) - float(low), max(abs(float(low)), abs(float(high)))
    if largest > LARGEST_VALUE:
        raise InputError(f"{name}: has values beyond {LARGEST_VALUE:g}; rescale its intensities")
    if 0 < span < FINEST * largest:
        raise InputError(
            f"{name}: its values differ by {span:g} around {float(low):g}, too little for single precision; subtract "
            "that"
        )
    if low == high and labels and low:
        raise InputError(f"{name}: every voxel is {low:g}, which outlines nothing; draw a part of the image")
    if low == high:
        raise InputError(f"{name}: is empty (every voxel is {low:g}); check that the right file was given")
    if not labels and (count := np.count_nonzero(array > low)) < FEWEST_VOXELS:
        raise InputError(f"{name}: is empty but for {count} voxels; check that the right file was given")
    return image


def _whole_numbers(name: str, image: sitk.Image) -> sitk.Image:
    array = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(array.dtype, np.floating) and not np.array_equal(array, np.round(array)):
        raise InputError(f"{name}: is no label map, since it has fractions; give whole-numbered labels")
    if array.min() < 0 or array.max() > 65535:
        raise InputError(f"{name}: labels have to lie between 0 and 65535, not {array.min():g} to {array.max():g}")
    return sitk.Cast(image, sitk.sitkUInt16 if array.max() > 255 else sitk.sitkUInt8)


def read_labels(source: str | Path | sitk.Image, image: sitk.Image, owner: str) -> sitk.Image:
    """A label map that lies on the same voxels as ``image``; ``owner`` names that in the error."""
    labels = read_image(source, labels=True, name=f"{owner} label map")
    if not grid_of(labels).matches(grid_of(image), 0.01):
        name = f"{owner} label map" if isinstance(source, sitk.Image) else source
        raise InputError(
            f"{name}: lies on another grid ({_geometry(labels)}) than the {owner} image ({_geometry(image)}); "
            "resample it onto that image with nearest neighbor interpolation"
        )
    return labels


def _geometry(image: sitk.Image) -> str:
    size, spacing = " x ".join(map(str, image.GetSize())), " x ".join(f"{s:.3g}" for s in image.GetSpacing())
    return f"{size} voxels of {spacing} mm at {', '.join(f'{x:.4g}' for x in image.GetOrigin())}"


def grid_of(image: sitk.Image) -> Grid:
    """The image's lattice."""
    return Grid.from_geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


#: Endings of what is an image by itself, or none.
_WHOLE = (".nii", ".nii.gz", ".nrrd", ".mha", ".csv", ".json", ".txt")


def parts_of(path: Path) -> list[Path]:
    """The files that an image lies in: a folder's, or of a header and voxels those of one name but for the ending."""
    if path.is_dir():
        return sorted(path.iterdir())
    if paired := re.fullmatch(r"(.*)\.(mhd|nhdr|(hdr|img)(\.gz)?)", path.name, re.IGNORECASE):
        beside = path.parent.glob(f"{glob.escape(paired[1])}.*")
        return sorted(p for p in beside if not p.name.lower().endswith(_WHOLE))  # which are others of the same name
    return [path]


def permit(path: Path) -> None:
    """Give a file or folder that was made for this user alone the permissions that this user's new ones have."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def stamp(path: str | Path) -> list[int] | None:
    """Bytes of all `parts_of` a file or folder, and when they were last changed in ns; None if there are none."""
    try:
        states = [part.stat() for part in parts_of(Path(path))]
    except OSError:
        return None
    return [sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)]


def to_tensor(image: sitk.Image) -> tuple[torch.Tensor, Grid]:
    """(1, 1, D, H, W) float32 tensor and lattice of a scalar image."""
    array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    return torch.from_numpy(array)[None, None], grid_of(image)


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write an image, compressed where the format can.

    Raises
    ------
    OutputError
        If the place cannot be written to.
    """
    pixel = image.GetSizeOfPixelComponent() * image.GetNumberOfComponentsPerPixel()
    with _writing(Path(path), image.GetNumberOfPixels() * pixel):
        sitk.WriteImage(image, str(path), useCompression=True)
        nifti.check(Path(path))


def write_transform(transform: sitk.Transform, path: str | Path) -> None:
    """Write a transform as ITK does (.h5, .tfm).

    Raises
    ------
    OutputError
        If the place cannot be written to.
    """
    with _writing(Path(path), 8 * transform.GetNumberOfParameters()):
        sitk.WriteTransform(transform, str(path))


@contextmanager
def _writing(path: Path, size: int) -> Iterator[None]:
    """Take ``size`` bytes of disk first: where it is full some of ITK's writers stay silent and others crash."""
    try:
        with path.open("wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
            else:
                stream.writelines(bytes(1 << 20) for _ in range(-(-size >> 20)))
        with _quiet():
            yield
    except (OSError, RuntimeError, InputError) as error:
        with suppress(OSError):
            path.unlink()
        reason = getattr(error, "strerror", None) or _last_line(error)
        cure = "check space and permissions"
        if isinstance(error, RuntimeError) and not path.name.lower().endswith(ENDINGS):
            cure = f"the ending '{path.suffix}' does not do; end the name in .nii.gz, .nrrd or .mha"
        raise OutputError(f"{path}: cannot be written ({reason}); {cure}") from None


def read_transform(path: str | Path) -> sitk.Transform:
    """Read an ITK transform.

    Raises
    ------
    InputError
        If there is none of volumes at ``path``.
    """
    cure = "name the transform.h5 or inverse_transform.h5 of a result"
    with reading(path):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; {cure}")
        with Path(path).open("rb"):  # ITK says the same of whatever is wrong
            pass
    try:
        with _quiet():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError:  # its reason speaks of unsupported endings
        raise InputError(f"{path}: cannot be read as a transform; {cure}") from None
    if transform.GetDimension() != 3:
        raise InputError(f"{path}: is a transform of {transform.GetDimension()}D images; {cure}")
    return transform


def _last_line(error: Exception) -> str:
    """ITK's reason, without places in its source and without an error number left over from something else."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    return re.sub(r"^(sitk::|ITK )ERROR: (\w+\(\w+\): )?", "", lines[-1])[:160] if lines else "unknown reason"
