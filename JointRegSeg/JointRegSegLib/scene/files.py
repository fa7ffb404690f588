"""Files that the worker wrote, as nodes of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from . import sitk, volumes

#: References by which Slicer's Transforms module knows what a transform registers.
FIXED_REFERENCE, MOVING_REFERENCE = "spatialRegistrationFixed", "spatialRegistrationMoving"


def volume(
    scene: slicer.vtkMRMLScene, path: Path, name: str, like: slicer.vtkMRMLVolumeNode | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """An image, shown as ``like`` is where that is given."""
    image = sitk.ReadImage(str(path))
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    volumes.fill(node, image)
    node.CreateDefaultDisplayNodes()
    display = like.GetDisplayNode() if like is not None else None
    if display is not None:
        node.GetDisplayNode().CopyContent(display)
    return node


def transform(
    scene: slicer.vtkMRMLScene,
    path: Path,
    name: str,
    target: slicer.vtkMRMLVolumeNode,
    source: slicer.vtkMRMLVolumeNode,
) -> slicer.vtkMRMLTransformNode:
    """A displacement on ``target``'s lattice; applied to ``source`` it brings that onto ``target``.

    Stored from parent, as all files and other programs have it.
    """
    grid = volumes.grid_transform(sitk.ReadImage(str(path)))
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTransformFromParent(grid)
    node.SetNodeReferenceID(FIXED_REFERENCE, target.GetID())
    node.SetNodeReferenceID(MOVING_REFERENCE, source.GetID())
    return node


def segmentation(
    scene: slicer.vtkMRMLScene,
    path: Path,
    name: str,
    labels: list[dict[str, Any]],
    reference: slicer.vtkMRMLVolumeNode,
) -> slicer.vtkMRMLSegmentationNode:
    """Segments with the model's names, colors and terminology; ``reference`` gives DICOM SEG export its geometry."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayViewFromImage(image)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    matrix = volumes.to_vtk(volumes.FLIP @ volumes.image_affine(image))
    for label in labels:
        if label["value"] not in array:
            continue
        mask = slicer.vtkOrientedImageData()
        mask.SetDimensions(*image.GetSize())
        mask.AllocateScalars(get_vtk_array_type(array.dtype), 1)
        inside = array.ravel() == label["value"]  # a segment's voxels bear its own label value
        vtk_to_numpy(mask.GetPointData().GetScalars())[:] = inside * array.dtype.type(label["value"])
        mask.SetImageToWorldMatrix(matrix)
        segment = slicer.vtkSegment()
        segment.SetName(label["name"])
        segment.SetColor(*(int(label["color"][i : i + 2], 16) / 255 for i in (1, 3, 5)))
        segment.SetLabelValue(label["value"])
        segment.AddRepresentation(node.GetSegmentation().GetSourceRepresentationName(), mask)
        if label.get("code"):
            segment.SetTag(segment.GetTerminologyEntryTagName(), terminology(label))
        node.GetSegmentation().AddSegment(segment, f"label_{label['value']}")
    return node


def terminology(label: dict[str, Any]) -> str:
    """Slicer's text form of a terminology entry: an anatomical structure with its SNOMED CT code."""
    code = label["code"]
    entry = f"{code['scheme']}^{code['value']}^{code['meaning']}"
    return f"Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~{entry}~^^~~^^~^^"


def agreement(
    scene: slicer.vtkMRMLScene, fixed: Path, warped: Path, name: str
) -> tuple[slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLColorTableNode]:
    """1 where carried-over and predicted labels agree, 2 where they do not; 0 where neither has one."""
    first, second = (sitk.ReadImage(str(path)) for path in (fixed, warped))
    a, b = (sitk.GetArrayViewFromImage(image) for image in (first, second))
    values = (a != b).view(np.uint8) + np.uint8(1)
    values[(a == 0) & (b == 0)] = 0
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(first)
    colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode", scene.GenerateUniqueName(f"{name} colors"))
    colors.SetTypeToUser()
    colors.SetNumberOfColors(3)
    for value, (title, color) in enumerate(
        (("background", (0, 0, 0, 0)), ("agree", (0.3, 0.75, 0.35, 1)), ("disagree", (0.9, 0.2, 0.55, 1)))
    ):
        colors.SetColor(value, title, *color)
    colors.SetColorDefined(0, False)  # so that legends leave the background out
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", scene.GenerateUniqueName(name))
    volumes.fill(node, image)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
    return node, colors
