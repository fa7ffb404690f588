"""How much memory a registration will need, before it is begun."""

from __future__ import annotations

#: Python, torch and SimpleITK themselves.
BASE = 0.6e9
#: Both images as numbers in single precision, resampled, warped and compared; displacements and their Jacobian.
PER_VOXEL = 30.0
#: Activations of the widest level, or the optimizer's copies of a velocity field.
PER_LATTICE_VOXEL = 1500.0


def estimate(fixed_voxels: int, moving_voxels: int, lattice_voxels: int) -> float:
    """About how many bytes the computing process takes at its peak."""
    return BASE + PER_VOXEL * (fixed_voxels + moving_voxels) + PER_LATTICE_VOXEL * lattice_voxels
