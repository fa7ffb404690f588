"""Volume nodes as images and back: known geometry under parent transforms, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.deformation import Deformation, displacement_on
from JointRegSegLib.errors import InputError
from JointRegSegLib.scene import volumes
from samples import CENTER, array, fixed_grid, label_map, motion, moving_grid, place, thing, volume

KNOWN = motion((6, -4, 5), (1, 1, 1), (3, -2, 2))
RAS = np.array([-1, -1, 1])


def linear(scene, matrix: np.ndarray):
    """A transform node that takes points by an LPS matrix to its parent."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "linear")
    node.SetMatrixTransformToParent(volumes.to_vtk(volumes.FLIP @ matrix @ volumes.FLIP))
    return node


@pytest.mark.parametrize("grid", [fixed_grid(), moving_grid()], ids=["oblique", "flipped"])
@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint8])
def test_an_image_survives_the_way_through_a_node(add, grid, kind):
    image = volume(thing(), grid, dtype=kind)
    found = volumes.image_of(add(image, "V"), "fixed volume")
    assert np.array_equal(array(found), array(image)) and found.GetPixelID() == image.GetPixelID()
    np.testing.assert_allclose(volumes.image_affine(found), grid.affine, atol=1e-9)


def test_slicer_has_the_voxel_where_the_image_has_it(add):
    node = add(volume(thing(), moving_grid()), "V")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ras = matrix.MultiplyPoint((5, 7, 11, 1))[:3]
    np.testing.assert_allclose(ras * RAS, moving_grid().to_world([5, 7, 11]), atol=1e-6)


def test_a_linear_parent_transform_moves_the_lattice_and_no_voxel(scene, add):
    image = volume(thing(), fixed_grid())
    node = add(image, "V")
    node.SetAndObserveTransformNodeID(linear(scene, KNOWN).GetID())
    found = volumes.image_of(node, "fixed volume")
    np.testing.assert_allclose(volumes.image_affine(found), KNOWN @ fixed_grid().affine, atol=1e-5)
    assert np.array_equal(array(found), array(image))
    np.testing.assert_allclose(volumes.affine_of(node), fixed_grid().affine, atol=1e-9)  # the node itself stays


def test_two_parent_transforms(scene, add):
    node = add(volume(thing(), fixed_grid()), "V")
    inner, outer = linear(scene, KNOWN), linear(scene, motion((0, 10, 0), (1, 1, 1), (0, 0, 40)))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    expected = motion((0, 10, 0), (1, 1, 1), (0, 0, 40)) @ KNOWN @ fixed_grid().affine
    np.testing.assert_allclose(volumes.image_affine(volumes.image_of(node, "v")), expected, atol=1e-5)


def test_a_shearing_parent_transform_resamples(scene, add):
    node = add(volume(thing(), fixed_grid()), "V")
    shear = np.eye(4)
    shear[0, 1] = 0.2
    shear[:3, 3] = CENTER - shear[:3, :3] @ CENTER
    node.SetAndObserveTransformNodeID(linear(scene, shear).GetID())
    found = volumes.image_of(node, "fixed volume")
    assert volumes.right_angled(volumes.image_affine(found))
    for point in thing().centers[1:4]:
        moved = place(point, shear)
        index = found.TransformPhysicalPointToContinuousIndex(moved.tolist())
        value = found.EvaluateAtContinuousIndex(index)
        assert value == pytest.approx(thing().intensity(point), abs=25)


def test_a_deformable_parent_transform_resamples(scene, add):
    node = add(volume(thing(), moving_grid(), KNOWN), "V")
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    field = displacement_on(Deformation.identity(fixed_grid(), KNOWN).to_itk(), fixed_grid())
    transform.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    node.SetAndObserveTransformNodeID(transform.GetID())
    found = volumes.image_of(node, "fixed volume")
    for point in thing().centers[1:4]:
        value = found.EvaluateAtPhysicalPoint(point.tolist())
        # Interpolated twice, between voxels of 3 mm; elsewhere in the image values differ by hundreds.
        assert value == pytest.approx(thing().intensity(point), abs=30)
    assert node.GetParentTransformNode() is transform
    np.testing.assert_allclose(volumes.affine_of(node), moving_grid().affine, atol=1e-9)


