"""The pairs that each system is measured on: people who were not trained on, prepared as its paper has them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid, resample
from JointRegSegTrainingLib import plan
from JointRegSegTrainingLib.subjects import middle_of, relabeled


@dataclass(frozen=True)
class Cohort:
    """Data of one system.

    Attributes
    ----------
    folder : str
        Of images/ and labels/ within the data.
    models : tuple of str
        Bundles to measure, the best one first; its ``held_out`` names the people.
    configuration : str
        Whose labels count, and on whose middle a volume is centered.
    size, step : tuple of int
        Voxels of the prepared volumes along i, j, k, and how many voxels of the original lie between them.
    """

    folder: str
    models: tuple[str, ...]
    configuration: str
    size: tuple[int, int, int]
    step: tuple[int, int, int]

    @property
    def plan(self) -> plan.Plan:
        """The configuration's plan."""
        path = plan.find(self.configuration)
        return plan.from_entries(plan.read_entries(path), str(path))

    @property
    def labels(self) -> tuple[int, ...]:
        """Values in the prepared label maps."""
        return self.plan.values


COHORTS = {
    "hippocampus": Cohort("hippocampus", ("symmetric-hippocampus",), "symmetric-hippocampus", (64, 64, 64), (1, 1, 1)),
    "brain": Cohort("brain", ("uresnet-brain",), "uresnet-brain", (160, 208, 176), (1, 1, 1)),
    "heart": Cohort("cardiac", ("svfnet-heart",), "svfnet-heart", (64, 64, 16), (2, 2, 1)),
}


def prepare(cohort: Cohort, source: Path, folder: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write centered volumes, labels with the plan's values, and the table of pairs (moving, fixed)."""
    made, known = folder / "prepared", cohort.plan
    for name in {name for pair in pairs for name in pair}:
        image, grid = files.to_tensor(files.read_image(source / "images" / f"{name}.nii.gz"))
        drawn, _ = files.to_tensor(files.read_image(source / "labels" / f"{name}.nii.gz", labels=True))
        labels = relabeled(drawn, known, source / "labels" / name)
        spacing = grid.spacing * cohort.step
        target = Grid.centered(middle_of(known, image, labels, grid), cohort.size, spacing, grid.direction).snapped(
            grid
        )
        for kind, values, mode in (("images", image, "bilinear"), ("labels", labels, "nearest")):
            (made / kind).mkdir(parents=True, exist_ok=True)
            # Everybody's first voxel, and so the middle too, lies at the same point, as in the challenges.
            out = scalar_image(resample(values, grid, target, mode=mode, fill=float(values.min())), target)
            out.SetOrigin([0, 0, 0])
            out = sitk.Cast(out, sitk.sitkUInt8) if kind == "labels" else out
            files.write_image(out, made / kind / f"{name}.nii.gz")
    table = folder / "pairs.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "fixed", "moving", "fixed_labels", "moving_labels"])
        for moving, fixed in pairs:
            paths = [(made / kind / f"{n}.nii.gz").resolve() for kind in ("images", "labels") for n in (fixed, moving)]
            writer.writerow([f"{moving}-to-{fixed}", *paths])
    return table


def read(table: Path) -> Iterator[dict[str, str]]:
    """Rows of a table of pairs."""
    with table.open(newline="") as stream:
        yield from csv.DictReader(stream)
