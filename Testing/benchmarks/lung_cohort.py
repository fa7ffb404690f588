"""The cohort that `lung-breathing` is trained on: real lungs, each volume in its true orientation, and phantoms.

Some headers do not tell the truth: 4D MRI of the liver was acquired in sagittal slices and says that they are axial.
Files are written anew with one orientation and with names of their own; values of label files are the lungs' or, where
they were drawn, the lobes'. Phantoms are what a run is validated on, for real people are too few to spare.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.lung.simulation import patient, phantom
from JointRegSegTrainingLib import cohort
from scipy import ndimage

#: Values in the label files: lungs, and lobes.
RIGHT, LEFT = 1, 2
#: Those of the proton MRI's own lobes: left lower, left upper, right lower, right middle, right upper.
LOBES = np.array([0, 11, 12, 13, 14, 15])
#: True directions of i, j and k of the liver's 4D MRI: posterior, superior, left.
SAGITTAL = (0, 0, 1, 1, 0, 0, 0, 1, 0)
#: People to test on; the other real ones are trained on.
HELD_OUT = ("ct-4d", "proton-0011", "mri-4d-dataset23")
PHANTOMS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--output", type=Path, required=True, help="folder for the volumes and cohort.csv")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "lung"
    if not source.is_dir():
        print(f"lung_cohort: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    rows = everybody(source, arguments.output)
    cohort.write(arguments.output / "cohort.csv", rows)
    print(f"{arguments.output / 'cohort.csv'}: {len(rows)} images of {len({row.subject for row in rows})} people")
    return 0


def everybody(source: Path, folder: Path) -> list[cohort.Row]:
    """Write all volumes of the cohort to ``folder``; their rows."""
    real = [*ct_4d(source, folder), *ct_large(source, folder), *proton(source, folder), *liver(source, folder)]
    return [*real, *phantoms(folder)]


def is_phantom(subject: str) -> bool:
    """Whether that subject is made of formulas."""
    return subject.startswith("phantom-")


def kept(
    folder: Path, name: str, image: sitk.Image, labels: np.ndarray | None, subject: str, split: str, *drawn: str
) -> cohort.Row:
    """Write an image and its labels (of its own array's shape) with axes near LPS; their row."""
    paths = [folder / kind / f"{name}.nii.gz" for kind in ("images", "labels")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_image(sitk.DICOMOrient(image, "LPS"), paths[0])
    if labels is not None:
        drawn_image = sitk.GetImageFromArray(labels.astype(np.uint8))
        drawn_image.CopyInformation(image)
        files.write_image(sitk.DICOMOrient(drawn_image, "LPS"), paths[1])
    return cohort.Row(paths[0], None if labels is None else paths[1], subject, split, drawn or None)


def split_of(subject: str) -> str:
    return "test" if subject in HELD_OUT else "train"


def ct_4d(source: Path, folder: Path) -> list[cohort.Row]:
    """Inhale and exhale of a person of whom the right lung is labeled."""
    rows, subject = [], "ct-4d"
    for phase in ("inhale", "exhale"):
        image = files.read_image(source / "ct_4d" / f"{phase}.nii.gz")
        right = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "ct_4d" / f"{phase}_rightlung.nii.gz")))
        rows.append(kept(folder, f"{subject}-{phase}", image, right * RIGHT, subject, split_of(subject), "right lung"))
    return rows


def ct_large(source: Path, folder: Path) -> list[cohort.Row]:
    """Inhale and exhale whose lungs have one label together: the two large parts are told apart by where they lie."""
    rows, subject = [], "ct-large"
    for phase in ("inhale", "exhale"):
        image = files.read_image(source / "ct_large" / f"{phase}.nii.gz")
        lungs = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "ct_large" / f"{phase}_lungs.nii.gz"))) > 0
        parts, count = ndimage.label(lungs)
        number = 1 + np.argsort(ndimage.sum(lungs, parts, range(1, count + 1)))[-2:]
        middles = ndimage.center_of_mass(lungs, parts, number)
        grid = files.grid_of(image)
        right, left = number[np.argsort([grid.to_world(middle[::-1])[0] for middle in middles])]
        labels = np.where(parts == right, RIGHT, 0) + np.where(parts == left, LEFT, 0)
        rows.append(kept(folder, f"{subject}-{phase}", image, labels, subject, split_of(subject)))
    return rows


def proton(source: Path, folder: Path) -> list[cohort.Row]:
    """Lungs and lobes of three people; what is lung and no lobe keeps the lung's value."""
    rows = []
    for number in ("0004", "0006", "0011"):
        image = files.read_image(source / "proton_mri" / f"{number}.nii.gz")
        lungs, lobes = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(source / "proton_mri" / f"{number}_{what}.nii.gz"))).astype(int)
            for what in ("lungs", "lobes")
        )
        labels = np.where(lobes > 0, LOBES[lobes], lungs)
        subject = f"proton-{number}"
        rows.append(kept(folder, subject, image, labels, subject, split_of(subject)))
    return rows


def liver(source: Path, folder: Path) -> list[cohort.Row]:
    """Exhale and two inhales of two people, without labels."""
    rows = []
    for person in ("dataset18", "dataset23"):
        for path in sorted((source / "mri_4d" / person).glob("*.mha")):
            image = files.read_image(path)
            image.SetDirection(SAGITTAL)
            subject, phase = f"mri-4d-{person}", path.name.split(".")[0].replace("_", "-")
            image.SetSpacing([*image.GetSpacing()[:2], 4.0])  # one header says 5 mm, which its landmarks contradict
            rows.append(kept(folder, f"{subject}-{phase}", image, None, subject, split_of(subject)))
    return rows


def phantoms(folder: Path, count: int = PHANTOMS) -> list[cohort.Row]:
    """Inhale and exhale of people made of formulas, each of a shape of their own; the last two are validated on."""
    rows = []
    for seed in range(count):
        person = patient(phantom(seed), 0.0, np.random.default_rng(seed))
        subject, split = f"phantom-{seed}", "train" if seed < count - 2 else "validation"
        for phase in ("inhale", "exhale"):
            image = scalar_image(getattr(person, phase), person.grid)
            labels = getattr(person, f"{phase}_lungs")
            rows.append(kept(folder, f"{subject}-{phase}", image, labels, subject, split))
    return rows


if __name__ == "__main__":
    sys.exit(main())
