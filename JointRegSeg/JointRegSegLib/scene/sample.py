"""A sample pair that ships with the module, in the scene."""

from __future__ import annotations

import slicer

from ..errors import InputError
from ..samples import Sample
from . import sitk, volumes


def load(scene: slicer.vtkMRMLScene, sample: Sample) -> dict[str, slicer.vtkMRMLNode]:
    """New nodes of a sample's files, by role: 'fixed', 'moving', and points of both.

    Raises
    ------
    InputError
        If a file is missing or damaged; the scene is as it was then.
    """
    for file in sample.files:
        file.verified()
    return {file.role: _LOADERS[file.kind](scene, str(file.path), file.node) for file in sample.files}


def _volume(scene: slicer.vtkMRMLScene, path: str, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    volumes.fill(node, sitk.ReadImage(path))
    node.CreateDefaultDisplayNodes()
    return node


def _points(scene: slicer.vtkMRMLScene, path: str, name: str) -> slicer.vtkMRMLMarkupsNode:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.CreateDefaultDisplayNodes()
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    storage.SetFileName(path)
    if not storage.ReadData(node):
        raise InputError(f"{path}: cannot be read as markups; install the extension again")
    node.SetName(scene.GenerateUniqueName(name))
    return node


_LOADERS = {"VolumeFile": _volume, "MarkupsFile": _points}
