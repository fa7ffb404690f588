"""ANTs SyN on the pairs of a CSV. Runs in an environment of its own (antspyx), so it imports nothing of the project.

Writes OUTPUT/CASE/displacement.nii.gz, affine part included, warped_labels.nii.gz where the moving image has labels,
and OUTPUT/seconds.csv.
"""

import argparse
import csv
import time
from pathlib import Path

import ants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, metavar="PAIRS.csv", help="columns case, fixed, moving, moving_labels")
    parser.add_argument("folder", type=Path, metavar="OUTPUT")
    arguments = parser.parse_args()
    table, folder = arguments.table, arguments.folder
    with table.open(newline="") as stream:
        pairs = list(csv.DictReader(stream))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "seconds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "seconds"])
        for pair in pairs:
            fixed, moving = (ants.image_read(pair[key]) for key in ("fixed", "moving"))
            began = time.perf_counter()
            found = ants.registration(fixed, moving, "SyN", random_seed=0)["fwdtransforms"]
            seconds = time.perf_counter() - began
            out = folder / pair["case"]
            out.mkdir(exist_ok=True)
            if pair["moving_labels"]:
                labels = ants.image_read(pair["moving_labels"])
                carried = ants.apply_transforms(fixed, labels, found, interpolator="nearestNeighbor")
                ants.image_write(carried, str(out / "warped_labels.nii.gz"))
            whole = ants.apply_transforms(fixed, moving, found, compose=str(out / "whole"))
            Path(whole).rename(out / "displacement.nii.gz")
            writer.writerow([pair["case"], f"{seconds:.3f}"])
            stream.flush()


if __name__ == "__main__":
    main()
