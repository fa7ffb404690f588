"""Volumes, labels, segmentations, markups and models carried by a known motion, and back."""

from __future__ import annotations

import time

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.deformation import Deformation, displacement_on
from JointRegSegLib.errors import InputError, JointRegSegError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.scene import segments, volumes
from JointRegSegLib.scene.propagate import Carrying, carry
from JointRegSegLib.scene.results import SceneResult
from samples import array, fixed_grid, label_map, motion, moving_grid, place, thing, volume
from surroundings import image_of

KNOWN = motion((6, -4, 5), (1, 1, 1), (3, -2, 2))
RAS = np.array([-1, -1, 1])


@pytest.fixture
def ways(scene, add) -> dict:
    """Fixed and moving volume, and transform nodes of the known motion as a result has them."""
    out = {"fixed": add(volume(thing(), fixed_grid()), "F"), "moving": add(volume(thing(), moving_grid(), KNOWN), "M")}
    deformation = Deformation.identity(fixed_grid(), KNOWN)
    for name, target, grid in (("transform", "fixed", fixed_grid()), ("inverse", "moving", moving_grid())):
        node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
        field = displacement_on(deformation.to_itk(inverse=name == "inverse"), grid)
        node.SetAndObserveTransformFromParent(volumes.grid_transform(field))
        node.SetNodeReferenceID("spatialRegistrationFixed", out[target].GetID())
        out[name] = node
    out["result"] = SceneResult(nodes={name: out[name] for name in ("transform", "inverse")})
    return out


def test_a_volume_lands_on_the_fixed_one(scene, ways):
    found = carry(scene, ways["moving"], ways["result"])
    assert found.GetName() == "M carried" and scene.IsNodePresent(ways["moving"])
    expected = sitk.Resample(
        volume(thing(), moving_grid(), KNOWN),
        volume(thing(), fixed_grid()),
        Deformation.identity(fixed_grid(), KNOWN).to_itk(),
    )
    inner = (slice(4, -4), slice(5, -5), slice(5, -5))
    assert np.abs(volumes.values_of(found) - array(expected))[inner].max() < 0.01 * np.ptp(array(expected))
    np.testing.assert_allclose(volumes.affine_of(found), fixed_grid().affine, atol=1e-6)


def test_labels_are_carried_to_the_voxel_both_ways(scene, add, ways):
    deformation = Deformation.identity(fixed_grid(), KNOWN)
    for here, there, known, inverse in (("moving", "fixed", KNOWN, False), ("fixed", "moving", None, True)):
        grid = moving_grid() if here == "moving" else fixed_grid()
        image = label_map(thing(), grid, known)
        node = add(image, "L", "vtkMRMLLabelMapVolumeNode")
        found = carry(scene, node, ways["result"], inverse)
        target = image_of(ways[there], there)
        expected = sitk.Resample(image, target, deformation.to_itk(inverse), sitk.sitkNearestNeighbor, 0)
        assert (volumes.values_of(found) != array(expected)).sum() <= 2  # in the middle between two voxels
        assert found.IsA("vtkMRMLLabelMapVolumeNode")


def test_segments_keep_their_names_and_places(scene, ways):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    labels = label_map(thing(), moving_grid(), KNOWN)
    for value, title in ((1, "one"), (2, "two")):
        mask = slicer.vtkOrientedImageData()
        mask.SetDimensions(*labels.GetSize())
        mask.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        volumes.vtk_to_numpy(mask.GetPointData().GetScalars())[:] = array(labels).ravel() == value
        mask.SetImageToWorldMatrix(volumes.to_vtk(volumes.FLIP @ moving_grid().affine))
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(0.2 * value, 0.5, 0.1)
        segment.AddRepresentation(node.GetSegmentation().GetSourceRepresentationName(), mask)
        node.GetSegmentation().AddSegment(segment, title)
    found = carry(scene, node, ways["result"]).GetSegmentation()
    assert [found.GetNthSegment(i).GetName() for i in range(found.GetNumberOfSegments())] == ["one", "two"]
    transform = Deformation.identity(fixed_grid(), KNOWN).to_itk()
    fixed = volume(thing(), fixed_grid())
    expected = array(sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0))
    for value, title in ((1, "one"), (2, "two")):
        mask = found.GetSegment(title).GetRepresentation(found.GetSourceRepresentationName())
        inside = volumes.vtk_to_numpy(mask.GetPointData().GetScalars()) > 0
        assert abs(int(inside.sum()) - int((expected == value).sum())) <= 2
        assert found.GetSegment(title).GetColor()[0] == pytest.approx(0.2 * value)


