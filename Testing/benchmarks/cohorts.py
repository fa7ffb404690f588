"""The pairs that each system is measured on: people who were not trained on, prepared as its paper has them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from JointRegSegLib import catalog, files, models
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid, resample
from JointRegSegTrainingLib import plan
from JointRegSegTrainingLib.cohort import random_pairs
from JointRegSegTrainingLib.subjects import middle_of, relabeled


@dataclass(frozen=True)
class Cohort:
    """Data of one system.

    Attributes
    ----------
    folder : str
        Of the images and labels within the data.
    names : tuple of str
        Models to measure, where they are installed; also what is called like one of them with a hyphen and more, as the
        network of a paper beside the one that ships. ``held_out`` of all of them names the people.
    configuration : str
        Whose labels count, and on whose middle a volume is centered.
    size, step : tuple of int
        Voxels of the prepared volumes along i, j, k, and how many voxels of the original lie between them.
    files : tuple of str
        Where a person's image and labels lie in ``folder``.
    pairs : tuple
        Names (moving, fixed), where they are not random ones of the people held out.
    drawn : tuple of int
        Values of the plan's labels that were drawn, all if empty.
    """

    folder: str
    names: tuple[str, ...]
    configuration: str
    size: tuple[int, int, int]
    step: tuple[int, int, int] = (1, 1, 1)
    files: tuple[str, str] = ("images/{}.nii.gz", "labels/{}.nii.gz")
    pairs: tuple[tuple[str, str], ...] = ()
    drawn: tuple[int, ...] = ()

    @property
    def plan(self) -> plan.Plan:
        """The configuration's plan."""
        path = plan.find(self.configuration)
        return plan.from_entries(plan.read_entries(path), str(path))

    @property
    def labels(self) -> tuple[int, ...]:
        """Values in the prepared label maps."""
        return self.drawn or self.plan.values

    @property
    def models(self) -> list[str]:
        """Those of ``names`` that are installed, and their relatives."""
        there = [entry["name"] for entry in catalog.entries()]
        return [name for own in self.names for name in there if name == own or name.startswith(f"{own}-")]

    def chosen(self, count: int) -> tuple[list[tuple[str, str]], int]:
        """Pairs (moving, fixed), ``count`` at most, and the number of people they are of, whom no model has seen."""
        seen_by_none = set.intersection(*(set(models.find(m).manifest["training"]["held_out"]) for m in self.models))
        if self.pairs:
            return list(self.pairs)[:count], 1
        return random_pairs(sorted(seen_by_none), count, seed=1), len(seen_by_none)


COHORTS = {
    "hippocampus": Cohort("hippocampus", ("symmetric-hippocampus",), "symmetric-hippocampus", (64, 64, 64)),
    "brain": Cohort("brain", ("uresnet-brain", "deepatlas-brain"), "uresnet-brain", (160, 208, 176)),
    "heart": Cohort("cardiac", ("svfnet-heart",), "svfnet-heart", (64, 64, 16), (2, 2, 1)),
    # The one person of the data with both breaths whom `lung-breathing` is not trained on; of them one lung is drawn.
    "lung": Cohort(
        *("lung/ct_4d", ("lung-breathing",), "lung-breathing", (128, 128, 128), (2, 2, 1)),
        files=("{}.nii.gz", "{}_rightlung.nii.gz"),
        pairs=(("exhale", "inhale"), ("inhale", "exhale")),
        drawn=(1,),
    ),
}


def prepare(cohort: Cohort, source: Path, folder: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write centered volumes, labels with the plan's values, and the table of pairs (moving, fixed)."""
    made, known = folder / "prepared", cohort.plan
    for name in {name for pair in pairs for name in pair}:
        paths = [source / place.format(name) for place in cohort.files]
        image, grid = files.to_tensor(files.read_image(paths[0]))
        labels = relabeled(files.to_tensor(files.read_image(paths[1], labels=True))[0], known, paths[1])
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
