"""How a result is looked at, in MRML: layout, views, layers, displays. What is drawn is seen in test_pixels."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.errors import InputError
from JointRegSegLib.scene import compare, files, layout, motion, overlays, results, volumes
from people import KNOWN, person
from surroundings import new_scene

RAS = np.array([-1, -1, 1])


@pytest.fixture
def plain(scene, add, images, plain_answer):
    """A good registration without segmentations."""
    nodes = {name: add(image, name) for name, image in images.items()}
    return nodes, results.put(scene, *plain_answer, nodes["fixed"], nodes["moving"])


@pytest.fixture
def arranging(scene):
    """The application's layout logic; it has to let go of the scene before that is emptied."""
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    yield logic
    logic.SetMRMLScene(None)


def layers(scene, tag):
    node = layout.composite(scene, tag)
    return tuple(
        scene.GetNodeByID(i) if i else None for i in (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID())
    )


def count(scene, kind: str = "vtkMRMLNode") -> int:
    return scene.GetNumberOfNodesByClass(kind)


def everything(scene, nodes, result) -> None:
    """Each kind of display once."""
    layout.show(scene, result, nodes["fixed"])
    layout.show(scene, result, nodes["fixed"], "difference")
    overlays.segmentations(result, "fill")
    overlays.jacobian(scene, result, True)
    if "agreement" in result.nodes:
        overlays.agreement(scene, result, True)
        motion.deformation(scene, result, "glyphs", 5, (result.nodes["fixed_segmentation"], "label_1"))
    motion.deformation(scene, result, "grid", 5)
    motion.play(scene, result, nodes["moving"], 50)


def test_four_views_in_the_order_of_reading(shown, scene):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    board = result.nodes["checkerboard"]
    warped = result.nodes["warped"]
    assert [layers(scene, tag) for tag in layout.VIEWS] == [(n, None) for n in (nodes["fixed"], warped, board, warped)]
    arrangement = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    assert arrangement.GetViewArrangement() == layout.LAYOUT
    views = ElementTree.fromstring(arrangement.GetCurrentLayoutDescription()).iter("view")
    assert [view.get("singletontag") for view in views] == list(layout.VIEWS)


def test_a_scene_saved_in_this_layout_opens_in_it_in_another_session(shown, scene, arranging, tmp_path):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    package = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(package))
    other = new_scene()  # as at the application's next start
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(other)
    layout.offer(other)
    assert other.ReadFromMRB(str(package))
    arrangement = logic.GetLayoutNode()
    assert arrangement.GetViewArrangement() == layout.LAYOUT
    assert all(tag in arrangement.GetCurrentLayoutDescription() for tag in layout.VIEWS)
    logic.SetMRMLScene(None)
    other.Clear(True)


def test_the_applications_layout_logic_takes_these_views(shown, scene, arranging):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    found = arranging.GetViewNodes()
    tags = [found.GetItemAsObject(i).GetLayoutName() for i in range(found.GetNumberOfItems())]
    assert sorted(tags) == sorted(layout.VIEWS)
    slices = [scene.GetNthNodeByClass(i, "vtkMRMLSliceNode") for i in range(count(scene, "vtkMRMLSliceNode"))]
    assert sorted(n.GetLayoutName() for n in slices if n.GetLayoutName() in layout.VIEWS) == sorted(layout.VIEWS)
    for tag in layout.VIEWS:
        node = scene.GetSingletonNode(tag, "vtkMRMLSliceNode")
        assert node.GetOrientation() == "Axial" and node.GetViewGroup() == layout.GROUP
        assert node.GetLayoutLabel() == layout.VIEWS[tag][0]


