"""The sample data that ship with the module: reads nothing but the standard library can."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

#: Where samples are in a checkout and in Slicer; the command line simulates its own (`demo`).
FOLDER = Path(__file__).resolve().parent.parent / "Resources" / "SampleData"
#: Describes the files of the folder, with their checksums; written by the command that makes them.
INDEX = "samples.json"


@dataclass(frozen=True)
class SampleFile:
    """A file that becomes one node.

    Attributes
    ----------
    path : Path
        The file. Slicer caches samples of all modules under their bare names, so that it has to be unique.
    role : str
        'fixed', 'moving', 'fixed_points' or 'moving_points'.
    kind : str
        Slicer's name of the file type, 'VolumeFile' or 'MarkupsFile'.
    node : str
        Name that the node gets.
    sha256 : str
        Checksum, in lower case hexadecimal digits.
    """

    path: Path
    role: str
    kind: str
    node: str
    sha256: str

    def verified(self) -> Path:
        """The path, once the file is known to be whole.

        Raises
        ------
        InputError
            If the file is missing or does not match its checksum.
        """
        try:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); install the extension again") from None
        if digest != self.sha256:
            raise InputError(f"{self.path}: does not match its checksum; install the extension again")
        return self.path


@dataclass(frozen=True)
class Sample:
    """A pair to try the module on: two volumes, and points of which it is known that they belong together.

    Attributes
    ----------
    name : str
        By which Slicer's module Sample Data lists and finds it.
    thumbnail : Path
        PNG.
    files : tuple of SampleFile
        One for each role.
    """

    name: str
    thumbnail: Path
    files: tuple[SampleFile, ...]

    def __getitem__(self, role: str) -> SampleFile:
        """The file with a role."""
        return next(file for file in self.files if file.role == role)

    def source(self) -> dict[str, Any]:
        """What ``SampleData.SampleDataLogic.registerCustomSampleDataSource`` takes beside the category."""
        return {
            "sampleName": self.name,
            "uris": [file.path.as_uri() for file in self.files],
            "fileNames": [file.path.name for file in self.files],
            "nodeNames": [file.node for file in self.files],
            "checksums": [f"SHA256:{file.sha256}" for file in self.files],
            "loadFileType": [file.kind for file in self.files],
            "thumbnailFileName": str(self.thumbnail),
        }


def samples(folder: Path = FOLDER) -> list[Sample]:
    """Samples of a folder, as its index lists them; none where no samples ship.

    Raises
    ------
    InputError
        If the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        return [_sample(entry, folder) for entry in json.loads(index.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{index}: cannot be read as a list of samples; install the extension again") from None


def _sample(entry: dict[str, Any], folder: Path) -> Sample:
    files = tuple(
        SampleFile(folder / file["file"], file["role"], file["kind"], file["node"], file["sha256"])
        for file in entry["files"]
    )
    return Sample(entry["name"], folder / entry["thumbnail"], files)
