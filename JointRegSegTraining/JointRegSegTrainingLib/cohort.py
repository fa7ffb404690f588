"""The images and labels a network learns from, on its working lattice and in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from JointRegSegLib import files
from JointRegSegLib.errors import InputError
from JointRegSegLib.geometry import resample
from JointRegSegLib.preprocess import Preprocessing


@dataclass
class Subject:
    """One person: ``image`` (1, C, D, H, W) ready for the network and ``labels`` (1, 1, D, H, W), whole numbers."""

    name: str
    image: torch.Tensor
    labels: torch.Tensor


def subjects_in(folder: Path) -> list[str]:
    """Names of all subjects of a folder with ``images/NAME.nii.gz`` and ``labels/NAME.nii.gz``, sorted.

    Raises
    ------
    InputError
        If there are none.
    """
    names = sorted(p.name.removesuffix(".nii.gz") for p in (folder / "images").glob("*.nii.gz"))
    names = [n for n in names if (folder / "labels" / f"{n}.nii.gz").is_file()]
    if not names:
        raise InputError(f"{folder}: no images/NAME.nii.gz with labels/NAME.nii.gz")
    return names


def split(names: Sequence[str], validation: int, test: int, seed: int = 0) -> dict[str, list[str]]:
    """Divide subjects into 'train', 'validation' and 'test', the same way for the same names and seed."""
    if validation + test >= len(names):
        raise InputError(f"{len(names)} subjects are too few for {validation} in validation and {test} in test")
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    return {
        "test": sorted(shuffled[:test]),
        "validation": sorted(shuffled[test : test + validation]),
        "train": sorted(shuffled[test + validation :]),
    }


def load(folder: Path, names: Sequence[str], preprocessing: Preprocessing) -> list[Subject]:
    """Read subjects and bring them to the working lattice."""
    out = []
    for name in names:
        image, source = files.to_tensor(files.read_image(folder / "images" / f"{name}.nii.gz"))
        labels, label_grid = files.to_tensor(files.read_image(folder / "labels" / f"{name}.nii.gz", labels=True))
        target = preprocessing.lattice(source)
        out.append(
            Subject(
                name,
                preprocessing.apply(image, source, target),
                resample(labels, label_grid, target, mode="nearest", fill=0),
            )
        )
    return out


def random_pairs(names: Sequence[str], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """``count`` pairs (moving, fixed) of different subjects, spread evenly over them; the same for the same seed."""
    rng, out = random.Random(seed), []
    while len(out) < count:
        order = list(names)
        rng.shuffle(order)
        out += list(zip(order, order[1:] + order[:1], strict=True))
    return out[:count]
