"""Volumes of known structure: computed at every voxel's place in space, so that no interpolation comes between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import fields
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from scipy.spatial.transform import Rotation

CENTER = np.array([-110.0, 75.0, 210.0])


@dataclass(frozen=True)
class Scene:
    """Ellipsoids with soft edges, in LPS mm, and waves as a texture; the first is the body, the next labels 1 and 2."""

    centers: np.ndarray
    radii: np.ndarray
    values: np.ndarray
    edge: float = 1.5
    texture: float = 0.0

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(n, ...) memberships, 0 to 1, of points (..., 3)."""
        out = []
        for center, radii in zip(self.centers, self.radii, strict=True):
            depth = (1 - np.linalg.norm((points - center) / radii, axis=-1)) * radii.mean()
            out.append(1 / (1 + np.exp(-np.clip(depth / self.edge, -50, 50))))
        return np.stack(out)

    def intensity(self, points: np.ndarray) -> np.ndarray:
        """Brightness at points (..., 3)."""
        inside = self.inside(points)
        rng = np.random.default_rng(5)
        waves = rng.normal(0, 1, (3, 30))
        waves *= 2 * np.pi / rng.uniform(12, 30, 30) / np.linalg.norm(waves, axis=0)  # 12 to 30 mm long
        ripple = np.cos(points @ waves + rng.uniform(0, 2 * np.pi, 30)).mean(-1)
        return np.tensordot(self.values, inside, 1) + self.texture * inside[0] * ripple

    def labels(self, points: np.ndarray) -> np.ndarray:
        """0, 1 or 2 at points (..., 3)."""
        inside = self.inside(points)
        return np.where(inside[2] > 0.5, 2, np.where(inside[1] > 0.5, 1, 0)).astype(np.uint8)

    def varied(self, seed: int, mm: float = 2.0) -> Scene:
        """Another person: every ellipsoid a little elsewhere and of another size."""
        rng = np.random.default_rng(seed)
        return replace(
            self,
            centers=self.centers + rng.normal(0, mm, self.centers.shape),
            radii=self.radii * rng.uniform(0.85, 1.15, self.radii.shape),
        )


def thing(center: np.ndarray = CENTER, scale: float = 1.0) -> Scene:
    """Something without any symmetry, about 50 mm wide."""
    places = [[0, 0, 0], [-8, 4, 6], [9, -5, -6], [4, 10, 8], [-6, -11, -9], [12, 6, 3], [0, -2, 14], [-13, -3, -2]]
    radii = [[22, 20, 21], [7, 8, 6], [6, 7, 8], [4, 4, 5], [5, 4, 4], [3, 5, 4], [5, 3, 3], [3, 4, 6]]
    values = [100.0, 90.0, -60.0, 120.0, 70.0, -80.0, 100.0, 60.0]
    return Scene(center + scale * np.array(places), scale * np.array(radii, float), np.array(values), texture=150.0)


def fixed_grid() -> Grid:
    """Oblique and anisotropic."""
    direction = Rotation.from_rotvec([0.3, -0.4, 0.2]).as_matrix()
    return Grid.centered(CENTER, (28, 26, 18), (2.0, 2.2, 3.1), direction)


def moving_grid() -> Grid:
    """Another size, spacing and obliqueness, with one axis flipped, and off the center."""
    direction = Rotation.from_rotvec([-0.2, 0.1, 0.5]).as_matrix() @ np.diag([1, -1, 1])
    return Grid.centered(CENTER + np.array([1, -2, 1.5]), (24, 30, 20), (2.4, 2.0, 2.9), direction)


def voxel_centers(grid: Grid) -> np.ndarray:
    """(D, H, W, 3) LPS mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return grid.to_world(index[..., ::-1])


def place(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 3) moved by a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def volume(scene: Scene, grid: Grid, motion: np.ndarray | None = None, dtype: type = np.float32) -> sitk.Image:
    """The scene after ``motion``, a (4, 4) matrix from fixed to moving points."""
    back = np.eye(4) if motion is None else np.linalg.inv(motion)
    return scalar_image(scene.intensity(place(voxel_centers(grid), back)).astype(dtype), grid)


def label_map(scene: Scene, grid: Grid, motion: np.ndarray | None = None) -> sitk.Image:
    """The scene's labels after ``motion``."""
    back = np.eye(4) if motion is None else np.linalg.inv(motion)
    return scalar_image(scene.labels(place(voxel_centers(grid), back)), grid)


def motion(
    rotation: tuple[float, float, float] = (0, 0, 0),
    scales: tuple[float, float, float] = (1, 1, 1),
    shift: tuple[float, float, float] = (0, 0, 0),
) -> np.ndarray:
    """(4, 4) matrix of LPS points: degrees, factors, mm, about `CENTER`."""
    linear = Rotation.from_rotvec(rotation, degrees=True).as_matrix() @ np.diag(scales)
    return fields.affine_matrix(linear, np.array(shift, float), CENTER)


def through(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """Points (n, 3) through an ITK transform, one by one, as another program would."""
    return np.array([transform.TransformPoint(p) for p in np.asarray(points, float).tolist()])


def write(image: sitk.Image, path: Path) -> Path:
    """Write by plain SimpleITK; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def array(source: sitk.Image | Path) -> np.ndarray:
    """Voxels of an image or image file."""
    return sitk.GetArrayFromImage(source if isinstance(source, sitk.Image) else sitk.ReadImage(str(source)))


def body(image: sitk.Image, scene: Scene) -> np.ndarray:
    """Voxels (n, 3), in LPS mm, of an image that show the scene."""
    points = voxel_centers(grid_of(image))
    return points[scene.inside(points)[0] > 0.5]
