"""How near a registration comes to simulated breaths, whose motion is known at each voxel, and slides at the pleura.

Errors in mm of the points of the inhale, in its lungs, in the body within 30 mm of them, and in the bones there, which
tell whether the lungs' motion is smeared into the chest wall; the correlation of the lungs' volume ratios with the true
ones, at single voxels and at the resolution at which the review tells them. Of a method that outlines the lungs itself,
ratios and folds are told where it does: its border is where tissue slides past tissue, and has no volume ratio. People
are kept in the output folder for the next time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from breaths import RUNS
from JointRegSegLib import files
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.lung.expansion import RESOLUTION, Expansion, derivative, unfolded
from JointRegSegLib.pipeline import register_and_segment
from JointRegSegLib.result import Registration
from JointRegSegLib.tables import read_table
from JointRegSegTrainingLib.classifier import simulate
from scipy.ndimage import distance_transform_edt
from trainings import Table

#: What counts as the lungs' surroundings: within so many mm of them, and denser than this in HU; and as bone.
NEAR, BODY, BONE = 30.0, -500, 150
FILES = ("fixed", "moving", "fixed_labels", "moving_labels", "transform")
COLUMNS = ("before", "lungs", "95 %", "wall", "95 %", "bones", "95 %", "r of J", "r smooth", "folded %", "sec")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--people", type=int, default=4, help="simulated, half of them healthy")
    parser.add_argument("--data", default="", help="CT volumes to simulate in, as of jointregseg simulate-cohort")
    parser.add_argument("--spacing", type=float, default=2.5)
    parser.add_argument("--severity", type=float, default=0.6)
    parser.add_argument("--methods", nargs="+", choices=RUNS, default=list(RUNS))
    given = parser.parse_args()
    people = given.output / "people"
    asked = simulate.Simulation(given.people, given.people // 2, given.severity, 0, given.data, given.spacing)
    simulate.simulate(asked, people)
    print(f"{'':<12}" + "".join(f"{name:>10}" for name in COLUMNS))
    found = {}
    for method in given.methods:
        options, slide = RUNS[method]
        print(method)
        found[method] = []
        for row in read_table(people / simulate.TRUTH, ("case", *FILES), ("subject", "diagnosis", "split")).values():
            place = {name: people / row[name] for name in FILES}
            organs = {f"{side}_organs": place[f"{side}_labels"] for side in ("fixed", "moving")} if slide else {}
            result = register_and_segment(place["fixed"], place["moving"], **options, **organs)
            found[method].append([*compared(place, result), result.report["seconds"]["total"]])
            print(f"{row['case']:<12}" + "".join(f"{value:>10.2f}" for value in found[method][-1]), flush=True)
    said = f"means over {given.people} simulated people, half of them healthy; errors and motion before in mm, of the "
    said += f"lungs, of the body within {NEAR:.0f} mm of them and of the bones there; seconds with all checks, on "
    said += f"{torch.get_num_threads()} CPU threads"
    lines = [[name, *(f"{x:.2f}" for x in np.mean(rows, 0))] for name, rows in found.items()]
    table = Table("Simulated breaths, whose motion is known", said, ["method", *COLUMNS], lines)
    table.tell(given.output / "figures.json", found)
    return 0


def compared(place: dict[str, Path], result: Registration) -> list[float]:
    """`COLUMNS` but the last."""
    found = result.deformation
    fixed = files.read_image(place["fixed"])
    grid, values = files.grid_of(fixed), sitk.GetArrayFromImage(fixed)
    lungs = sitk.GetArrayFromImage(files.read_labels(place["fixed_labels"], fixed, "inhale")) > 0
    near = distance_transform_edt(~lungs, grid.spacing[::-1]) < NEAR
    truth = Deformation.of_itk(files.read_transform(place["transform"]), grid)
    out = []
    for inside in (lungs, near & ~lungs & (values > BODY), near & ~lungs & (values > BONE)):
        points = grid.to_world(np.argwhere(inside)[:, ::-1])
        there = truth.to_moving(points)
        missed = np.linalg.norm(found.to_moving(points) - there, axis=1)
        out += [np.linalg.norm(points - there, axis=1).mean()] if inside is lungs else []
        out += [missed.mean(), np.percentile(missed, 95)]
    own = found.on(grid)
    if result.fixed_segmentation is not None:
        lungs &= sitk.GetArrayFromImage(result.fixed_segmentation) > 0
    folded = np.linalg.det(derivative(own, torch.from_numpy(lungs))) <= 0
    # Where tissue slides past tissue there may be no volume ratio, of the truth either.
    mask = torch.from_numpy(unfolded(truth, unfolded(own, unfolded(truth, lungs))))
    known = Expansion.of(truth, mask, True).volume_ratio
    for resolution in (0.0, RESOLUTION):
        out.append(np.corrcoef(Expansion.of(own, mask, True, resolution).volume_ratio, known)[0, 1])
    return [*out, 100 * folded.mean()]


if __name__ == "__main__":
    sys.exit(main())
