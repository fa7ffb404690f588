"""Reference deformations from segmented shapes (Rohé et al. 2017, "SVF-Net: Learning Deformable Image Registration
Using Shape Matching", its section on methods).

All of it happens on one lattice, in array order (D, H, W): points in mm are array indices times the spacing. Arrows
point down: `make` → `template` → `currents` → `surfaces`, and `make` → `pair` → `spline`, `logarithm`.
"""

from .make import PairVelocities, References, make_points

__all__ = ["PairVelocities", "References", "make_points"]