def test_markups_go_within_half_a_millimeter_both_ways(scene, ways):
    points = thing().centers
    for start, backward in ((place(points, KNOWN), False), (points, True)):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
        for i, point in enumerate(start):
            node.AddControlPoint(vtk.vtkVector3d(*(point * RAS)), f"p{i}")
        found = carry(scene, node, ways["result"], backward)
        end = place(points, KNOWN) if backward else points
        for i, point in enumerate(end):
            assert np.linalg.norm(np.array(found.GetNthControlPointPositionWorld(i)) * RAS - point) < 0.5
            assert found.GetNthControlPointLabel(i) == f"p{i}"
            assert np.allclose(np.array(node.GetNthControlPointPosition(i)) * RAS, start[i])


def test_models_and_parent_transforms(scene, ways):
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "up")
    shift = np.eye(4)
    shift[2, 3] = 30
    parent.SetMatrixTransformToParent(volumes.to_vtk(shift))
    sphere = vtk.vtkSphereSource()
    low = place(thing().centers[2], KNOWN) * RAS - [0, 0, 30]
    sphere.SetCenter(*low)
    sphere.SetRadius(3)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "B")
    node.SetAndObservePolyData(sphere.GetOutput())
    node.SetAndObserveTransformNodeID(parent.GetID())
    found = carry(scene, node, ways["result"])
    middle = np.array(found.GetPolyData().GetCenter()) * RAS
    assert np.linalg.norm(middle - thing().centers[2]) < 0.5
    assert np.allclose(node.GetPolyData().GetCenter(), low, atol=1e-3)


def test_what_cannot_be_carried(scene, ways):
    with pytest.raises(InputError, match="'T' cannot be carried over; choose a volume"):
        carry(scene, scene.AddNewNodeByClass("vtkMRMLTextNode", "T"), ways["result"])
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
    scene.RemoveNode(ways["inverse"])
    assert carry(scene, ways["moving"], ways["result"])  # a volume takes the other one
    with pytest.raises(InputError, match="has no inverse"):
        carry(scene, markups, ways["result"])
    scene.RemoveNode(ways["fixed"])
    with pytest.raises(InputError, match="the fixed volume, whose lattice is needed"):
        carry(scene, ways["moving"], ways["result"])


