"""What each part of the symmetric network's training adds: Table 1 of Estienne et al. 2020, for the hippocampus.

The published network (configuration symmetric-hippocampus-published) is trained in one direction, then in both; then it
begins with the weights of a pretraining on hippocampi that were cut out of whole brains, of which the label of the
whole hippocampus is known; and then on the same with noisy labels of its parts, by a network that learned to segment
from the training people. All trainings have as many steps and the same seed, and go on where they were when this is
called again. Figures are those of pairs of people who were left out altogether; p is that of Wilcoxon's signed-rank
test against the line above, in which a person counts once, corrected after Holm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import files, metrics
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid, resample
from JointRegSegTrainingLib import cohort
from per_person import LEVEL, each, holm, signed_rank
from trainings import Figures, OutOfTime, Table, Trainings, bundle, call, cohort_of, figures, parser

BASELINE, SYMMETRY, PRETRAINING, NOISY = "baseline", "+ symmetry", "+ pretraining", "+ noisy labels"
CONFIG = "symmetric-hippocampus-published"
#: Values of right and left hippocampus in the brains' labels, and size in mm of what is cut out, along L, P and S.
RIGHT, LEFT = 47, 48
CROP = (44, 60, 44)
#: Of the pretraining: one label, which both parts belong to where they are told apart.
WHOLE = 'labels=[{value: 1, name: hippocampus, color: "#e8a33d", sources: [1, 2]}]'
#: Of the network that gives noisy labels.
SEGMENTING = (
    "arguments={warping: false, joint: false, velocity: false, passes: 1}",
    "weights={similarity: 0, overlap: 0, gradient: 0, inverse: 0, smoothness: 0, folding: 0, segmentation: 1}",
)


def main() -> int:
    options = parser(__doc__, 4000, "of each training")
    options.add_argument("--max-minutes", type=float, default=float("inf"), help="stop then; call again to go on")
    arguments = options.parse_args()
    for name in ("hippocampus", "brain"):
        if not (source := Path(arguments.data) / name).is_dir():
            print(f"ablation: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
            return 2
    try:
        found = {name: figures(run, arguments.pairs) for name, run in trained(arguments)}
    except OutOfTime:
        print("ablation: the time is up; call it again to go on", file=sys.stderr)
        return 0
    table(found).tell(arguments.output / "figures.json", found)
    return 0


def trained(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Name and run of each line of the table."""
    folder, data, steps = arguments.output, Path(arguments.data), arguments.steps
    people, crops, noisy = folder / "cohort.csv", folder / "crops.csv", folder / "noisy.csv"
    folder.mkdir(parents=True, exist_ok=True)
    cohort_of(data / "hippocampus", people, arguments.validation, arguments.test)
    if not crops.exists():
        with_training(people, cut_out(data / "brain", folder / "crops"), crops)
    trainings = Trainings(CONFIG, arguments.set, arguments.max_minutes)
    yield BASELINE, trainings.train(folder / "baseline", people, steps, ("both_ways=false",))
    yield SYMMETRY, trainings.train(folder / "symmetry", people, steps)
    first = trainings.train(folder / "first", crops, steps, (WHOLE,))
    yield PRETRAINING, trainings.train(folder / "pretraining", people, steps, (), bundle(first))
    segmenting = Trainings(CONFIG, (*SEGMENTING, *arguments.set), trainings.left)
    model = bundle(segmenting.train(folder / "segmenting", people, steps))
    if not noisy.exists():
        bare = [replace(row, labels=None) for row in cohort.read(crops) if row.split == "train"]
        cohort.write(folder / "unlabeled.csv", bare)
        call("pseudo-label", "--model", model, "--cohort", folder / "unlabeled.csv", "--output", folder / "noisy")
        with_training(people, cohort.read(folder / "noisy" / "cohort.csv"), noisy)
    first = trainings.train(folder / "first noisy", noisy, steps)
    yield NOISY, trainings.train(folder / "noisy labels", people, steps, (), bundle(first))


def cut_out(source: Path, folder: Path) -> list[cohort.Row]:
    """Both hippocampi of each brain, with their whole as label 1.

    Right ones are mirrored: by their headers the other crops show left ones.
    """
    rows = []
    for path in sorted((source / "images").glob("*.nii.gz")):
        image, grid = files.to_tensor(files.read_image(path))
        labels, _ = files.to_tensor(files.read_image(source / "labels" / path.name, labels=True))
        for value, side in ((RIGHT, "right"), (LEFT, "left")):
            name = f"{cohort.stem(path)}_{side}"
            place = (labels[0, 0] == value).nonzero().numpy()
            middle = grid.to_world((place.min(0) + place.max(0))[::-1] / 2)
            target = Grid.centered(middle, CROP, (1, 1, 1), np.diag([-1.0, -1, 1]))  # RAS, as the other crops
            paths = {}
            for kind, values, mode in (("images", image, "bilinear"), ("labels", (labels == value).float(), "nearest")):
                cut = resample(values, grid, target, mode=mode, fill=float(values.min()))[0, 0].numpy()
                out = scalar_image(cut[..., ::-1].copy() if value == RIGHT else cut, target)
                out = sitk.Cast(out, sitk.sitkUInt8) if kind == "labels" else out
                paths[kind] = folder / kind / f"{name}.nii.gz"
                paths[kind].parent.mkdir(parents=True, exist_ok=True)
                files.write_image(out, paths[kind])
            rows.append(cohort.Row(paths["images"], paths["labels"], cohort.stem(path), "train"))
    return rows


def with_training(people: Path, rows: list[cohort.Row], path: Path) -> None:
    """A cohort that is trained on ``rows``, and validated and tested as the one of ``people``."""
    cohort.write(path, [*rows, *(row for row in cohort.read(people) if row.split != "train")])


def table(found: dict[str, Figures]) -> Table:
    """Mean figures of each line, beside the one above."""
    steps = list(zip(list(found), list(found)[1:], strict=False))
    values = {name: np.array([row["dice"] for row in rows]) for name, rows in found.items()}
    tests = {name: signed_rank(*(each(found[n], "dice") for n in (name, before))) for before, name in steps}
    corrected = holm(tests)
    before = np.array([row["before"] for row in next(iter(found.values()))])
    lines = [["unregistered", f"{before.mean():.3f}", f"{metrics.hardest_mean(before, before):.3f}", *5 * [""]]]
    last = None
    for name, rows in found.items():
        mean = {key: float(np.mean([row[key] for row in rows])) for key in ("hd95", "spread", "folded")}
        line = [name, f"{values[name].mean():.3f}", f"{metrics.hardest_mean(values[name], before):.3f}"]
        line += [f"{mean['hd95']:.2f}", f"{mean['spread']:.3f}", f"{100 * mean['folded']:.4f}"]
        gained = "" if last is None else f"{(values[name] - values[last]).mean():+.3f}"
        lines.append([*line, gained, "" if last is None else f"{corrected[name]:.2g}"])
        last = name
    count = len({row["fixed"] for row in next(iter(found.values()))})
    said = f"{len(before)} pairs of {count} people who were left out; gain and p, a person counting once, beside the "
    said += "line above"
    if useless := [name for name, p in corrected.items() if p > LEVEL]:
        said += f"; no gain or loss that can be told from chance: {', '.join(useless)}"
    return Table(
        "What each part of the symmetric network's training adds: hippocampus",
        said,
        ["training", "Dice", "Dice30", "HD95, voxels", "spread of log J", "folded, %", "gain", "p"],
        lines,
    )


if __name__ == "__main__":
    sys.exit(main())
