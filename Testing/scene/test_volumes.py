"""Volume nodes as images and back: known geometry under parent transforms, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import numpy as np
import parents
import pytest
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.deformation import Deformation, displacement_on
from JointRegSegLib.errors import InputError
from JointRegSegLib.scene import volumes
from JointRegSegLib.scene.seen import Seen
from parents import KINDS, bending
from samples import CENTER, array, fixed_grid, label_map, motion, moving_grid, place, thing, volume
from surroundings import image_of

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
    found = image_of(add(image, "V"), "fixed volume")
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
    found = image_of(node, "fixed volume")
    np.testing.assert_allclose(volumes.image_affine(found), KNOWN @ fixed_grid().affine, atol=1e-5)
    assert np.array_equal(array(found), array(image))
    np.testing.assert_allclose(volumes.affine_of(node), fixed_grid().affine, atol=1e-9)  # the node itself stays


def test_two_parent_transforms(scene, add):
    node = add(volume(thing(), fixed_grid()), "V")
    inner, outer = linear(scene, KNOWN), linear(scene, motion((0, 10, 0), (1, 1, 1), (0, 0, 40)))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    expected = motion((0, 10, 0), (1, 1, 1), (0, 0, 40)) @ KNOWN @ fixed_grid().affine
    np.testing.assert_allclose(volumes.image_affine(image_of(node, "v")), expected, atol=1e-5)


def test_a_shearing_parent_transform_resamples(scene, add):
    node = add(volume(thing(), fixed_grid()), "V")
    shear = np.eye(4)
    shear[0, 1] = 0.2
    shear[:3, 3] = CENTER - shear[:3, :3] @ CENTER
    node.SetAndObserveTransformNodeID(linear(scene, shear).GetID())
    found = image_of(node, "fixed volume")
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
    found = image_of(node, "fixed volume")
    for point in thing().centers[1:4]:
        value = found.EvaluateAtPhysicalPoint(point.tolist())
        # Interpolated twice, between voxels of 3 mm; elsewhere in the image values differ by hundreds.
        assert value == pytest.approx(thing().intensity(point), abs=30)
    assert node.GetParentTransformNode() is transform
    np.testing.assert_allclose(volumes.affine_of(node), moving_grid().affine, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bent_volume_is_resampled_to_a_tenth_of_a_voxel_of_the_exact_map(scene, add, kind):
    """Voxels that hold their own index tell where each was read, to compare with the transform asked there."""
    shape = fixed_grid().shape
    parent = bending(scene, kind, volume(thing(), fixed_grid()))
    from_world = vtk.vtkGeneralTransform()
    parent.GetTransformFromWorld(from_world)
    found = []
    for index in np.indices(shape)[::-1].astype(np.float32):
        image = sitk.GetImageFromArray(index)
        image.CopyInformation(volume(thing(), fixed_grid()))
        node = add(image, "V")
        node.SetAndObserveTransformNodeID(parent.GetID())
        found.append(image_of(node, "v"))
    affine = volumes.image_affine(found[0])
    places = np.argwhere(np.ones(found[0].GetSize()))
    there = volumes.through(from_world, volumes.placed(affine, places))
    exact = volumes.placed(np.linalg.inv(fixed_grid().affine), there)
    inside = volumes.within(exact, shape[::-1])
    read = np.stack([array(image).transpose(2, 1, 0)[tuple(places.T)] for image in found], 1)
    assert inside.mean() > 0.5 and np.abs(exact - places)[inside].max() > 0.5
    assert np.abs(read - exact)[inside].max() < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_bent_volume_is_the_one_that_slicer_hardens(scene, add, kind):
    node = add(volume(thing(), fixed_grid()), "V")
    parent = bending(scene, kind, volume(thing(), fixed_grid()))
    node.SetAndObserveTransformNodeID(parent.GetID())
    found = image_of(node, "v")
    to_world = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(to_world)
    hardened = slicer.vtkMRMLScalarVolumeNode()
    hardened.CopyContent(node)
    hardened.ApplyNonLinearTransform(to_world)
    expected = image_of(hardened, "v")
    both = sitk.Resample(found, expected, sitk.Transform(), sitk.sitkNearestNeighbor, np.nan, sitk.sitkFloat64)
    off = np.abs(array(both) - array(expected))[3:-3, 3:-3, 3:-3]
    assert np.nanmax(off) < 0.05 * np.ptp(array(expected)) and np.isfinite(off).mean() > 0.9


def test_a_rough_transform_is_asked_more_finely_and_a_smooth_one_is_not(scene, add, monkeypatch):
    """The number of points asked is what it costs a window."""
    image = sitk.Image([64, 64, 40], sitk.sitkInt16)
    asked, counted, through = {}, [], volumes.through
    monkeypatch.setattr(volumes, "through", lambda t, points: counted.append(len(points)) or through(t, points))
    for kind, height in (("smooth", 0.0), ("rough", 0.3)):
        field = parents.waves(image, 2.0, 200.0)
        noise = height * np.random.default_rng(0).normal(size=array(field).shape)
        rough = sitk.GetImageFromArray(array(field) + noise, isVector=True)
        rough.CopyInformation(field)
        node = add(image, kind)
        parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", kind)
        parent.SetAndObserveTransformFromParent(volumes.grid_transform(rough))
        node.SetAndObserveTransformNodeID(parent.GetID())
        counted.clear()
        Seen(node, "v").look()
        asked[kind] = sum(counted)
    assert asked["smooth"] < 0.1 * image.GetNumberOfPixels() < image.GetNumberOfPixels() <= asked["rough"]


def test_whole_numbers_are_rounded_when_they_are_resampled(scene, add):
    """SimpleITK alone would cut their fractions off, and darken every image by half a unit."""
    values = np.random.default_rng(0).integers(-50, 50, (20, 24, 28))
    image = sitk.GetImageFromArray(values.astype(np.int16))
    node, exact = add(image, "V"), add(sitk.Cast(image, sitk.sitkFloat64), "E")
    parent = bending(scene, "grid", image)
    for each in (node, exact):
        each.SetAndObserveTransformNodeID(parent.GetID())
    assert np.array_equal(array(image_of(node, "v")), np.rint(array(image_of(exact, "e"))))


def test_a_transform_that_blows_a_volume_up_is_refused(scene, add):
    node = add(volume(thing(), fixed_grid()), "V")
    shear = np.diag([9.0, 9.0, 1.0, 1.0])
    shear[0, 1] = 3
    node.SetAndObserveTransformNodeID(linear(scene, shear).GetID())
    with pytest.raises(InputError, match=r"'V': its parent transform spreads it over .* times its voxels"):
        image_of(node, "moving volume")


def test_labels_stay_labels_under_a_deformable_transform(scene, add):
    node = add(label_map(thing(), moving_grid(), KNOWN), "L", "vtkMRMLLabelMapVolumeNode")
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    field = displacement_on(Deformation.identity(fixed_grid(), KNOWN).to_itk(), fixed_grid())
    transform.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert set(np.unique(array(image_of(node, "labels")))) == {0, 1, 2}


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
            image_of(node, "moving volume")


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


def test_a_cropped_image_lies_where_it_was_cut_out(scene, add, resampled):
    """VTK keeps a cropped image's place by the begin of its extent, with the lattice of the whole one."""
    whole = add(volume(thing(), fixed_grid()), "whole")
    cut = vtk.vtkExtractVOI()
    cut.SetInputData(whole.GetImageData())
    i, j, k = whole.GetImageData().GetDimensions()
    cut.SetVOI(5, i - 3, 4, j - 2, 3, k - 1)
    cut.Update()
    node = add(volume(thing(), fixed_grid()), "cut")
    node.SetAndObserveImageData(cut.GetOutput())
    assert node.GetImageData().GetExtent()[::2] == (5, 4, 3)
    image = image_of(node, "fixed volume")
    np.testing.assert_array_equal(array(image), volumes.values_of(whole)[3:, 4 : j - 1, 5 : i - 2])
    expected = place([5, 4, 3], fixed_grid().affine)
    np.testing.assert_allclose(image.GetOrigin(), expected, atol=1e-6)
    np.testing.assert_allclose(volumes.index_in(node, np.array([expected])), [[0, 0, 0]], atol=1e-6)
    inner = resampled(node, whole)  # Slicer shows it there, too
    np.testing.assert_array_equal(
        volumes.values_of(inner)[6:-3, 8:-4, 9:-5], volumes.values_of(whole)[6:-3, 8:-4, 9:-5]
    )
