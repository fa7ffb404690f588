"""ANTs SyN on the pairs of a CSV. Runs in an environment of its own (antspyx), so it imports nothing of the project.

Usage: ants_syn.py PAIRS.csv OUTPUT. Writes OUTPUT/CASE/warped_labels.nii.gz and OUTPUT/seconds.csv.
"""

import csv
import shutil
import sys
import time
from pathlib import Path

import ants


def main() -> None:
    table, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with table.open(newline="") as stream:
        pairs = list(csv.DictReader(stream))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "seconds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "seconds", "displacement"])
        for pair in pairs:
            fixed, moving, labels = (ants.image_read(pair[key]) for key in ("fixed", "moving", "moving_labels"))
            began = time.perf_counter()
            found = ants.registration(fixed, moving, "SyN", random_seed=0)
            seconds = time.perf_counter() - began
            carried = ants.apply_transforms(fixed, labels, found["fwdtransforms"], interpolator="nearestNeighbor")
            out = folder / pair["case"]
            out.mkdir(exist_ok=True)
            ants.image_write(carried, str(out / "warped_labels.nii.gz"))
            warp = next(name for name in found["fwdtransforms"] if name.endswith("Warp.nii.gz"))
            shutil.copy(warp, out / "displacement.nii.gz")
            writer.writerow([pair["case"], f"{seconds:.3f}", out / "displacement.nii.gz"])
            stream.flush()


if __name__ == "__main__":
    main()
