"""Other people's registration on the same pairs: SimpleITK's demons, and ANTs SyN in an environment of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import SimpleITK as sitk
import torch
from cohorts import read

ANTS = Path(__file__).resolve().parents[2] / ".venv-ants"


def demons(table: Path, folder: Path) -> Path:
    """SimpleITK's symmetric-forces demons on three resolutions, after matching histograms."""
    rows = []
    for pair in read(table):
        fixed, moving = (sitk.ReadImage(pair[key], sitk.sitkFloat32) for key in ("fixed", "moving"))
        began = time.perf_counter()
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
        seconds = time.perf_counter() - began
        out = folder / pair["case"]
        out.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(field, str(out / "displacement.nii.gz"))
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        labels = sitk.ReadImage(pair["moving_labels"])
        warped = sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor)
        sitk.WriteImage(warped, str(out / "warped_labels.nii.gz"))
        rows.append([pair["case"], f"{seconds:.3f}", out / "displacement.nii.gz"])
    with (folder / "seconds.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", "seconds", "displacement"], *rows])
    return folder


def syn(table: Path, folder: Path) -> Path:
    """ANTs SyN in its own environment, which is made if it is missing."""
    python = ANTS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ANTS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "antspyx"], check=True)
    # ITK starts a thread for every core it sees; the others here may use as many as torch.
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(torch.get_num_threads())}
    script = Path(__file__).with_name("ants_syn.py")
    subprocess.run([str(python), str(script), str(table), str(folder)], check=True, env={**os.environ, **threads})
    return folder


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds by case of a method above."""
    with (folder / "seconds.csv").open(newline="") as stream:
        return {row["case"]: float(row["seconds"]) for row in csv.DictReader(stream)}
