"""Simulated cohorts: breathing pairs of patients whose disease is known, to test and to teach the whole chain."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.lung import simulation, threshold
from JointRegSegLib.output import complete_or_nothing
from JointRegSegLib.tables import read_table

from ..cohort import IMAGES, listed
from . import cohort

SETTINGS = "simulation.json"
#: CSVs of a cohort: pairs to register, and the same pairs with their true motion in place of a registration.
PAIRS, TRUTH = "cohort.csv", "truth.csv"


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes
    ----------
    patients, healthy : int
        All people, and those of them who are healthy.
    severity : float
        Mean degree of the disease, 0 (none) to 1; see `simulation.patient`.
    test : int or None
        People who are left out of training; None for 13 of 41, as in Christodoulidis et al. 2018.
    data : str
        Real volumes to take the anatomy from: a CSV with the columns image and labels, or a folder of images/ and
        labels/; empty for phantoms.
    spacing : float
        Mean distance of voxels in mm.
    """

    patients: int = 41
    healthy: int = 12
    severity: float = 0.6
    test: int | None = None
    data: str = ""
    spacing: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 2 <= self.healthy <= self.patients - 2:
            problems.append(f"{self.healthy} healthy of {self.patients} patients: two at least are needed of each kind")
        if not 0 <= self.severity <= 1:
            problems.append(f"the severity lies between 0 and 1, not at {self.severity:g}")
        if self.test is not None and not 0 <= self.test < self.patients:
            problems.append(f"{self.test} of {self.patients} patients cannot be left out for the test")
        if not 1 <= self.spacing <= 10:
            problems.append(f"the spacing lies between 1 and 10 mm, not at {self.spacing:g}")
        if problems:
            raise InputError(listed("the simulation", problems))

    @property
    def held_out(self) -> int:
        """Number of people who are left out of training."""
        return round(self.patients * 13 / 41) if self.test is None else self.test

    @property
    def healthy_held_out(self) -> int:
        """Those of them who are healthy: in proportion."""
        return round(self.held_out * self.healthy / self.patients)

    @property
    def to_train(self) -> tuple[int, int]:
        """Numbers of healthy and of diseased people to train on."""
        healthy = self.healthy - self.healthy_held_out
        return healthy, self.patients - self.held_out - healthy


def simulate(asked: Simulation, folder: Path, progress: Callable[[float], None] | None = None) -> int:
    """Write a cohort: a folder for each case, `PAIRS` and `TRUTH`; returns the number of cases that were new.

    A case's folder holds inhale (fixed), exhale (moving), the lungs of both, the stiffness of the tissue where it is
    at inhale, and the true motion from inhale to exhale. Run again to go on where it stopped.

    Raises
    ------
    InputError
        If the data cannot be read.
    OutputError
        If the folder holds another simulation.
    """
    sources = _sources(Path(asked.data)) if asked.data else []
    _claim(asked, folder)
    # One stream for who is what, and one for each person: a cohort of another severity has the same people.
    shared, *own = np.random.default_rng(asked.seed).spawn(asked.patients + 1)
    sick = np.ones(asked.patients, bool)
    sick[shared.permutation(asked.patients)[: asked.healthy]] = False
    test = _stratified(sick, asked, shared)
    rows, made = [], 0
    for number, rng in enumerate(own):
        case = f"case_{number + 1:03d}"
        place = folder / "cases" / case
        if not place.exists():
            anatomy = _anatomy(*sources[number % len(sources)]) if sources else None
            anatomy = anatomy or simulation.phantom(int(rng.integers(2**31)))
            _write(simulation.patient(anatomy, asked.severity * sick[number], rng, asked.spacing), place)
            made += 1
        rows.append(
            {
                "case": case,
                "fixed": f"cases/{case}/inhale.nii.gz",
                "moving": f"cases/{case}/exhale.nii.gz",
                "fixed_labels": f"cases/{case}/inhale_lungs.nii.gz",
                "moving_labels": f"cases/{case}/exhale_lungs.nii.gz",
                "subject": case,
                "diagnosis": cohort.DIAGNOSES[int(sick[number])],
                "split": "test" if test[number] else "train",
                "transform": f"cases/{case}/motion.h5",
            }
        )
        if progress:
            progress((number + 1) / asked.patients)
    _table(folder / TRUTH, rows)
    _table(folder / PAIRS, [{key: value for key, value in row.items() if key != "transform"} for row in rows])
    return made


def _claim(asked: Simulation, folder: Path) -> None:
    """Make the folder this simulation's own."""
    path, told = folder / SETTINGS, json.dumps(asdict(asked), indent=2) + "\n"
    try:
        if path.is_file():
            if path.read_text(encoding="utf-8") != told:
                raise OutputError(f"{folder}: holds a simulation with other settings; name another folder")
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder}: is not empty; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(told, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check space and permissions") from None


def _stratified(sick: np.ndarray, asked: Simulation, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: who is left out, of both kinds in proportion."""
    test = np.zeros(len(sick), bool)
    for kind, n in ((False, asked.healthy_held_out), (True, asked.held_out - asked.healthy_held_out)):
        test[rng.permutation(np.flatnonzero(sick == kind))[:n]] = True
    return test


def _sources(data: Path) -> list[tuple[Path, Path | None]]:
    """Volumes and their lung labels, None where there are none."""
    if data.is_dir():
        images = sorted(p for p in (data / "images").glob("*") if p.name.lower().endswith(IMAGES))
        found = [(image, data / "labels" / image.name) for image in images]
        found = [(image, labels if labels.is_file() else None) for image, labels in found]
    else:
        found = list(_listed_sources(data))
    if not found:
        raise InputError(f"{data}: holds no volumes; give a CSV with columns image and labels, or a folder of images/")
    problems = [f"{path}: no such file" for pair in found for path in pair if path is not None and not path.is_file()]
    if problems:
        raise InputError(listed(data, problems))
    return found


def _listed_sources(data: Path) -> Iterator[tuple[Path, Path | None]]:
    for entry in read_table(data, ("image",), ("labels",)).values():
        labels = entry.get("labels")
        yield data.parent / entry["image"], data.parent / labels if labels else None


def _anatomy(image: Path, labels: Path | None) -> simulation.Anatomy:
    volume = files.read_image(image)
    values, grid = sitk.GetArrayFromImage(volume).astype(np.float32), files.grid_of(volume)
    if labels is None:
        return simulation.Anatomy(values, threshold.lungs(values, grid), grid)
    return simulation.Anatomy(values, sitk.GetArrayFromImage(files.read_labels(labels, volume, str(image))), grid)


def _write(patient: simulation.Patient, place: Path) -> None:
    images = {
        "inhale": np.rint(patient.inhale).astype(np.int16),
        "exhale": np.rint(patient.exhale).astype(np.int16),
        "inhale_lungs": patient.inhale_lungs.astype(np.uint8),
        "exhale_lungs": patient.exhale_lungs.astype(np.uint8),
        "stiffness": patient.stiffness.astype(np.float32),
    }
    with complete_or_nothing(place) as partial:
        for name, values in images.items():
            files.write_image(scalar_image(values, patient.grid), partial / f"{name}.nii.gz")
        files.write_transform(patient.motion.to_itk(), partial / "motion.h5")
        told = {"degree": patient.degree, "breath": asdict(patient.breath)}
        (partial / "truth.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
