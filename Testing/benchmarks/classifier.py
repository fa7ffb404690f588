"""What the classifier of lung disease is worth on simulated cohorts of the paper's size, by how severe the disease is.

The area under the curve has to rise with severity, and to hold 0.5 within its interval where there is no disease and
where diagnoses are shuffled; the occlusion map has to be higher where tissue is stiff. Cohorts and registrations are
kept in the output folder for the next time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import files
from JointRegSegTrainingLib.classifier import cohort, prepare, simulate, training
from JointRegSegTrainingLib.classifier.networks import Schedule


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--severities", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9])
    parser.add_argument("--motion", choices=("true", "registered"), default="true", help="what the classifier is given")
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=1, help="cohorts of each severity")
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--network-permutations", type=int, default=5)
    given = parser.parse_args()
    table = simulate.TRUTH if given.motion == "true" else simulate.PAIRS
    settings = {"permutations": given.permutations, "network_permutations": given.network_permutations}
    print(f"41 people, 12 healthy; 28 to train on, 13 held out; {given.motion} motion; AUC with 95 % score interval\n")
    print(f"{'severity':<10}{'':<12}{'cross-validated':<22}{'held out':<22}{'shuffled diagnoses':<22}p")
    for severity in given.severities:
        for seed in range(given.seeds):
            asked = simulate.Simulation(severity=severity, spacing=given.spacing, seed=seed)
            folder = given.output / f"severity_{severity:g}_{seed}"
            simulate.simulate(asked, folder)
            pairs = cohort.read(folder / table)
            own = training.Settings(schedule=Schedule(seed=seed), **settings)
            trained = training.train_classifier(pairs, folder / given.motion, own)
            for who in ("network", "baseline"):
                show(severity if who == "network" else "", who, trained.figures)
            if severity:
                occluded(trained, pairs, folder, given.motion)
    return 0


def show(severity: float | str, who: str, found: dict) -> None:
    """A line of the table."""
    cells = []
    for part in ("cross_validation", "test"):
        entry = found[part][who]["auc"]
        low, high = entry["score"]
        cells.append(f"{entry['value']:.2f} ({low:.2f} to {high:.2f})")
    shuffled = found["permutation"][who]
    if shuffled["count"]:
        low, high = np.quantile(shuffled["aucs"], (0.025, 0.975))
        cells.append(f"{np.mean(shuffled['aucs']):.2f} ({low:.2f} to {high:.2f})")
        cells.append(f"{shuffled['p']:.3f} of {shuffled['count']}")
    print(f"{severity!s:<10}{who:<12}" + "".join(f"{cell:<22}" for cell in cells), flush=True)


def occluded(trained: training.Trained, pairs: list[cohort.Pair], folder: Path, motion: str) -> None:
    """Mean occlusion of those diseased and held out, where their tissue is stiff and elsewhere in the lungs."""
    rows = []
    transforms, _ = prepare.register(pairs, folder / motion / "registrations", "generic", "auto")
    for pair in pairs:
        if pair.split == "test" and pair.diseased:
            lungs = prepare.measured(pair, transforms[pair.case][0])
            stiffness = sitk.GetArrayFromImage(files.read_image(folder / "cases" / pair.case / "stiffness.nii.gz"))
            stiff = stiffness[lungs.lungs] > 0.5 * stiffness.max()
            found = trained.classifier.answer(lungs).map
            rows.append((found[stiff].mean(), found[~stiff].mean()))
    inside, elsewhere = np.array(rows).T
    print(
        f"{'':<10}occlusion   {inside.mean():+.4f} in stiff tissue, {elsewhere.mean():+.4f} elsewhere; higher there in "
        f"{(inside > elsewhere).sum()} of {len(rows)} people",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
