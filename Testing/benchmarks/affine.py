"""What the affine part adds to the linear + deformable network: Table 1 of Christodoulidis et al. 2018.

A network is trained with its affine part and without, with the same steps, seed and people. Pairs are those of people
left out: inhale and exhale, or of different ones. p is that of Wilcoxon's signed-rank test, one-sided, in which a
person counts once. Trainings go on where they were when this is called again.

Of the real lungs of the cohort there are too few for a split, so that each person whose lungs were drawn is left out
once. The published training (lung-published) compares brightness alone, which on so few people of two modalities ends
in deformations that leave nothing to be compared: theirs is that of lung-breathing in its coarse stage, in one look.
With ``--simulated N`` the published network is trained as published, on people made of formulas.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

import lung_cohort
import numpy as np
import torch
from JointRegSegLib.networks import RegistrationNetwork
from JointRegSegTrainingLib import cohort, plan, subjects
from JointRegSegTrainingLib.runs import load_run
from JointRegSegTrainingLib.subjects import Subject
from linear_deformable import COLUMNS, overlaps
from per_person import each, signed_rank
from trainings import Figures, OutOfTime, Table, Trainings

#: Configuration and changes for real lungs: more of the pairs are real ones, of two people as well.
COARSE = (
    "lung-breathing",
    *("preprocessing.size=[48,36,44]", "preprocessing.spacing=[8,8,8]", "arguments.passes=1", "breaths.simulated=0.4"),
    *("augmentation.translation=2", "augmentation.own_translation=6", "augmentation.elastic=0.5"),
)
#: And for people made of formulas: voxels of 12 mm, over which 25³ of them see a whole chest.
PUBLISHED = ("lung-published", "preprocessing.size=[32,24,30]", "preprocessing.spacing=[12,12,12]")
WITHOUT, WITH = "without affine part", "with affine part"
#: Changes of each training.
TRAININGS = {WITHOUT: ("arguments.linear=false",), WITH: ()}
KINDS = ("inhale and exhale", "different people")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--simulated", type=int, metavar="N", help="people made of formulas; a third is left out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of jointregseg train")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="stop then; call again to go on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trainings")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "lung"
    if not arguments.simulated and not source.is_dir():
        print(f"affine: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    if arguments.simulated:
        rows = simulated(arguments.output, arguments.simulated)
        names = list(dict.fromkeys(row.subject for row in rows if row.split == "test"))
        folds = {"split": (rows, names)}
    else:
        rows = lung_cohort.everybody(source, arguments.output)
        names = drawn(rows)
        folds = {person: (without(person, rows), [person]) for person in names}
    config, *changes = PUBLISHED if arguments.simulated else COARSE
    trainings = Trainings(config, (*changes, *arguments.set), arguments.max_minutes)
    # Of all trainings alike: images and lattice do not depend on who is left out.
    made = plan.from_entries(plan.read_entries(plan.find(config), trainings.changes), config)
    people = subjects.load([row for row in rows if row.subject in names], made)
    found: dict[str, Figures] = {name: [] for name in TRAININGS}
    try:
        for place, (table, left_out) in folds.items():
            cohort.write(arguments.output / place / "cohort.csv", table)
            for name, own in TRAININGS.items():
                folder = arguments.output / place
                run = trainings.train(folder / name, folder / "cohort.csv", arguments.steps, own)
                found[name] += figures(load_run(run)[2], people, left_out, made)
    except OutOfTime:
        print("affine: the time is up; call it again to go on", file=sys.stderr)
        return 0
    kind = "simulated lungs, as published" if arguments.simulated else "real lungs"
    tabled(found, kind).tell(arguments.output / "figures.json", found)
    return 0


def simulated(folder: Path, count: int) -> list[cohort.Row]:
    """A cohort of so many people made of formulas, a third of them to test on."""
    rows = lung_cohort.phantoms(folder, count)
    tested = list(dict.fromkeys(row.subject for row in rows))[: count // 3]
    return [replace(row, split="test") if row.subject in tested else row for row in rows]


def drawn(rows: list[cohort.Row]) -> list[str]:
    """Real people whose lungs were drawn."""
    return list(dict.fromkeys(row.subject for row in rows if row.labels and not lung_cohort.is_phantom(row.subject)))


def without(person: str, rows: list[cohort.Row]) -> list[cohort.Row]:
    """The cohort with that person, and nobody else, to test on; phantoms are validated on as before."""
    splits = {row.subject: "validation" if row.split == "validation" else "train" for row in rows} | {person: "test"}
    return [replace(row, split=splits[row.subject]) for row in rows]


@torch.inference_mode()
def figures(network: RegistrationNetwork, people: list[Subject], left_out: list[str], made: plan.Plan) -> Figures:
    """Dice of the lungs, by `COLUMNS`, of each pair of images one of which at least is of somebody left out.

    ``fixed`` is the person left out, whichever image is theirs, for a person counts once.
    """
    out = []
    for moving, fixed in itertools.permutations(people, 2):
        person = next((owner for owner in (fixed.owner, moving.owner) if owner in left_out), None)
        if person is None:
            continue
        values = overlaps(network(moving.image, fixed.image), moving, fixed, made)
        if values is not None:
            kind = KINDS[moving.owner != fixed.owner]
            out.append({"fixed": person, "kind": kind, **dict(zip(COLUMNS, values, strict=True))})
    return out


def tabled(found: dict[str, Figures], lungs: str) -> Table:
    """Mean Dice of each kind of pairs, with the affine part beside without."""
    lines = []
    for kind in KINDS:
        chosen = {name: [row for row in rows if row["kind"] == kind] for name, rows in found.items()}
        for name, rows in chosen.items():
            values = {key: 100 * np.array([row[key] for row in rows]) for key in COLUMNS[:4]}
            parts = COLUMNS[:4] if name == WITH else ("before", "both")
            cells = [f"{values[k].mean():.2f} ± {values[k].std():.2f}" if k in parts else "" for k in COLUMNS[:4]]
            gained = ["", ""]
            if name == WITH:
                own, others = (each(chosen[n], "both") for n in (WITH, WITHOUT))
                gained = [f"{100 * (own - others).mean():+.2f}", f"{signed_rank(own, others, 'greater'):.2g}"]
            people = len({row["fixed"] for row in rows})
            lines.append([kind, name, str(people), str(len(rows)), *cells, *gained])
    said = "Dice of the lungs in %, mean and deviation over pairs of people who were left out of the trainings; "
    said += "gain, the mean over people, and p, a person counting once, beside the network without"
    columns = ["pairs of", "training", "people left out", "pairs", "before", "affine", "deformable", "both"]
    return Table(f"What the affine part adds: {lungs}", said, [*columns, "gain", "p"], lines)


if __name__ == "__main__":
    sys.exit(main())
