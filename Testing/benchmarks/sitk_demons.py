"""SimpleITK's demons on the pairs of a CSV, in a process of its own, so that its memory can be told.

Writes OUTPUT/CASE/displacement.nii.gz, warped_labels.nii.gz where the moving image has labels, and OUTPUT/seconds.csv.
"""

import argparse
import csv
import time
from pathlib import Path

import SimpleITK as sitk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, metavar="PAIRS.csv", help="columns case, fixed, moving, moving_labels")
    parser.add_argument("folder", type=Path, metavar="OUTPUT")
    parser.add_argument("threads", type=int, metavar="THREADS")
    arguments = parser.parse_args()
    table, folder = arguments.table, arguments.folder
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(arguments.threads)
    with table.open(newline="") as stream:
        pairs = list(csv.DictReader(stream))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "seconds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "seconds"])
        for pair in pairs:
            fixed, moving = (sitk.ReadImage(pair[key], sitk.sitkFloat32) for key in ("fixed", "moving"))
            began = time.perf_counter()
            field = demons(fixed, moving)
            seconds = time.perf_counter() - began
            out = folder / pair["case"]
            out.mkdir(exist_ok=True)
            sitk.WriteImage(field, str(out / "displacement.nii.gz"))
            if pair["moving_labels"]:
                transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
                labels = sitk.ReadImage(pair["moving_labels"])
                warped = sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor)
                sitk.WriteImage(warped, str(out / "warped_labels.nii.gz"))
            writer.writerow([pair["case"], f"{seconds:.3f}"])


def demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Symmetric-forces demons on three resolutions, after matching histograms: the displacement field."""
    low = float(sitk.GetArrayViewFromImage(moving).min())
    moving = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, low)  # demons compare on one lattice
    moving = sitk.HistogramMatching(moving, fixed, 256, 7, True)
    field = None
    for factor, steps in ((4, 50), (2, 50), (1, 30)):
        # Thick slices are few: an axis is not shrunk below four voxels.
        factors = [factor if n // factor >= 4 else 1 for n in fixed.GetSize()]
        small = [sitk.BinShrink(image, factors) for image in (fixed, moving)]
        demon = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demon.SetNumberOfIterations(steps)
        demon.SetSmoothDisplacementField(True)
        demon.SetStandardDeviations(1.5)
        if field is None:
            field = demon.Execute(*small)
        else:
            field = demon.Execute(*small, sitk.Resample(field, small[0], sitk.Transform(3, sitk.sitkIdentity)))
    return field


if __name__ == "__main__":
    main()