def test_the_whole_volume_is_seen_undistorted_through_the_middle_of_the_structures(shown, scene):
    nodes, result = shown
    wide = layout.slice_node(scene, layout.FIXED)
    wide.SetDimensions(600, 200, 1)
    layout.show(scene, result, nodes["fixed"])
    bounds, box = [0.0] * 6, [0.0] * 6
    result.nodes["fixed_segmentation"].GetRASBounds(bounds)
    nodes["fixed"].GetRASBounds(box)
    for tag in layout.VIEWS:
        node = layout.slice_node(scene, tag)
        assert node.GetSliceOffset() == pytest.approx((bounds[4] + bounds[5]) / 2)
        width, height, _ = node.GetDimensions()
        across, down, _ = node.GetFieldOfView()
        assert across / width == pytest.approx(down / height)
        for corner in np.stack(np.meshgrid(box[:2], box[2:4], [node.GetSliceOffset()]), -1).reshape(-1, 3):
            to_xy = vtk.vtkMatrix4x4()
            vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), to_xy)
            x, y, *_ = to_xy.MultiplyPoint([*corner, 1])
            assert 0 < x < width and 0 < y < height
    assert layout.slice_node(scene, layout.WARPED).GetFieldOfView()[2] == pytest.approx(1)


def test_without_segmentations_views_cut_through_the_middle_of_the_volume(plain, scene):
    nodes, result = plain
    layout.show(scene, result, nodes["fixed"])
    box = [0.0] * 6
    nodes["fixed"].GetRASBounds(box)
    assert layout.slice_node(scene, layout.FIXED).GetSliceOffset() == pytest.approx((box[4] + box[5]) / 2)
    overlays.segmentations(result, "fill")
    overlays.agreement(scene, result, False)
    with pytest.raises(InputError, match="no agreement map"):
        overlays.agreement(scene, result, True)


def test_views_are_linked_with_each_other_only(shown, scene):
    nodes, result = shown
    red = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    layout.show(scene, result, nodes["fixed"])
    for tag in layout.VIEWS:
        linked = layout.composite(scene, tag)
        assert linked.GetLinkedControl() and linked.GetHotLinkedControl()
        assert not linked.GetDoPropagateVolumeSelection()
        assert layout.slice_node(scene, tag).GetViewGroup() == layout.GROUP != red.GetViewGroup()


def test_blending(shown, scene):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    layout.show_comparison(scene, result, nodes["fixed"], "blend", 0.3)
    view = layout.composite(scene, layout.COMPARISON)
    assert layers(scene, layout.COMPARISON) == (nodes["fixed"], result.nodes["warped"])
    assert view.GetForegroundOpacity() == pytest.approx(0.3)
    motion.play(scene, result, nodes["moving"], 40)
    assert layers(scene, layout.COMPARISON) == (nodes["fixed"], result.nodes["warped"])
    layout.show(scene, result, nodes["fixed"])
    assert layers(scene, layout.COMPARISON) == (result.nodes["checkerboard"], None)


