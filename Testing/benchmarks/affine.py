"""What the affine part adds to the linear + deformable network: Table 1 of Christodoulidis et al. 2018.

The network of configuration lung-breathing is trained with its affine part and without, with the same steps, seed and
people, as in the first stage of the shipped model: in one look, on a coarse lattice, which its receptive field spans.
The published training (lung-published) compares brightness alone, which on so few people of two modalities ends in
deformations that leave nothing to be compared. There are too few people for a split, so that each of those whose lungs
were drawn is left out once. Pairs are those of the one left out: inhale and exhale, or with each of the others, in both
directions. p is that of Wilcoxon's signed-rank test, one-sided, in which a person counts once. Trainings go on where
they were when this is called again.
"""

from __future__ import annotations

import argparse
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

CONFIG = "lung-breathing"
#: The coarse stage of the shipped model's training; more of the pairs are real ones, of two people as well.
COARSE = (
    *("preprocessing.size=[48,36,44]", "preprocessing.spacing=[8,8,8]", "arguments.passes=1", "breaths.simulated=0.4"),
    *("augmentation.translation=2", "augmentation.own_translation=6", "augmentation.elastic=0.5"),
)
WITHOUT, WITH = "without affine part", "with affine part"
#: Changes of each training.
TRAININGS = {WITHOUT: ("arguments.linear=false",), WITH: ()}
KINDS = ("inhale and exhale", "different people")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of jointregseg train")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="stop then; call again to go on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trainings")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "lung"
    if not source.is_dir():
        print(f"affine: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    rows = lung_cohort.everybody(source, arguments.output)
    trainings = Trainings(CONFIG, (*COARSE, *arguments.set), arguments.max_minutes)
    # Of all trainings alike: images and lattice do not depend on who is left out.
    made = plan.from_entries(plan.read_entries(plan.find(CONFIG), trainings.changes), CONFIG)
    names = drawn(rows)
    people = subjects.load([row for row in rows if row.subject in names], made)
    found: dict[str, Figures] = {name: [] for name in TRAININGS}
    try:
        for person in names:
            table = arguments.output / person / "cohort.csv"
            cohort.write(table, without(person, rows))
            for name, changes in TRAININGS.items():
                run = trainings.train(table.parent / name, table, arguments.steps, changes)
                found[name] += figures(load_run(run)[2], people, person, made)
    except OutOfTime:
        print("affine: the time is up; call it again to go on", file=sys.stderr)
        return 0
    tabled(found).tell(arguments.output / "figures.json", found)
    return 0


def drawn(rows: list[cohort.Row]) -> list[str]:
    """Real people whose lungs were drawn."""
    return list(dict.fromkeys(row.subject for row in rows if row.labels and not lung_cohort.is_phantom(row.subject)))


def without(person: str, rows: list[cohort.Row]) -> list[cohort.Row]:
    """The cohort with that person, and nobody else, to test on; phantoms are validated on as before."""
    splits = {row.subject: "validation" if row.split == "validation" else "train" for row in rows} | {person: "test"}
    return [replace(row, split=splits[row.subject]) for row in rows]


@torch.inference_mode()
def figures(network: RegistrationNetwork, people: list[Subject], person: str, made: plan.Plan) -> Figures:
    """Dice of the lungs, by `COLUMNS`, of each pair of images one of which is that person's.

    ``fixed`` is the person left out, whichever image is hers, for a person counts once.
    """
    out = []
    for moving in people:
        for fixed in people:
            if moving is fixed or person not in (moving.owner, fixed.owner):
                continue
            values = overlaps(network(moving.image, fixed.image), moving, fixed, made)
            if values is not None:
                kind = KINDS[moving.owner != fixed.owner]
                out.append({"fixed": person, "kind": kind, **dict(zip(COLUMNS, values, strict=True))})
    return out


def tabled(found: dict[str, Figures]) -> Table:
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
    said = "Dice of the lungs in %, mean and deviation over pairs; each person is left out of trainings of their own; "
    said += "gain, the mean over people, and p, a person counting once, beside the network without"
    columns = ["pairs of", "training", "people left out", "pairs", "before", "affine", "deformable", "both"]
    return Table("What the affine part adds: real lungs", said, [*columns, "gain", "p"], lines)


if __name__ == "__main__":
    sys.exit(main())
