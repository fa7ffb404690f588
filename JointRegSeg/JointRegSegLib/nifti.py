"""What ITK's NIfTI reader and writer let pass: files cut off in the middle, headers without spacing, voxels without
value."""

from __future__ import annotations

import glob
import gzip
import math
import re
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError, reading

_BLOCK = 1 << 20
_FLOATS = {16: "f4", 64: "f8"}


@dataclass
class _Header:
    """``order`` is struct's sign of the byte order, ``start`` the place of the first voxel, ``bytes`` their length."""

    order: str
    kind: int
    spacing: tuple[float, ...]
    start: float
    bytes: float


def check(path: Path) -> np.ndarray:
    """Refuse a damaged NIfTI file, or pair of header and voxels, which ITK would fill up with zeros and call read.

    Files of other formats pass; what is wrong with those, ITK says itself.

    Returns
    -------
    (n,) ndarray
        Positions, in the file's order, of voxels that are NaN or infinite: ITK reads zeros there.

    Raises
    ------
    InputError
        If the file ends too early, its compression or header is damaged, or a voxel spacing is zero, negative or
        infinite.
    """
    nothing = np.zeros(0, int)
    places = _places(path)
    if places is None:
        return nothing
    damaged = InputError(f"{path}: is cut off or damaged; get the file anew")
    with reading(path):
        try:
            with _opened(places[0]) as stream:
                header = _header(stream.read(544), places[0] != places[1])
            if header is None:
                return nothing
            _check_header(path, header)
            with _opened(places[1]) as stream:
                stream.seek(int(header.start))
                bad, length = _scan(stream, header)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise damaged from None
    if length < header.bytes:
        raise damaged
    return bad


def _places(path: Path) -> tuple[Path, Path] | None:
    """Where the header and the voxels lie, in one file or in two; None for other formats, or where one is missing."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return path, path
    paired = re.fullmatch(r"(.*)\.(hdr|img)(\.gz)?", path.name, re.IGNORECASE)
    beside = [] if paired is None else sorted(path.parent.glob(f"{glob.escape(paired[1])}.*"))
    found = {
        kind: [p for p in beside if re.fullmatch(rf"\.{kind}(\.gz)?", p.name[len(paired[1]) :], re.IGNORECASE)]
        for kind in ("hdr", "img")
    }
    return (found["hdr"][0], found["img"][0]) if all(found.values()) else None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _check_header(path: Path, header: _Header) -> None:
    if not all(math.isfinite(s) and s > 0 for s in header.spacing):
        text = " x ".join(f"{s:g}" for s in header.spacing)
        raise InputError(f"{path}: has a voxel spacing of {text} mm; correct the header")
    if not 0 <= header.start < sys.maxsize:  # which NaN is not, either
        raise InputError(f"{path}: its header is damaged (voxels begin at byte {header.start:g}); get the file anew")


def _header(raw: bytes, apart: bool) -> _Header | None:
    """Version 1 or 2 in either byte order, or, ``apart`` from the voxels, Analyze; None for what is none of them."""
    for order in "<>":
        if (apart or raw[344:347] == b"n+1") and len(raw) >= 348 and struct.unpack_from(order + "i", raw)[0] == 348:
            places = ("8h", 40), ("2h", 70), ("8f", 76), ("f", 108)
        elif raw[4:7] in (b"n+2", b"ni2") and len(raw) == 544 and struct.unpack_from(order + "i", raw)[0] == 540:
            places = ("8q", 16), ("2h", 12), ("8d", 104), ("q", 168)
        else:
            continue
        (axes, *sizes), (kind, bits), spacing, (start,) = (struct.unpack_from(order + f, raw, at) for f, at in places)
        spacing = spacing if b"n" in (raw[4:5], raw[344:345]) else ()  # that of Analyze may have signs, for a flip
        return _Header(order, kind, spacing[1 : 1 + min(axes, 3)], start, math.prod(sizes[:axes]) * bits / 8)
    return None


def _scan(stream: BinaryIO, header: _Header) -> tuple[np.ndarray, int]:
    """Positions of voxels without a finite value, and how many bytes there are; packed ones are checked on the way."""
    length, bad = 0, [np.zeros(0, int)]
    kind = np.dtype(header.order + _FLOATS.get(header.kind, "u1"))
    while block := stream.read(_BLOCK):
        if header.kind in _FLOATS:
            values = np.frombuffer(block, kind, len(block) // kind.itemsize)
            bad.append(np.flatnonzero(~np.isfinite(values)) + length // kind.itemsize)
        length += len(block)
    return np.concatenate(bad), length