def test_a_checkerboard_has_squares_of_both(plain):
    nodes, result = plain
    board = compare.checkerboard(result, nodes["fixed"], 5)
    values = volumes.values_of(board)
    assert values.min() == 0 and values.max() == compare.WHITE
    half = {name: np.zeros(values.shape, bool) for name in ("fixed", "warped")}
    index = np.indices(values.shape)
    parity = (index // 5).sum(0) % 2  # voxels of 1 mm
    half["fixed"], half["warped"] = parity == 0, parity == 1
    for name, node in (("fixed", nodes["fixed"]), ("warped", result.nodes["warped"])):
        own = volumes.values_of(node).astype(float)
        low, high = np.percentile(own, compare.ROBUST)
        expected = compare.WHITE * np.clip((own - low) / (high - low), 0, 1)
        np.testing.assert_allclose(values[half[name]], expected[half[name]], atol=1.01)  # a shade
    np.testing.assert_allclose(volumes.affine_of(board), volumes.affine_of(nodes["fixed"]), atol=1e-6)
    assert compare.checkerboard(result, nodes["fixed"]) is board


def test_a_difference_is_gray_where_images_agree_whatever_their_units(plain, scene):
    nodes, result = plain
    volumes.values_of(nodes["fixed"])[:] = volumes.values_of(result.nodes["warped"]) * 3 + 100
    nodes["fixed"].GetImageData().Modified()
    node = compare.difference(result, nodes["fixed"])
    assert np.abs(volumes.values_of(node)).max() <= 1  # a shade
    volumes.values_of(nodes["fixed"])[10:20] += 200
    compare.difference(result, nodes["fixed"])
    changed = volumes.values_of(node)[10:20]
    assert changed.mean() > 10 * abs(volumes.values_of(node)[25:].mean())
    display = node.GetDisplayNode()
    assert display.GetLevel() == 0 and 0 < display.GetWindow() <= 2 * compare.WHITE
    assert node is compare.difference(result, nodes["fixed"])


def test_images_are_compared_where_they_are_seen(plain, scene):
    nodes, result = plain
    before = volumes.values_of(compare.difference(result, nodes["fixed"])).copy()
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parent.SetMatrixTransformToParent(volumes.to_vtk(volumes.FLIP @ KNOWN @ volumes.FLIP))
    nodes["fixed"].SetAndObserveTransformNodeID(parent.GetID())
    result.nodes["warped"].SetAndObserveTransformNodeID(parent.GetID())
    node = compare.difference(result, nodes["fixed"])
    np.testing.assert_allclose(volumes.values_of(node), before, atol=1)
    np.testing.assert_allclose(volumes.affine_of(node), KNOWN @ volumes.affine_of(result.nodes["warped"]), atol=1e-4)


def test_segmentations_can_be_told_apart(shown):
    _, result = shown
    displays = {key: result.nodes[f"{key}_segmentation"].GetDisplayNode() for key in ("fixed", "warped", "moving")}
    for mode, visible, filled in (("outline", True, False), ("fill", True, True), ("off", False, False)):
        overlays.segmentations(result, mode)
        for key in ("fixed", "warped"):
            assert displays[key].GetVisibility() == visible and displays[key].GetVisibility2DFill() == filled
        assert not displays["moving"].GetVisibility()
    widths = [displays[key].GetSliceIntersectionThickness() for key in ("fixed", "warped")]
    assert widths[0] > widths[1]


def test_overlays_lie_where_they_belong_and_go(shown, scene):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    for on in (True, False, False):
        overlays.jacobian(scene, result, on)
        overlays.agreement(scene, result, on)
        expected = result.nodes["jacobian"] if on else None
        assert [layers(scene, tag)[1] for tag in layout.VIEWS] == [None, None, None, expected]
        labels = [layout.composite(scene, tag).GetLabelVolumeID() for tag in layout.VIEWS]
        assert labels == [result.nodes["agreement"].GetID() if on else None, None, None, None]
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.nodes["jacobian"])
        assert legend.GetVisibility() == on
    display = result.nodes["jacobian"].GetDisplayNode()
    assert display.GetLevel() == 1 and display.GetColorNode() is result.nodes["jacobian_colors"]
    table = result.nodes["jacobian_colors"].GetLookupTable()
    table.SetRange(0, 2)
    shrunk, same, grown = np.zeros((3, 3))
    for value, color in ((0.2, shrunk), (1, same), (1.8, grown)):
        table.GetColor(value, color)
    assert shrunk.argmax() == 2 and grown.argmax() == 0 and np.ptp(same) == pytest.approx(0, abs=0.01)


def test_the_deformation_is_drawn_in_its_view_only(shown, scene):
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    kinds = slicer.vtkMRMLTransformDisplayNode
    for mode, kind in (
        ("grid", kinds.VIS_MODE_GRID),
        ("glyphs", kinds.VIS_MODE_GLYPH),
        ("contours", kinds.VIS_MODE_CONTOUR),
    ):
        motion.deformation(scene, result, mode, 4)
        display = result.nodes["transform"].GetDisplayNode()
        assert display.GetVisualizationMode() == kind and display.GetGridSpacingMm() == 4
        seen = [display.GetVisibility(layout.slice_node(scene, tag).GetID()) for tag in layout.VIEWS]
        assert seen == [False, False, False, True]
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.nodes["transform"])
    assert legend.GetVisibility() and "mm" in legend.GetTitleText()
    low, high = display.GetScalarRange()
    field = volumes.vtk_to_numpy(
        result.nodes["transform"].GetTransformFromParent().GetDisplacementGrid().GetPointData().GetScalars()
    )
    assert (
        low == 0 and np.percentile(np.linalg.norm(field, axis=1), 25) < high < 2 * np.linalg.norm(field, axis=1).max()
    )
    motion.deformation(scene, result, "off")
    assert not display.GetVisibility() and not legend.GetVisibility()
    assert result.nodes["inverse"].GetDisplayNode() is None


