"""Anything in the scene, carried from the moving volume's space to the fixed one's, or back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError, JointRegSegError
from . import segments, sitk, volumes
from .files import FIXED_REFERENCE
from .results import SceneResult
from .seen import Seen

#: Points and models: whatever Slicer can push through a transform.
_POINTWISE = ("vtkMRMLMarkupsNode", "vtkMRMLModelNode")
#: For so many seconds nodes are asked at a time.
GLANCE = 0.02


def carry(
    scene: slicer.vtkMRMLScene,
    node: slicer.vtkMRMLNode,
    result: SceneResult,
    backward: bool = False,
) -> slicer.vtkMRMLNode:
    """A copy of ``node`` where it lies on the other side; blocks until it is there. See `Carrying`.

    Raises
    ------
    InputError
        If such a node cannot be carried, or the transform that it takes was not made or was removed.
    """
    return Carrying(scene, node, result, backward).wait()


class Carrying:
    """A copy of a node on its way to the other side; the node itself stays. Nothing blocks; a timer calls `poll`.

    Parameters
    ----------
    node : volume, segmentation, markups or model node
        In the space of the moving volume, or with ``backward`` of the fixed one; seen under its own parent transform.
    result : SceneResult
        Whose transforms are used: images go by the one that leads where they come from, points by the other.
    backward : bool
        Carry from fixed to moving space.

    Attributes
    ----------
    copy : node or None
        What came of it, once `poll` says so.
    error : JointRegSegError or None
        Why nothing came of it.

    Raises
    ------
    InputError
        If such a node cannot be carried, or the transform that it takes was not made or was removed.
    """

    def __init__(
        self, scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode, result: SceneResult, backward: bool = False
    ) -> None:
        if node is None:
            raise InputError("there is nothing to carry over; choose a volume, segmentation, markups or a model")
        self.copy: slicer.vtkMRMLNode | None = None
        self.error: JointRegSegError | None = None
        self._scene, self._node = scene, node
        self._problem: Exception | None = None
        self._thread: threading.Thread | None = None
        images, points = ("inverse", "transform") if backward else ("transform", "inverse")
        if any(node.IsA(kind) for kind in _POINTWISE):
            self._way = result.need(points)
            self._put, self._questions, self._work = self._put_points, iter(()), None
            return
        if not (node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode")):
            raise InputError(
                f"'{node.GetName()}' cannot be carried over; choose a volume, segmentation, markups or a model"
            )
        transform = result.need(images)
        self._reference = transform.GetNodeReference(FIXED_REFERENCE)
        if self._reference is None:
            side = "moving" if backward else "fixed"
            raise InputError(f"the {side} volume, whose lattice is needed, is not in the scene any more; load it again")
        self._target = Seen(self._reference, "reference volume")
        self._field = _Field(transform)
        if node.IsA("vtkMRMLVolumeNode"):
            self._labels = volumes.is_label_map(node)
            self._source = Seen(node, "volume")
            self._put, self._work = self._put_volume, self._carry_volume
            self._questions = self._ask(self._source, self._target)
        else:
            self._masks: dict[str, sitk.Image] = {}
            self._put, self._work = self._put_segments, self._carry_segments
            self._questions = self._ask_segments()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.copy is not None or self.error is not None

    def poll(self) -> bool:
        """Go on for a moment; returns `done`. Putting the copy into the scene happens here too."""
        if self.done:
            return True
        try:
            if self._thread is None:
                end = time.perf_counter() + GLANCE
                if any(time.perf_counter() >= end for _ in self._questions):
                    return False
                if self._work is not None:
                    self._thread = threading.Thread(target=self._run, daemon=True)
                    self._thread.start()
                    return False
            elif self._thread.is_alive():
                return False
            if self._problem is not None:
                raise JointRegSegError(f"'{self._node.GetName()}' could not be carried over ({self._problem})")
            if not self._scene.IsNodePresent(self._node):
                raise InputError("what was to be carried over is not in the scene any more")
            self.copy = self._put_whole(self._scene.GenerateUniqueName(f"{self._node.GetName()} carried"))
        except JointRegSegError as error:
            self.error = error
        except Exception as error:  # whatever it is, the next moment would only try again
            self.error = JointRegSegError(f"'{self._node.GetName()}' could not be carried over ({error})")
        return self.done

    def _put_whole(self, name: str) -> slicer.vtkMRMLNode:
        """The copy, or what was begun of it is removed again."""
        there = {self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())}
        try:
            return self._put(name)
        except Exception:
            for node in [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]:
                if node not in there:
                    self._scene.RemoveNode(node)
            raise

    def wait(self) -> slicer.vtkMRMLNode:
        """Block until it is done; for scripts.

        Raises
        ------
        JointRegSegError
            Why nothing came of it.
        """
        while not self.poll():
            time.sleep(0.001)
        if self.error is not None:
            raise self.error
        return self.copy

    def _run(self) -> None:
        """In the thread: touches no node."""
        try:
            self._work()
        except Exception as error:  # told by `poll`
            self._problem = error

    def _ask(self, *seen: Seen) -> Iterator[None]:
        for volume in seen:
            while not volume.look(GLANCE / 2):
                yield

    def _ask_segments(self) -> Iterator[None]:
        yield from self._ask(self._target)
        source, stored = self._node.GetSegmentation(), segments.as_label_maps(self._node)
        for i in range(source.GetNumberOfSegments()):
            mask = segments.mask_of(self._node, source.GetNthSegmentID(i), stored)
            if mask is not None:
                self._masks[source.GetNthSegmentID(i)] = mask
            yield

    def _carry_volume(self) -> None:
        from ..carry import resampled  # which brings SimpleITK

        image, target = self._source.image(), self._target.image()
        outside = 0.0 if self._labels else volumes.extremes(sitk.GetArrayViewFromImage(image))[0]
        self._carried = resampled(image, target, self._field.to_moving(), self._labels, outside)

    def _carry_segments(self) -> None:
        """As few label maps as segments overlap: each takes as long as a volume."""
        from ..carry import resampled

        target, way = self._target.image(), self._field.to_moving()
        self._affine = volumes.image_affine(target)
        self._parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for layer, identifiers in segments.layers(self._masks):
            carried = sitk.GetArrayFromImage(resampled(layer, target, way, True, 0.0))
            for value, identifier in enumerate(identifiers, 1):
                self._parts[identifier] = segments.cut_out(carried == value)

    def _put_volume(self, name: str) -> slicer.vtkMRMLVolumeNode:
        kind = self._node.GetClassName() if self._labels else "vtkMRMLScalarVolumeNode"
        out = self._scene.AddNewNodeByClass(kind, name)
        volumes.fill(out, self._carried)
        out.CreateDefaultDisplayNodes()
        if self._node.GetDisplayNode() is not None:
            out.GetDisplayNode().CopyContent(self._node.GetDisplayNode())
        return out

    def _put_segments(self, name: str) -> slicer.vtkMRMLSegmentationNode:
        out = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        out.CreateDefaultDisplayNodes()
        out.SetReferenceImageGeometryParameterFromVolumeNode(self._reference)
        matrix = volumes.to_vtk(volumes.FLIP @ self._affine)
        source = self._node.GetSegmentation()
        for identifier, (values, first) in self._parts.items():
            data = slicer.vtkOrientedImageData()
            last = first + values.shape[::-1] - 1
            data.SetExtent(*(int(n) for pair in zip(first, last, strict=True) for n in pair))
            data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            vtk_to_numpy(data.GetPointData().GetScalars())[:] = values.ravel()
            data.SetImageToWorldMatrix(matrix)
            copy = slicer.vtkSegment()
            if source.GetSegment(identifier) is not None:
                copy.DeepCopyMetadata(source.GetSegment(identifier))
            copy.SetLabelValue(1)
            copy.AddRepresentation(out.GetSegmentation().GetSourceRepresentationName(), data)
            out.GetSegmentation().AddSegment(copy, identifier)
        return out

    def _put_points(self, name: str) -> slicer.vtkMRMLNode:
        """Points go the opposite way of images, by the map that was computed for them."""
        node = self._node
        out = self._scene.AddNewNodeByClass(node.GetClassName(), name)
        out.CopyContent(node)
        out.SetName(name)
        out.CreateDefaultDisplayNodes()
        if node.GetDisplayNode() is not None:
            out.GetDisplayNode().CopyContent(node.GetDisplayNode())
        way = vtk.vtkGeneralTransform()
        way.PostMultiply()
        if node.GetParentTransformNode() is not None:
            to_world = vtk.vtkGeneralTransform()
            node.GetParentTransformNode().GetTransformToWorld(to_world)
            way.Concatenate(to_world)
        way.Concatenate(self._way.GetTransformFromParent())
        out.ApplyTransform(way)
        return out


class _Field:
    """A transform node's displacements, read at once, so that any thread may make a transform of them."""

    def __init__(self, transform: slicer.vtkMRMLTransformNode) -> None:
        grid = volumes.grid_of(transform)
        field = grid.GetDisplacementGrid()
        self._vectors = vtk_to_numpy(field.GetPointData().GetScalars()).reshape(*reversed(field.GetDimensions()), 3)
        affine = volumes.to_numpy(grid.GetGridDirectionMatrix()) @ np.diag([*field.GetSpacing(), 1.0])
        affine[:3, 3] = field.GetOrigin()
        self._affine = volumes.FLIP @ affine

    def to_moving(self) -> sitk.Transform:
        """From fixed to moving points, LPS."""
        vectors = np.ascontiguousarray(self._vectors * (-1, -1, 1), np.float64)
        return sitk.DisplacementFieldTransform(volumes.to_image(vectors, self._affine))
