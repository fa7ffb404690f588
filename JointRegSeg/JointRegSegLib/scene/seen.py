"""Volume nodes as images where they are *seen*: parent transforms act on a copy, without holding up a window."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterator

import numpy as np
import slicer
import vtk

from ..errors import InputError
from . import sitk, volumes

#: A transform that bends is asked at every n-th voxel: first so, and more finely until that does.
STEPS = (8, 4, 2, 1)
#: It does if in the middle of each cell of that lattice it is off by less than this (voxels), which is where a smooth
#: transform is off most. At every voxel nothing is left to be off.
TOLERANCE = 0.1
#: As many points are asked at once as take about so many seconds.
BREATH = 0.003
#: Points along each edge of the volume whose surface says how far a transform spreads it.
BORDER = 17
#: A volume may be spread over so many times its own voxels.
SPREAD = 30
#: A lattice is not made larger for less than this (voxels).
SLIVER = 1e-3
#: Planes of voxels that are resampled at once: a multiple of all steps, and little memory.
SLAB = 16


class Seen:
    """A volume node's voxels and lattice where it is seen.

    Linear transforms that keep axes at right angles only move the lattice; others resample, to the volume's own axes
    and spacing. Slicer's objects may only be asked in the thread of its window, and transforms that bend take
    seconds. So `look` asks for as long as there is time, and `image` does the rest in any thread.

    Parameters
    ----------
    role : str
        What an error calls the node, such as 'fixed volume'.

    Raises
    ------
    InputError
        If there is no image, it is no scalar volume, or its axes are not at right angles.
    """

    def __init__(self, node: slicer.vtkMRMLVolumeNode | None, role: str) -> None:
        if node is None:
            raise InputError(f"no {role} is chosen")
        if not (hasattr(node, "IsA") and node.IsA("vtkMRMLVolumeNode")):
            raise InputError(f"the {role} is no volume node but {type(node).__name__}; choose a scalar volume")
        self._name = f"{role} '{node.GetName()}'"
        if node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0:
            raise InputError(f"{self._name}: holds no image; load one into it, or choose another volume")
        if node.GetImageData().GetNumberOfScalarComponents() != 1:
            count = node.GetImageData().GetNumberOfScalarComponents()
            raise InputError(
                f"{self._name}: has {count} values a voxel (color or vector volume); choose a scalar volume"
            )
        self._labels = volumes.is_label_map(node)
        self._values, self._affine = volumes.values_of(node), volumes.affine_of(node)
        self._first, self._size = np.zeros(3, int), np.array(node.GetImageData().GetDimensions())
        self._source_size = self._size
        self._back: np.ndarray | None = None
        self._field: np.ndarray | None = None
        self._step = 0
        self._questions: Iterator[None] = iter(())
        parent = node.GetParentTransformNode()
        moved = self._affine
        if parent is not None:
            if volumes.flattens(parent):
                raise InputError(
                    f"{self._name}: its transform '{parent.GetName()}' flattens it; correct or remove that"
                )
            matrix = volumes.matrix_of(parent)
            if matrix is not None and volumes.right_angled(matrix @ self._affine):
                moved = self._affine = matrix @ self._affine
            elif matrix is not None:
                self._back = np.linalg.inv(matrix)
                self._spread(volumes.placed(np.linalg.inv(self._affine) @ matrix @ self._affine, self._surface()))
            else:
                self._questions = self._ask(parent)
        if not volumes.right_angled(moved):
            raise InputError(
                f"{self._name}: its axes are not at right angles (gantry tilt, or a sheared acquisition), or its "
                "spacing is next to nothing; bring it to a regular lattice first, with the module Resample "
                "Scalar/Vector/DWI Volume or, after DICOM import, Acquisition Transform"
            )

    def look(self, seconds: float = math.inf) -> bool:
        """Ask the transform for about so long; returns whether there is nothing more to ask, and `image` can begin.

        Raises
        ------
        InputError
            If the transform leads nowhere.
        """
        end = time.perf_counter() + seconds
        return not any(time.perf_counter() >= end for _ in self._questions)

    def view(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Voxels (k, j, i) in the node's own memory and their lattice (4, 4); None if they have to be resampled."""
        return (self._values, self._affine) if self._back is None and self._field is None else None

    def image(self) -> sitk.Image:
        """The image; its voxels are a copy. Touches no node."""
        from ..carry import resampled  # which brings SimpleITK

        here = volumes.to_image(self._values, self._affine)
        if self._back is None and self._field is None:
            return here
        outside = 0.0 if self._labels else volumes.extremes(self._values)[0]
        out = np.empty(self._size[::-1], self._values.dtype)
        for first in range(0, len(out), SLAB):
            planes = min(SLAB, len(out) - first)
            lattice = sitk.Image([*self._size[:2].tolist(), planes], sitk.sitkUInt8)
            volumes.set_lattice(lattice, self._shifted(self._first + np.array([0, 0, first])))
            way = self._linear() if self._field is None else self._bent(first, planes)
            slab = resampled(here, lattice, way, self._labels, outside)
            out[first : first + planes] = sitk.GetArrayViewFromImage(slab)
        return volumes.to_image(out, self._shifted(self._first))

    def _shifted(self, first: np.ndarray) -> np.ndarray:
        """The lattice with another first voxel."""
        out = self._affine.copy()
        out[:3, 3] = volumes.placed(self._affine, first)
        return out

    def _linear(self) -> sitk.Transform:
        out = sitk.AffineTransform(3)
        out.SetMatrix(self._back[:3, :3].ravel().tolist())
        out.SetTranslation(self._back[:3, 3].tolist())
        return out

    def _bent(self, first: int, planes: int) -> sitk.Transform:
        """For planes of voxels, by the part of the field that they lie in."""
        begin, end = first // self._step, -(-(first + planes - 1) // self._step) + 1
        vectors = self._field[begin : max(end, begin + 2)]
        affine = self._shifted(self._first + np.array([0, 0, begin * self._step]))
        affine[:3, :3] *= self._step
        return sitk.DisplacementFieldTransform(volumes.to_image(vectors.astype(np.float64), affine))

    def _surface(self) -> np.ndarray:
        """(n, 3) indices all over the surface of the volume."""
        edges = [np.linspace(0, n - 1, BORDER) for n in self._source_size]
        points = np.stack(np.meshgrid(*edges, indexing="ij"), -1).reshape(-1, 3)
        return points[((points == 0) | (points == self._source_size - 1)).any(1)]

    def _spread(self, index: np.ndarray) -> None:
        """Make the lattice as large as needed for the surface to lie at an index (n, 3)."""
        if not np.isfinite(index).all():
            raise InputError(f"{self._name}: its parent transform leads nowhere in places; correct or remove that")
        self._first = np.floor(index.min(0) + SLIVER).astype(int)
        self._size = np.ceil(index.max(0) - SLIVER).astype(int) - self._first + 1
        times = self._size.astype(float).prod() / self._source_size.astype(float).prod()
        if times > SPREAD:
            raise InputError(
                f"{self._name}: its parent transform spreads it over {times:.0f} times its voxels; correct or remove it"
            )

    def _ask(self, parent: slicer.vtkMRMLTransformNode) -> Iterator[None]:
        """Whatever has to be asked of a transform that bends, a little at a time."""
        to_world, from_world = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
        parent.GetTransformToWorld(to_world)
        parent.GetTransformFromWorld(from_world)
        world_to_index = np.linalg.inv(self._affine)
        surface = yield from _through(to_world, volumes.placed(self._affine, self._surface()))
        self._spread(volumes.placed(world_to_index, surface))
        for step in STEPS:
            field = yield from self._sampled(from_world, step)
            if field is not None:
                self._field, self._step = field, step
                return

    def _sampled(self, from_world: vtk.vtkAbstractTransform, step: int) -> Generator[None, None, np.ndarray | None]:
        """Displacements (k, j, i, 3) in LPS mm at every ``step``-th voxel; None as soon as they are too few."""
        count = np.maximum(-(-(self._size - 1) // step) + 1, 2)
        field = np.empty((*count[::-1], 3), np.float32)
        for k in range(count[2]):
            points = self._plane(count[:2], k, step, 0.0)
            there = yield from _through(from_world, points)
            field[k] = (there - points).reshape(field.shape[1:])
            if k and step > 1:
                points = self._plane(count[:2] - 1, k - 1, step, 0.5)
                there = yield from _through(from_world, points)
                corners = list(itertools.product((slice(-1), slice(1, None)), repeat=2))
                found = sum(layer[a] for layer in field[k - 1 : k + 1] for a in corners) / 8
                off = (there - points - found.reshape(-1, 3)) @ np.linalg.inv(self._affine[:3, :3]).T
                index = volumes.placed(np.linalg.inv(self._affine), there)
                read = ((index > -1) & (index < self._source_size)).all(1)  # the rest shows nothing of the volume
                if np.abs(off[read]).max(initial=0) > TOLERANCE:
                    return None
        return field

    def _plane(self, count: np.ndarray, k: int, step: int, middle: float) -> np.ndarray:
        """(n, 3) LPS mm of a plane of every ``step``-th voxel, moved on by a share of a step."""
        j, i = np.mgrid[: count[1], : count[0]]
        index = np.stack([i, j, np.full_like(i, k)], -1).reshape(-1, 3) + middle
        return volumes.placed(self._shifted(self._first), index * step)


def _through(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> Generator[None, None, np.ndarray]:
    """Points (n, 3) in LPS mm through a transform of Slicer's, a chunk at a time."""
    out = np.empty_like(points)
    first, count = 0, 100
    while first < len(points):
        began = time.perf_counter()
        chunk = slice(first, first + count)
        out[chunk] = volumes.through(transform, points[chunk])
        first += count
        count = int(np.clip(count * BREATH / (time.perf_counter() - began), count // 2 + 1, 2 * count))
        yield
    return out