def test_a_deformation_limited_to_a_segment_moves_what_comes_to_lie_in_it_and_nothing_else(shown, scene):
    """Points of the moving image that the whole map brings into the segment move as it says; others stay."""
    _, result = shown
    motion.deformation(scene, result, "grid", 4, (result.nodes["fixed_segmentation"], "label_1"))
    part, whole = result.nodes["part"].GetTransformToParent(), result.nodes["inverse"].GetTransformFromParent()
    inner, far = person(0).centers[1], person(0).centers[2] + (0, -6, 0)
    for target, moves in ((inner, True), (far, False)):
        start, end, all_the_way = [0.0] * 3, [0.0] * 3, [0.0] * 3
        result.nodes["transform"].GetTransformFromParent().TransformPoint(list(target * RAS), start)
        part.TransformPoint(start, end)
        whole.TransformPoint(start, all_the_way)
        expected = all_the_way if moves else start
        np.testing.assert_allclose(end, expected, atol=1e-3)
        assert np.linalg.norm(np.subtract(all_the_way, start)) > 0.5
    assert result.nodes["part"].GetDisplayNode().GetVisibility()
    motion.deformation(scene, result, "grid", 4)
    assert not result.nodes["part"].GetDisplayNode().GetVisibility()
    motion.deformation(scene, result, "grid", 4, (result.nodes["fixed_segmentation"], "label_1"))
    assert result.nodes["part"].GetTransformToParent() is part  # which takes long to make
    lift = scene.AddNewNodeByClass("vtkMRMLTransformNode", "lift")
    result.nodes["fixed_segmentation"].SetAndObserveTransformNodeID(lift.GetID())
    for shift in (0.0, 40.0):
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(2, 3, shift)
        lift.SetMatrixTransformToParent(matrix)
        motion.deformation(scene, result, "grid", 4, (result.nodes["fixed_segmentation"], "label_1"))
        result.nodes["transform"].GetTransformFromParent().TransformPoint(list(inner * RAS), start)
        result.nodes["part"].GetTransformToParent().TransformPoint(start, end)
        assert (np.linalg.norm(np.subtract(end, start)) > 0.5) == (shift == 0)
    with pytest.raises(InputError, match="nothing in the chosen segment"):
        motion.deformation(scene, result, "grid", 4, (result.nodes["fixed_segmentation"], "label_9"))


def test_played_to_the_end_it_is_the_warped_volume(plain, scene, resampled):
    nodes, result = plain
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parent.SetMatrixTransformToParent(volumes.to_vtk(volumes.FLIP @ KNOWN @ volumes.FLIP))
    values = {}
    for parented in (False, True):
        if parented:  # moved away and its lattice moved back: seen where it was
            back = volumes.to_numpy(parent.GetMatrixTransformToParent())
            lattice = np.linalg.inv(back) @ volumes.FLIP @ volumes.affine_of(nodes["moving"])
            nodes["moving"].SetIJKToRASMatrix(volumes.to_vtk(lattice))
            nodes["moving"].SetAndObserveTransformNodeID(parent.GetID())
        for percent in (0, 50, 100):
            motion.play(scene, result, nodes["moving"], percent)
            values[percent] = volumes.values_of(resampled(result.nodes["played"], nodes["fixed"])).astype(float)
        assert layers(scene, layout.WARPED) == (result.nodes["played"], None)
        inner = (slice(6, -6), slice(8, -8), slice(6, -6))
        warped = volumes.values_of(result.nodes["warped"]).astype(float)[inner]
        unmoved = volumes.values_of(resampled(nodes["moving"], nodes["fixed"])).astype(float)[inner]
        distance = {percent: np.abs(v[inner] - warped).mean() for percent, v in values.items()}
        assert np.abs(values[100][inner] - warped).max() < 0.02 * np.ptp(warped)
        np.testing.assert_allclose(values[0][inner], unmoved, atol=1e-3 * np.ptp(warped))
        assert distance[0] > distance[50] > distance[100]
    assert result.nodes["played"].GetImageData() is nodes["moving"].GetImageData()
    motion.stop(scene, result)
    assert layers(scene, layout.WARPED) == (result.nodes["warped"], None)
    motion.stop(scene, result)


