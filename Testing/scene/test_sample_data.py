"""The sample data as Slicer's own readers see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from JointRegSegLib.files import grid_of
from JointRegSegLib.points import read_points
from JointRegSegLib.samples import Sample, samples
from matplotlib import image
from surroundings import image_of

STORAGE = {"VolumeFile": slicer.vtkMRMLVolumeArchetypeStorageNode, "MarkupsFile": slicer.vtkMRMLMarkupsJsonStorageNode}
NODE = {"VolumeFile": "vtkMRMLScalarVolumeNode", "MarkupsFile": "vtkMRMLMarkupsFiducialNode"}


@pytest.fixture(scope="module")
def sample() -> Sample:
    (only,) = samples()
    return only


@pytest.fixture
def loaded(scene, sample):
    """A file as the node that it becomes."""

    def load(role: str) -> slicer.vtkMRMLStorableNode:
        file = sample[role]
        node = scene.AddNewNodeByClass(NODE[file.kind], file.node)
        storage = scene.AddNode(STORAGE[file.kind]())
        storage.SetFileName(str(file.verified()))
        assert storage.ReadData(node)
        return node

    return load


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_slicer_reads_the_volumes_as_they_are(loaded, sample, side):
    found, written = image_of(loaded(side), side), sitk.ReadImage(str(sample[side].path))
    assert grid_of(found).matches(grid_of(written), tolerance=1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(written))


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_slicer_puts_the_points_where_the_volume_has_them(loaded, sample, side):
    node = loaded(f"{side}_points")
    points = read_points(sample[f"{side}_points"].path)
    ras = [node.GetNthControlPointPositionWorld(i) for i in range(node.GetNumberOfControlPoints())]
    np.testing.assert_allclose(np.array(ras) * (-1, -1, 1), points, atol=1e-9)


def test_the_command_that_makes_the_pictures_makes_them(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, root / "Resources" / "make_screenshots.py", "--output", tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout.startswith("green")
    for name in ("reading-layout.png", "lung-review.png"):
        folders = tmp_path, root / "Resources" / "Screenshots"
        made, shipped = (image.imread(folder / name)[..., :3] for folder in folders)
        assert made.shape == shipped.shape
        assert np.abs(made - shipped).mean() < 0.05 < made.std()
