"""Slicer's real MRML scene and logic classes, without the application: PyPI's slicer-core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk
from JointRegSegLib.client import Worker
from JointRegSegLib.files import grid_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

from JointRegSegLib.scene import results, volumes  # noqa: E402
from people import FIXED_GRID, KNOWN, MOVING_GRID, person  # noqa: E402
from samples import label_map, volume  # noqa: E402
from surroundings import new_scene  # noqa: E402

PATIENCE = 240


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[slicer.vtkMRMLScene]:
    """An empty scene with what the application would put beside it."""
    scene = new_scene()
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
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


@pytest.fixture(scope="session")
def images() -> dict[str, sitk.Image]:
    """Two people, the second one moved."""
    return {"fixed": volume(person(0), FIXED_GRID), "moving": volume(person(1), MOVING_GRID, KNOWN)}


def registered(folder: Path, images: dict[str, sitk.Image], options: dict) -> tuple[Path, dict]:
    """Folder and 'result' event of the worker."""
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    with Worker() as worker:
        number = worker.submit(
            "register", folder=str(folder), fixed="fixed.nrrd", moving="moving.nrrd", options=options
        )
        return folder, worker.wait(number, timeout=PATIENCE)


@pytest.fixture(scope="session")
def answer(images, tmp_path_factory) -> tuple[Path, dict]:
    """Of a model with segmentations."""
    options = {"model": "symmetric-hippocampus", "refine": 3}
    folder, event = registered(tmp_path_factory.mktemp("job"), images, options)
    # The model finds nothing in an image from formulas: the scene gets segmentations of known content instead.
    for name, scene, known in (("fixed", person(0), None), ("moving", person(1), KNOWN), ("warped", person(1), None)):
        image = images["moving" if name == "moving" else "fixed"]
        sitk.WriteImage(label_map(scene, grid_of(image), known), str(folder / event["files"][f"{name}_segmentation"]))
    return folder, event


@pytest.fixture(scope="session")
def plain_answer(images, tmp_path_factory) -> tuple[Path, dict]:
    """Of the model that segments nothing and registers anything."""
    return registered(tmp_path_factory.mktemp("plain"), images, {"model": "generic"})


@pytest.fixture
def shown(scene, add, images, answer) -> tuple[dict, results.SceneResult]:
    nodes = {name: add(image, name) for name, image in images.items()}
    nodes["moving"].GetDisplayNode().SetAutoWindowLevel(False)
    nodes["moving"].GetDisplayNode().SetWindowLevel(123, 45)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    item = hierarchy.GetItemByDataNode(nodes["moving"]) or hierarchy.CreateItem(patient, nodes["moving"])
    hierarchy.SetItemParent(item, patient)
    nodes["patient"] = patient
    return nodes, results.put(scene, *answer, nodes["fixed"], nodes["moving"])