def test_nothing_of_the_users_is_touched_twice_is_as_once_and_removal_leaves_no_nodes(shown, scene):
    nodes, result = shown
    users = [nodes["fixed"], nodes["moving"]]
    before = [node.GetMTime() for node in users]
    kinds = ("vtkMRMLColorNode", "vtkMRMLTransformDisplayNode", "vtkMRMLColorLegendDisplayNode")
    before_kinds = [count(scene, kind) for kind in kinds]
    everything(scene, nodes, result)
    once = count(scene)
    everything(scene, nodes, result)
    assert count(scene) == once and [node.GetMTime() for node in users] == before
    motion.stop(scene, result)
    results.remove(scene, result)
    own = ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode", "vtkMRMLLayoutNode")
    left = {scene.GetNthNode(i) for i in range(count(scene))}
    left = {n for n in left if not n.IsA("vtkMRMLStorageNode") and not any(n.IsA(kind) for kind in own)}
    assert not [n.GetName() for n in left if n.GetAttribute(results.ATTRIBUTE)]
    before_kinds[0] -= 1  # of the agreement map
    assert [count(scene, kind) for kind in kinds] == before_kinds


def test_deleted_in_the_module_data_a_result_takes_its_helpers_along(shown, scene, add, images, answer):
    """Node by node, each watched; the other result and the user's own nodes stay."""
    nodes, result = shown
    other = results.put(scene, *answer, nodes["fixed"], nodes["moving"])
    everything(scene, nodes, other)
    before = {scene.GetNthNode(i).GetID() for i in range(count(scene))}
    everything(scene, nodes, result)
    made = {i for i in (scene.GetNthNode(n).GetID() for n in range(count(scene))) if i not in before}
    helpers = {role: node for role, node in result.nodes.items() if node.GetHideFromEditors()}
    assert {"played", "playing", "part", "part_colors", "transform_colors", "jacobian_colors"} <= set(helpers)
    legends = [scene.GetNodeByID(i) for i in made if scene.GetNodeByID(i).IsA("vtkMRMLColorLegendDisplayNode")]
    assert legends
    watch = scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, lambda *_: results.sweep(scene))
    scene.RemoveNode(result.nodes["jacobian"])
    assert result.get("jacobian_colors") is None and result.get("transform_colors") is not None
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for role, node in list(result.nodes.items()):
        if role not in helpers and node.GetScene() is not None:
            hierarchy.RemoveItem(hierarchy.GetItemByDataNode(node))
            if node.GetScene() is not None:  # as the application's plugins do with an item
                scene.RemoveNode(node)
    scene.RemoveObserver(watch)
    assert [role for role, node in helpers.items() if node.GetScene() is not None] == []
    assert [legend for legend in legends if legend.GetScene() is not None] == []
    assert results.find(scene, result.identifier) is None
    assert all(other.get(role) is node for role, node in other.nodes.items())
    assert all(scene.IsNodePresent(nodes[name]) for name in ("fixed", "moving"))
    everything(scene, nodes, other)


def test_without_anybody_who_watches_removing_a_result_finds_its_orphans(shown, scene):
    nodes, result = shown
    everything(scene, nodes, result)
    colors = result.nodes["transform_colors"]
    scene.RemoveNode(result.nodes["transform"])
    assert colors.GetScene() is scene
    found = results.find(scene, result.identifier)
    found.nodes = {role: node for role, node in found.nodes.items() if not node.GetHideFromEditors()}
    results.remove(scene, found)
    assert results.find(scene, result.identifier) is None
    left = [scene.GetNthNode(i) for i in range(count(scene))]
    assert not [node.GetName() for node in left if node.GetAttribute(results.ATTRIBUTE)]