def test_labels_stay_labels_under_a_deformable_transform(scene, add):
    node = add(label_map(thing(), moving_grid(), KNOWN), "L", "vtkMRMLLabelMapVolumeNode")
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    field = displacement_on(Deformation.identity(fixed_grid(), KNOWN).to_itk(), fixed_grid())
    transform.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert set(np.unique(array(volumes.image_of(node, "labels")))) == {0, 1, 2}


def test_what_cannot_be_registered_is_said(scene, add):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "E")
    colored = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "C")
    data = vtk.vtkImageData()
    data.SetDimensions(4, 4, 4)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colored.SetAndObserveImageData(data)
    tilted = add(volume(thing(), fixed_grid()), "S")
    matrix = volumes.FLIP @ fixed_grid().affine
    matrix[:3, 2] += 0.4 * matrix[:3, 0]
    tilted.SetIJKToRASMatrix(volumes.to_vtk(matrix))
    for node, words in (
        (None, "no moving volume is chosen"),
        (empty, "moving volume 'E': holds no image"),
        (colored, "moving volume 'C': has 3 values a voxel"),
        (tilted, "moving volume 'S': its axes are not at right angles .*Acquisition Transform"),
    ):
        with pytest.raises(InputError, match=words):
            volumes.image_of(node, "moving volume")


def test_a_grid_transform_is_the_map_in_slicer_in_a_file_and_in_simpleitk(scene, tmp_path):
    rng = np.random.default_rng(0)
    field = displacement_on(Deformation.identity(fixed_grid(), KNOWN).to_itk(), fixed_grid())
    wavy = sitk.GetImageFromArray(array(field) + 2 * rng.normal(size=array(field).shape).astype(np.float32), True)
    wavy.CopyInformation(field)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    node.SetAndObserveTransformFromParent(volumes.grid_transform(wavy))
    here = sitk.DisplacementFieldTransform(sitk.Cast(wavy, sitk.sitkVectorFloat64))
    points = fixed_grid().to_world(rng.uniform(1, 15, (20, 3)))
    for ending in ("h5", "nii.gz"):
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(str(tmp_path / f"t.{ending}"))
        assert storage.WriteData(node) == 1
    again = sitk.ReadTransform(str(tmp_path / "t.h5"))
    image = sitk.ReadImage(str(tmp_path / "t.nii.gz"), sitk.sitkVectorFloat64)
    from_image = sitk.DisplacementFieldTransform(image)
    for point in points.tolist():
        expected = here.TransformPoint(point)
        out = [0.0] * 3
        node.GetTransformFromParent().TransformPoint(list(point * RAS), out)
        np.testing.assert_allclose(np.array(out) * RAS, expected, atol=1e-3)
        np.testing.assert_allclose(again.TransformPoint(point), expected, atol=1e-3)
        np.testing.assert_allclose(from_image.TransformPoint(point), expected, atol=1e-3)


def test_slicer_resamples_through_it_as_simpleitk_does(scene, add, resampled):
    fixed, moving = volume(thing(), fixed_grid()), volume(thing(), moving_grid(), KNOWN)
    transform = Deformation.identity(fixed_grid(), KNOWN).to_itk()
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    node.SetAndObserveTransformFromParent(volumes.grid_transform(displacement_on(transform, fixed_grid())))
    moved = add(moving, "M")
    moved.SetAndObserveTransformNodeID(node.GetID())
    there = volumes.values_of(resampled(moved, add(fixed, "F"))).astype(float)
    expected = array(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    inner = (slice(4, -4), slice(5, -5), slice(5, -5))
    assert np.abs(there - expected)[inner].max() < 0.01 * np.ptp(expected)
    assert isinstance(moved, slicer.vtkMRMLScalarVolumeNode)
