"""How well `generic` finds a known shift, rotation and scaling of a real brain, between oblique, anisotropic grids."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import fields, files, register
from JointRegSegLib.geometry import Grid
from scipy.spatial.transform import Rotation

MOTIONS = {
    "shift by 14, -9, 11 mm": ((0, 0, 0), (1, 1, 1), (14, -9, 11)),
    "rotation by 9, -11, 7 degrees": ((9, -11, 7), (1, 1, 1), (0, 0, 0)),
    "scaling by 1.10, 0.93, 1.06": ((0, 0, 0), (1.10, 0.93, 1.06), (0, 0, 0)),
    "all three": ((7, 9, -11), (1.08, 0.95, 1.05), (12, 8, -10)),
}
#: Lattice of the fixed image: coarser, oblique, one axis flipped.
SIZE, SPACING, TURN = (120, 150, 80), (1.4, 1.4, 2.4), (11, -9, 6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("JOINTREGSEG_DATA", "../shared/data"))
    arguments = parser.parse_args()
    images = sorted((Path(arguments.data) / "brain" / "images").glob("*.nii.gz"))
    if not images:
        print(f"bench: no brain/images in {arguments.data}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    moving = sitk.Cast(files.read_image(images[0]), sitk.sitkFloat32)
    print(f"{images[0].name}, error in the brain, in voxels of the moving image ({moving.GetSpacing()[0]:g} mm)\n")
    print(f"{'':<32}{'before':>8}{'mean':>8}{'95 %':>8}{'worst':>8}{'sec':>8}")
    for name, (degrees, scales, shift) in MOTIONS.items():
        before, errors, seconds = measure(moving, degrees, scales, shift)
        print(
            f"{name:<32}{before.mean():>8.2f}{errors.mean():>8.2f}{np.percentile(errors, 95):>8.2f}"
            f"{errors.max():>8.2f}{seconds:>8.1f}",
            flush=True,
        )
    return 0


def measure(moving: sitk.Image, degrees: tuple, scales: tuple, shift: tuple) -> tuple[np.ndarray, np.ndarray, float]:
    """Distances from the truth before and after, in moving voxels, and seconds of the whole registration."""
    grid = files.grid_of(moving)
    linear = Rotation.from_rotvec(degrees, degrees=True).as_matrix() @ np.diag(scales)
    known = fields.affine_matrix(linear, np.array(shift, float), grid.center)  # fixed → moving points
    direction = Rotation.from_rotvec(TURN, degrees=True).as_matrix() @ np.diag([1, -1, 1])
    center = np.linalg.solve(known, [*grid.center, 1])[:3]
    lattice = Grid.centered(center, SIZE, SPACING, direction)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(known[:3, :3].ravel().tolist())
    transform.SetTranslation(known[:3, 3].tolist())
    place = (list(SIZE), transform, sitk.sitkLinear, lattice.origin.tolist(), list(SPACING))
    fixed = sitk.Resample(moving, *place, lattice.direction.ravel().tolist(), 0.0)
    result = register(fixed, moving)
    inside = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 0)[::50, ::-1]
    points = lattice.to_world(inside)
    truth = points @ known[:3, :3].T + known[:3, 3]

    def voxels(found: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.linalg.solve(grid.affine[:3, :3], (found - truth).T), axis=0)

    return voxels(points), voxels(result.deformation.to_moving(points)), result.report["seconds"]["total"]


if __name__ == "__main__":
    sys.exit(main())