@pytest.mark.parametrize("known", [("fixed",), ("moving",), ("fixed", "moving")])
def test_the_color_scale_is_that_of_what_is_seen(scene, add, known):
    """Air, and places that read outside the moving volume, are displaced by 50 mm, the body by 2."""
    values = np.zeros((40, 40, 40), np.float32)
    values[10:30, 10:30, 10:30] = 100
    body = sitk.GetImageFromArray(values)
    vectors = np.zeros((40, 40, 40, 3))
    vectors[..., 0] = np.where(values > 0, 2.0, 50.0)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    transform.SetAndObserveTransformFromParent(volumes.grid_transform(field))
    result = results.SceneResult(nodes={"transform": transform})
    motion.deformation(scene, result, "grid")
    assert transform.GetDisplayNode().GetScalarRange()[1] == pytest.approx(50)
    for name in known:
        reference = files.FIXED_REFERENCE if name == "fixed" else files.MOVING_REFERENCE
        transform.SetNodeReferenceID(reference, add(body, name).GetID())
    motion.deformation(scene, result, "grid")
    assert transform.GetDisplayNode().GetScalarRange()[1] == pytest.approx(2)


@pytest.mark.parametrize("role", ["warped", "transform", "inverse", "jacobian", "agreement", "fixed_segmentation"])
def test_a_removed_node_is_an_answer_and_no_crash(shown, scene, role):
    nodes, result = shown
    everything(scene, nodes, result)
    segment = (result.nodes["fixed_segmentation"], "label_1")
    scene.RemoveNode(result.nodes[role])
    calls = {
        "warped": lambda: layout.show(scene, result, nodes["fixed"]),
        "transform": lambda: motion.play(scene, result, nodes["moving"], 30),
        "inverse": lambda: motion.deformation(scene, result, "grid", 4, segment),
        "jacobian": lambda: overlays.jacobian(scene, result, True),
        "agreement": lambda: overlays.agreement(scene, result, True),
    }
    for need, call in calls.items():
        if need == role or (role, need) == ("transform", "inverse"):
            with pytest.raises(InputError, match=f"(?i){role}"):
                call()
        elif (role, need) != ("fixed_segmentation", "inverse"):
            call()
    for mode in ("outline", "off"):
        overlays.segmentations(result, mode)
    overlays.jacobian(scene, result, False)
    overlays.agreement(scene, result, False)
    motion.deformation(scene, result, "off")
    motion.stop(scene, result)


def test_a_cleared_scene_is_begun_again(scene, add, images, answer):
    for _ in range(2):
        nodes = {name: add(image, name) for name, image in images.items()}
        result = results.put(scene, *answer, nodes["fixed"], nodes["moving"])
        everything(scene, nodes, result)
        scene.Clear(False)
        assert result.get("warped") is None
        motion.deformation(scene, result, "off")
        overlays.segmentations(result, "outline")
        motion.stop(scene, result)
        with pytest.raises(InputError, match="no warped"):
            layout.show(scene, result, nodes["fixed"])


def test_what_is_made_for_looking_comes_back_with_a_saved_scene_and_helpers_do_not(shown, scene, tmp_path):
    nodes, result = shown
    everything(scene, nodes, result)
    assert {"played", "playing", "part", "part_colors"} <= set(result.nodes)
    package = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(package))
    identifier, roles = result.identifier, set(result.nodes)
    displays = count(scene, "vtkMRMLTransformDisplayNode")
    scene.Clear(True)
    assert scene.ReadFromMRB(str(package))
    found = results.find(scene, identifier)
    assert set(found.nodes) == roles - {"played", "playing", "part", "part_colors"}
    assert count(scene, "vtkMRMLTransformDisplayNode") == displays - 1
    fixed = scene.GetFirstNodeByName("fixed")
    everything(scene, {"fixed": fixed, "moving": scene.GetFirstNodeByName("moving")}, found)
    assert set(found.nodes) == roles
