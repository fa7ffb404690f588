"""A result as a folder of files: all of them or none."""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import files
from .errors import OutputError
from .progress import Progress, silent, tell
from .result import Registration

REPORT = "report.json"
#: Images of a result that are written, where there are any.
IMAGES = (
    "warped",
    "displacement",
    "jacobian",
    "fixed_segmentation",
    "moving_segmentation",
    "warped_segmentation",
    "warped_labels",
)


def check_free(folder: str | Path, overwrite: bool = False) -> Path:
    """Raise `OutputError` if ``folder`` exists and may not be replaced, holds something that is no result, or cannot be
    made; returns its absolute path."""
    folder = Path(folder).absolute()
    try:
        folder.exists()  # which some names are too long for
        Path(tempfile.mkdtemp(prefix=".", dir=next(path for path in folder.parents if path.exists()))).rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    if folder.exists():
        if not folder.is_dir():
            raise OutputError(f"{folder}: is a file; name a folder")
        if any(folder.iterdir()):
            if not overwrite:
                raise OutputError(f"{folder}: exists already; replace it, or name another folder", "overwrite")
            if not (folder / REPORT).is_file():
                raise OutputError(f"{folder}: is not the folder of a result and will not be replaced; name another one")
    return folder


@contextmanager
def complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write to, which takes its place at the end, or vanishes after an error.

    Raises
    ------
    OutputError
        If the place cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); check space and permissions") from None
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check space and permissions") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed in `complete_or_nothing` left beside ``folder``."""
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.{'?' * 8}"):  # as mkdtemp names them
        shutil.rmtree(partial, ignore_errors=True)


def save(result: Registration, folder: str | Path, overwrite: bool = False, progress: Progress = silent) -> Path:
    """Write a result.

    ``warped``, ``displacement``, ``jacobian`` and the segmentations as ``.nii.gz``, ``transform.h5`` and
    ``inverse_transform.h5``, ``report.json``, ``report.html``.

    Raises
    ------
    OutputError
        If ``folder`` exists (without ``overwrite``) or cannot be written to; nothing is left behind then.
    """
    from .report import write_html

    folder = check_free(folder, overwrite)
    images = {name: getattr(result, name) for name in IMAGES if getattr(result, name) is not None}
    with complete_or_nothing(folder) as partial:
        for i, (name, image) in enumerate(images.items()):
            tell(progress, "writing", i / (len(images) + 2))
            files.write_image(image, partial / f"{name}.nii.gz")
        files.write_transform(result.transform, partial / "transform.h5")
        files.write_transform(result.inverse_transform, partial / "inverse_transform.h5")
        (partial / REPORT).write_text(json.dumps(result.report, indent=2) + "\n", encoding="utf-8")
        tell(progress, "writing", (len(images) + 1) / (len(images) + 2))
        write_html(result, partial / "report.html")
        tell(progress, "writing", 1.0)
    return folder
