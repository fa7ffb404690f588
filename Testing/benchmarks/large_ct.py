"""Time and memory of `generic` on a pair of 512 x 512 x 300 CT volumes, in a process of its own on the CPU."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
from JointRegSegLib.phantom import breathing_thorax

SIZE = (512, 512, 300)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = breathing_thorax()
        for side in ("fixed", "moving"):
            sitk.WriteImage(enlarged(getattr(pair, side)), str(folder / f"{side}.nii.gz"), useCompression=True)
        command = [sys.executable, "-m", "JointRegSegLib.cli", "register", "--device", "cpu"]
        command += ["--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz")]
        began = time.perf_counter()
        subprocess.run([*command, "--output", str(folder / "result")], check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"512 x 512 x 300 pair: {seconds:.0f} s from start to finished files, peak {peak:.2f} GiB resident")
    return 0


def enlarged(image: sitk.Image) -> sitk.Image:
    """The image on `SIZE` voxels over the same space."""
    spacing = [s * n / m for s, n, m in zip(image.GetSpacing(), image.GetSize(), SIZE, strict=True)]
    lattice = sitk.Image(list(SIZE), image.GetPixelID())
    lattice.SetSpacing(spacing)
    lattice.SetDirection(image.GetDirection())
    # Outer voxel borders agree: the first center lies half of a small voxel inside the border instead of a large one.
    first = [(s / t - 1) / 2 for s, t in zip(spacing, image.GetSpacing(), strict=True)]
    lattice.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    return sitk.Resample(image, lattice, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, -1000.0)


if __name__ == "__main__":
    sys.exit(main())
