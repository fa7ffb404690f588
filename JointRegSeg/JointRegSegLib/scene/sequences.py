"""All frames of a sequence, registered to one volume."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from ..errors import Canceled, InputError, JointRegSegError, ModelError
from . import results, volumes

Register = Callable[[slicer.vtkMRMLScalarVolumeNode], results.SceneResult]


class SequenceResult:
    """What came of the frames.

    Attributes
    ----------
    warped, transforms : vtkMRMLSequenceNode
        Warped volumes and their transforms, with the index values of the frames they came from.
    reports : list of dict or None
        A frame's report; None where it failed.
    failures : dict
        Reason by frame number.
    """

    def __init__(self, warped: slicer.vtkMRMLSequenceNode, transforms: slicer.vtkMRMLSequenceNode) -> None:
        self.warped, self.transforms = warped, transforms
        self.reports: list[dict | None] = []
        self.failures: dict[int, str] = {}


def register_frames(
    scene: slicer.vtkMRMLScene,
    sequence: slicer.vtkMRMLSequenceNode,
    register: Register,
    progress: Callable[[int, int], bool | None] | None = None,
) -> SequenceResult:
    """Register each frame; one that fails does not stop the others.

    Parameters
    ----------
    register : callable
        Registers one volume node of the scene.
    progress : callable, optional
        ``progress(frame, number of frames)`` before each; returning False ends with the frames that are done.

    Raises
    ------
    InputError
        If it is no sequence, or holds no volumes.
    """
    if not (hasattr(sequence, "IsA") and sequence.IsA("vtkMRMLSequenceNode")):
        raise InputError("no sequence is chosen; give a sequence node of scalar volumes")
    count = sequence.GetNumberOfDataNodes()
    if not any(_is_volume(sequence.GetNthDataNode(number)) for number in range(count)):
        raise InputError(f"'{sequence.GetName()}': holds no images; choose a sequence of scalar volumes")
    out = SequenceResult(
        _like(scene, sequence, f"{sequence.GetName()} warped"),
        _like(scene, sequence, f"{sequence.GetName()} transforms"),
    )
    try:
        for number in range(count):
            if progress and progress(number, count) is False:
                break
            index = sequence.GetNthIndexValue(number)
            if not _is_volume(sequence.GetNthDataNode(number)):
                out.reports.append(None)
                out.failures[number] = "the frame is no scalar volume, or a label map"
                continue
            # A frame lives in a scene of its own within the sequence; a copy stands for it here.
            frame = scene.AddNewNodeByClass(
                sequence.GetNthDataNode(number).GetClassName(), f"{sequence.GetName()} {index}"
            )
            frame.CopyContent(sequence.GetNthDataNode(number))
            try:
                result = register(frame)
                out.warped.SetDataNodeAtValue(result.nodes["warped"], index)
                out.transforms.SetDataNodeAtValue(result.nodes["transform"], index)
                out.reports.append(result.report)
                results.remove(scene, result)
            except (Canceled, ModelError):
                raise  # the same for every frame
            except JointRegSegError as error:
                out.reports.append(None)
                out.failures[number] = str(error)
            finally:
                scene.RemoveNode(frame)
    except BaseException:
        for node in (out.warped, out.transforms):
            scene.RemoveNode(node)
        raise
    return out


def _is_volume(node: slicer.vtkMRMLNode) -> bool:
    return node.IsA("vtkMRMLScalarVolumeNode") and not volumes.is_label_map(node)


def _like(scene: slicer.vtkMRMLScene, sequence: slicer.vtkMRMLSequenceNode, name: str) -> slicer.vtkMRMLSequenceNode:
    out = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(name))
    out.SetIndexName(sequence.GetIndexName())
    out.SetIndexUnit(sequence.GetIndexUnit())
    out.SetIndexType(sequence.GetIndexType())
    return out
