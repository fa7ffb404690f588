"""Elastic body spline (Davis et al. 1997, "A physics-based coordinate transformation for 3-D image matching")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from JointRegSegLib.errors import InputError


@dataclass(frozen=True)
class ElasticBodySpline:
    """d(x) = Σ G(x - p_i) c_i + A x + b, with G(x) = (α |x|² I - 3 x xᵀ) |x| and α = 12 (1 - ν) - 1.

    G solves the Navier equations of an elastic body with Poisson ratio ν under forces that grow with |x|. Lengths are
    in units of the landmarks' own radius, about their middle, which keeps the equations well conditioned.
    """

    landmarks: np.ndarray
    forces: np.ndarray
    affine: np.ndarray
    middle: np.ndarray
    scale: float
    alpha: float

    @classmethod
    def fit(
        cls, landmarks: np.ndarray, displacements: np.ndarray, smoothing: float = 0.0, poisson: float = 0.3
    ) -> ElasticBodySpline:
        """Interpolate displacements (n, 3) given at landmarks (n, 3).

        Parameters
        ----------
        smoothing : float
            λ ≥ 0: how far the spline may stay away from the displacements to be smoother; 0 interpolates.
        poisson : float
            ν of the material, below 0.5, at which it keeps its volume.

        Raises
        ------
        InputError
            If there are fewer than four landmarks, two are the same, or all lie in a plane.
        """
        n, alpha = len(landmarks), 12 * (1 - poisson) - 1
        middle = landmarks.mean(0)
        scale = float(np.sqrt(np.square(landmarks - middle).sum(1).mean()))
        p = (landmarks - middle) / (scale or 1)
        x = p[:, None] - p
        r = np.linalg.norm(x, axis=2)[..., None, None]
        kernel = (alpha * r**2 * np.eye(3) - 3 * x[..., None] * x[..., None, :]) * r
        if np.linalg.matrix_rank(np.column_stack([p, np.ones(n)])) < 4 or len(np.unique(p, axis=0)) < n:
            raise InputError("a spline needs landmarks at different places, at least four that lie in no common plane")
        # Rows and columns: x, y, z of the first landmark, of the second, and so on; then A, row by row, and b.
        system = np.zeros((3 * n + 12, 3 * n + 12))
        system[: 3 * n, : 3 * n] = kernel.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) + smoothing * n * np.eye(3 * n)
        polynomial = np.einsum("ia,cd->icda", np.column_stack([p, np.ones(n)]), np.eye(3)).reshape(3 * n, 12)
        system[: 3 * n, 3 * n :], system[3 * n :, : 3 * n] = polynomial, polynomial.T
        right = np.concatenate([np.asarray(displacements, float).ravel(), np.zeros(12)])
        answer = np.linalg.solve(system, right)
        return cls(p, answer[: 3 * n].reshape(n, 3), answer[3 * n :].reshape(3, 4), middle, scale, alpha)

    def __call__(self, points: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Displacements (m, 3) of points (m, 3), ``chunk`` points at a time to limit memory."""
        parts = [points[i : i + chunk] for i in range(0, len(points), chunk)]
        return np.concatenate([self._of((part - self.middle) / self.scale) for part in parts])

    def _of(self, x: np.ndarray) -> np.ndarray:
        p, c = self.landmarks, self.forces
        r = np.sqrt(np.maximum(np.square(x).sum(1)[:, None] + np.square(p).sum(1) - 2 * x @ p.T, 0))
        along = r * (x @ c.T - (p * c).sum(1))  # |x - p| (x - p) · c
        elastic = self.alpha * r**3 @ c - 3 * (x * along.sum(1, keepdims=True) - along @ p)
        return elastic + x @ self.affine[:, :3].T + self.affine[:, 3]