@pytest.mark.parametrize("bent", [False, True])
def test_a_segmentation_is_carried_from_where_it_is_seen(scene, ways, bent):
    """Under a parent transform, linear or not, and stored as a surface: as the ball that a user sees."""
    center, lift = thing().centers[2], np.array([0.0, 0, 6])
    ball = vtk.vtkSphereSource()
    ball.SetCenter(*(place(center, KNOWN) * RAS - lift))
    ball.SetRadius(5)
    ball.SetThetaResolution(30)
    ball.SetPhiResolution(30)
    ball.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    node.SetReferenceImageGeometryParameterFromVolumeNode(ways["moving"])
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment = slicer.vtkSegment()
    segment.SetName("ball")
    segment.AddRepresentation("Closed surface", ball.GetOutput())
    node.GetSegmentation().AddSegment(segment, "ball")
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "up")
    if bent:
        field = sitk.TransformToDisplacementField(
            sitk.TranslationTransform(3, (-lift).tolist()),
            sitk.sitkVectorFloat64,
            [20, 20, 20],
            (thing().centers[2] - 60).tolist(),
            [6.0] * 3,
        )
        parent.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    else:
        matrix = np.eye(4)
        matrix[:3, 3] = lift
        parent.SetMatrixTransformToParent(volumes.to_vtk(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    found = segments.mask_of(carry(scene, node, ways["result"]), "ball")
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(found)
    # Bent, it was resampled to voxels twice, and each time by up to half a voxel.
    off = 0.5 * np.linalg.norm(moving_grid().spacing) if bent else 1.0
    assert np.linalg.norm(np.array(statistics.GetCentroid(1)) - center) < off
    assert statistics.GetPhysicalSize(1) == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.15)
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")  # the user's own stays as it was


def test_surfaces_are_made_label_maps_once_for_all_segments(scene, ways, monkeypatch):
    made, original = [], segments._copy
    monkeypatch.setattr(segments, "_copy", lambda node: made.append(node) or original(node))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    node.SetReferenceImageGeometryParameterFromVolumeNode(ways["moving"])
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    for i in (1, 2):
        ball = vtk.vtkSphereSource()
        ball.SetCenter(*(place(thing().centers[i], KNOWN) * RAS))
        ball.SetRadius(5)
        ball.Update()
        segment = slicer.vtkSegment()
        segment.AddRepresentation("Closed surface", ball.GetOutput())
        node.GetSegmentation().AddSegment(segment, str(i))
    carried = carry(scene, node, ways["result"])
    assert made == [node]
    for i in (1, 2):
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(segments.mask_of(carried, str(i)))
        assert np.linalg.norm(np.array(statistics.GetCentroid(1)) - thing().centers[i]) < 1


def segmentation(scene, masks: dict, grid):
    """A segmentation node of arrays (k, j, i) by name."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    for title, values in masks.items():
        mask = slicer.vtkOrientedImageData()
        mask.SetDimensions(*grid.size)
        mask.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        volumes.vtk_to_numpy(mask.GetPointData().GetScalars())[:] = values.ravel()
        mask.SetImageToWorldMatrix(volumes.to_vtk(volumes.FLIP @ grid.affine))
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.AddRepresentation(node.GetSegmentation().GetSourceRepresentationName(), mask)
        node.GetSegmentation().AddSegment(segment, title)
    return node


def test_segments_that_overlap_stay_whole(scene, ways):
    labels = array(label_map(thing(), moving_grid(), KNOWN))
    masks = {"one": labels == 1, "two": labels == 2, "both": labels > 0, "again": labels == 1}
    found = carry(scene, segmentation(scene, masks, moving_grid()), ways["result"])
    transform = Deformation.identity(fixed_grid(), KNOWN).to_itk()
    for title, inside in masks.items():
        image = volumes.to_image(inside.astype(np.uint8), moving_grid().affine)
        target = volume(thing(), fixed_grid())
        expected = array(sitk.Resample(image, target, transform, sitk.sitkNearestNeighbor, 0))
        mask = sitk.Resample(segments.mask_of(found, title), target, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        assert expected.any() and (array(mask) != expected).sum() <= 4, title


def test_as_few_label_maps_as_segments_overlap():
    grid, shifted = fixed_grid(), fixed_grid().cropped((2, 1, 3), (8, 7, 6))
    first = np.zeros(grid.shape, np.uint8)
    first[5:9, 4:8, 3:9] = 1
    apart = 1 - first
    small = np.ones(shifted.shape, np.uint8)
    masks = {
        "first": volumes.to_image(first, grid.affine),
        "apart": volumes.to_image(apart, grid.affine),
        "small": volumes.to_image(small, shifted.affine),  # the same lattice, from another voxel on
        "other": volumes.to_image(first, moving_grid().affine),
    }
    found = segments.layers(masks)
    assert [names for _, names in found] == [["first", "apart"], ["small"], ["other"]]
    image = found[1][0]
    held = sitk.Resample(image, volumes.to_image(first, grid.affine), sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    expected = np.zeros(grid.shape, bool)
    expected[3:9, 1:8, 2:10] = True
    np.testing.assert_array_equal(array(held) > 0, expected)


def test_the_window_never_waits_for_a_copy(scene, add, ways):
    """Between two glances the window lives; only putting the copy into the scene takes longer."""
    grid = Grid.centered(fixed_grid().center, (150, 150, 150), (1, 1, 1), np.eye(3))
    big = add(volume(thing(), grid), "big")
    ways["transform"].SetNodeReferenceID("spatialRegistrationFixed", big.GetID())
    carrying = Carrying(scene, big, ways["result"])
    waits, ended = [], False
    while not ended:
        began = time.perf_counter()
        ended = carrying.poll()
        waits.append(time.perf_counter() - began)
        time.sleep(0.002)
    assert carrying.error is None and len(waits) > 3 and max(waits[:-1]) < 0.1


def test_what_is_carried_may_vanish(scene, ways):
    carrying = Carrying(scene, ways["moving"], ways["result"])
    scene.RemoveNode(ways["moving"])
    with pytest.raises(InputError, match="not in the scene any more"):
        carrying.wait()
    with pytest.raises(InputError, match="nothing to carry over"):
        carry(scene, None, ways["result"])


def test_a_copy_that_fails_leaves_nothing_and_is_not_tried_again(scene, ways, monkeypatch):
    def full(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(volumes, "fill", full)
    before = scene.GetNumberOfNodes()
    carrying = Carrying(scene, ways["moving"], ways["result"])
    with pytest.raises(JointRegSegError, match=r"'M' could not be carried over \(no room\)"):
        carrying.wait()
    assert all(carrying.poll() for _ in range(5)) and scene.GetNumberOfNodes() == before


def test_a_transform_that_is_no_longer_the_results(scene, ways):
    """Inverted in place, or hardened into another kind, it would carry the other way, or raise what nobody expects."""
    node = ways["transform"]
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetAndObserveTransformNodeID(parent.GetID())
    with pytest.raises(InputError, match="is under another transform"):
        carry(scene, ways["moving"], ways["result"])
    node.SetAndObserveTransformNodeID(None)
    node.Inverse()
    with pytest.raises(InputError, match="no displacement grid from parent"):
        carry(scene, ways["moving"], ways["result"])
    node.Inverse()
    assert carry(scene, ways["moving"], ways["result"]) is not None
    matrix = vtk.vtkTransform()
    matrix.Translate(1, 2, 3)
    general = vtk.vtkGeneralTransform()
    general.Concatenate(node.GetTransformFromParent())
    general.Concatenate(matrix)
    node.SetAndObserveTransformFromParent(general)
    with pytest.raises(InputError, match="no displacement grid from parent"):
        carry(scene, ways["moving"], ways["result"])
