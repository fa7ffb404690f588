"""A result as a folder of files: all of them or none."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
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
#: All names that the folder of a result can hold.
NAMES = {*(f"{name}.nii.gz" for name in IMAGES), "transform.h5", "inverse_transform.h5", REPORT, "report.html"}


def check_free(
    folder: str | Path,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
    names: Collection[str] = frozenset(NAMES),
    report: str = REPORT,
) -> Path:
    """The folder to write a result to, without links.

    Parameters
    ----------
    folder : path
        It need not exist.
    overwrite : bool
        Whether an earlier result may be replaced; what else lies in the folder may not.
    inputs : paths, optional
        Must not lie in the folder.
    names, report : str
        Of all files that such a result can hold, and of the one by which it is known.

    Raises
    ------
    OutputError
        If the folder exists and may not be replaced, or cannot be made.
    """
    try:
        where = Path(os.path.realpath(folder))
        if Path(folder).is_symlink() and not where.exists():
            raise OutputError(f"{folder}: is a link to {where}, which does not exist; create that or name another one")
        if where == where.parent:
            raise OutputError(f"{where}: is the root of the file system; name another folder")
        if where.exists() and not where.is_dir():
            raise OutputError(f"{where}: is a file; name a folder")
        there = {path.name for path in where.iterdir()} if where.exists() else set()
        Path(tempfile.mkdtemp(prefix=".", dir=next(path for path in where.parents if path.exists()))).rmdir()
    except OSError as error:
        raise OutputError(f"{where}: cannot be created ({error.strerror}); name another folder") from None
    for path in filter(None, inputs):
        if Path(os.path.realpath(path)).is_relative_to(where):
            raise OutputError(f"{where}: holds the input {path}; name another folder")
    strangers = there - set(names)
    if strangers or (there and report not in there):
        why = f"holds '{min(strangers)}'" if strangers else f"has no {report}"
        raise OutputError(
            f"{where}: is not the folder of a result, for it {why}, and will not be replaced; remove it, or name "
            "another one"
        )
    if there and not overwrite:
        raise OutputError(f"{where}: exists already; replace it, or name another folder", "overwrite")
    return where


@contextmanager
def complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write to, which takes its place at the end, or vanishes after an error.

    What was in its place goes when the new one is there, and is back after an error.

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
    aside = partial.with_name(f"{partial.name}.old")
    try:
        yield partial
        files.permit(partial)
        if folder.exists():
            folder.rename(aside)
        partial.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check space and permissions") from None
    except OutputError as error:  # it names the folder beside
        raise OutputError(str(error).replace(str(partial), str(folder)), error.option) from None
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for rest in (partial, aside):
            shutil.rmtree(rest, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Put right what processes that were killed in `complete_or_nothing` left beside ``folder``.

    A result that was about to be replaced is back, unless the new one is there.
    """
    folder = Path(os.path.realpath(folder))
    named = f".{glob.escape(folder.name)}.{'?' * 8}"  # as mkdtemp does
    for aside in folder.parent.glob(f"{named}.old"):
        if not folder.exists():
            aside.rename(folder)
    for rest in (*folder.parent.glob(named), *folder.parent.glob(f"{named}.old")):
        shutil.rmtree(rest, ignore_errors=True)


def save(result: Registration, folder: str | Path, overwrite: bool = False, progress: Progress = silent) -> Path:
    """Write a result.

    ``warped``, ``displacement``, ``jacobian`` and the segmentations as ``.nii.gz``, ``transform.h5`` and
    ``inverse_transform.h5``, ``report.json``, ``report.html``.

    Raises
    ------
    OutputError
        If ``folder`` exists (without ``overwrite``), holds an input or anything else that is no file of a result, or
        cannot be written to; nothing is left behind then.
    """
    from .report import write_html

    inputs = result.report["inputs"].values()
    folder = check_free(folder, overwrite, [entry["file"] if isinstance(entry, dict) else entry for entry in inputs])
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
