"""Table 1 of Christodoulidis et al. 2018 on the real lungs of the cohort: Dice of the lungs with each part of the map.

Every pair of images with a lung labeled in both, on the working lattice: where they lie, with the affine part alone,
with the deformation alone, and with both, as one network gives them, which is not trained anew without; and how well it
segments the fixed image. Pairs of one person are inhale and exhale. "Held out" are pairs of people whom the model was
not trained on, by its own list, and "one held out" those of such a person with another. The cohort is the one that
lung_cohort.py writes. affine.py trains networks with an affine part and without.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import lung_cohort
import numpy as np
import torch
from JointRegSegLib import fields, metrics, models
from JointRegSegLib.networks import Prediction
from JointRegSegTrainingLib import cohort, plan, subjects
from JointRegSegTrainingLib.subjects import Subject
from trainings import Table

COLUMNS = ("before", "affine", "deformable", "both", "segmentation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, help="cohort.csv of lung_cohort.py")
    parser.add_argument("--model", nargs="+", default=["lung-breathing"], help="bundles, by name or folder")
    parser.add_argument("--each", action="store_true", help="a line for each pair")
    parser.add_argument("--output", type=Path, help="keep figures.json in this folder, for document.py")
    arguments = parser.parse_args()
    source = plan.find("lung-breathing")
    made = plan.from_entries(plan.read_entries(source), str(source))
    rows = [row for row in cohort.read(arguments.cohort) if row.labels and not lung_cohort.is_phantom(row.subject)]
    people = subjects.load(rows, made, arguments.cohort)
    lines, seconds = [], []
    for name in arguments.model:
        bundle = models.find(name)
        found, took = measure(bundle, people, made, arguments.each)
        lines += [[bundle.name, *line] for line in found]
        seconds.append(f"{bundle.name} {took:.2f} s")
    alone = f"the network alone takes, on {torch.get_num_threads()} CPU threads, {', '.join(seconds)} a pair"
    said = f"Dice of the lungs in %, mean and deviation over pairs, with the parts of one network's map; {alone}"
    columns = ["network", "pairs of", "people", "pairs", *COLUMNS]
    table = Table("Affine and deformable part: real lungs", said, columns, lines)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
    table.tell(arguments.output and arguments.output / "figures.json")
    return 0


@torch.inference_mode()
def measure(bundle: models.Bundle, people: list[Subject], made: plan.Plan, each: bool) -> tuple[list[list[str]], float]:
    """Lines of the table for a model, and the median of its seconds for a pair."""
    network, held_out = models.load(bundle), bundle.manifest["training"]["held_out"]
    groups: dict[tuple[str, str], list[list[float]]] = {}
    seconds = []
    for moving, fixed in itertools.permutations(people, 2):
        began = time.perf_counter()
        answer = network(moving.image, fixed.image)
        seconds.append(time.perf_counter() - began)
        kind = "inhale and exhale" if moving.owner == fixed.owner else "different people"
        seen = ("trained on", "one held out", "held out")[sum(s.name in held_out for s in (moving, fixed))]
        row = overlaps(answer, moving, fixed, made)
        if row is not None:
            groups.setdefault((kind, seen), []).append(row)
            if each:
                print(f"{moving.name:>20} to {fixed.name:<20}" + "".join(f"{100 * x:8.2f}" for x in row))
    lines = []
    for (kind, seen), found in sorted(groups.items()):
        figures = zip(np.nanmean(found, 0), np.nanstd(found, 0), strict=True)
        cells = ["" if np.isnan(m) else f"{100 * m:.2f} ± {100 * s:.2f}" for m, s in figures]
        lines.append([kind, seen, str(len(found)), *cells])
    return lines, float(np.median(seconds))


def overlaps(answer: Prediction, moving: Subject, fixed: Subject, made: plan.Plan) -> list[float] | None:
    """Dice of `COLUMNS`, of all lungs together that were annotated in both images; None if there are none."""
    both = [v for v, a, b in zip(made.values, moving.known, fixed.known, strict=True) if a and b]
    if not both:
        return None
    still = torch.zeros_like(answer.forward)
    linear = fields.then_affine(still, answer.affine)
    truth = np.isin(fixed.labels[0, 0].numpy(), both)
    out = []
    for displacement in (still, linear, answer.forward, answer.there):
        carried = fields.warp(moving.labels, displacement, "nearest")[0, 0].numpy()
        out.append(metrics.dice(np.isin(carried, both), truth, [1])[1])
    if answer.fixed_segmentation is None:
        return [*out, np.nan]
    found = np.array([0, *made.values])[answer.fixed_segmentation.argmax(1)[0].numpy()]
    return [*out, metrics.dice(np.isin(found, both), truth, [1])[1]]


if __name__ == "__main__":
    sys.exit(main())
