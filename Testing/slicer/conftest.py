"""Slicer's real MRML scene and logic classes, without the application: PyPI's slicer-core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

from JointRegSegLib.scene import volumes  # noqa: E402


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[slicer.vtkMRMLScene]:
    """An empty scene with what the application would put beside it."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    application.SetMRMLScene(scene)
    application.SetColorLogic(colors)
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene).GetSceneItemID()  # the application has one
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    scene.application = application  # kept alive as long as the scene
    scene.helpers = [colors, remote]
    yield scene
    scene.Clear(True)


@pytest.fixture
def add(scene: slicer.vtkMRMLScene) -> Callable:
    """Puts an image into the scene as a volume node."""

    def put(image: sitk.Image, name: str, kind: str = "vtkMRMLScalarVolumeNode") -> slicer.vtkMRMLVolumeNode:
        node = scene.AddNewNodeByClass(kind, name)
        volumes.fill(node, image)
        node.CreateDefaultDisplayNodes()
        return node

    return put


@pytest.fixture
def resampled(scene: slicer.vtkMRMLScene) -> Callable:
    """A volume node as Slicer itself shows it on another one's lattice, parent transforms included."""

    def carry(node: slicer.vtkMRMLVolumeNode, reference: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLVolumeNode:
        logic = slicer.vtkSlicerVolumesLogic()
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(scene.application)
        return logic.ResampleVolumeToReferenceVolume(node, reference)

    return carry
