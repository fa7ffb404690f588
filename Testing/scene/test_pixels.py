"""What is seen: real renderings of real results, off screen."""

from __future__ import annotations

import numpy as np
import pytest
import rendering
import slicer
from JointRegSegLib.scene import layout, motion, overlays, results, volumes

SIZE = (240, 300)
#: How far red, green and blue of a pixel lie apart before one calls it colored.
COLORED = 30

pytestmark = pytest.mark.skipif(not rendering.available(), reason="no EGL: install libegl1 libgl1 libgl1-mesa-dri")


@pytest.fixture
def seen(scene):
    """Pixels (H, W, 3) of a view, as float."""
    return lambda tag: rendering.render(scene, tag, SIZE).astype(float)


@pytest.fixture
def read(shown, scene):
    """A result with segmentations, laid out."""
    nodes, result = shown
    layout.show(scene, result, nodes["fixed"])
    overlays.segmentations(result, "off")
    return nodes, result


@pytest.fixture
def good(scene, add, images, plain_answer):
    """A good registration, laid out; both volumes drawn with the same window."""
    nodes = {name: add(image, name) for name, image in images.items()}
    for node in nodes.values():
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(250, 90)
    result = results.put(scene, *plain_answer, nodes["fixed"], nodes["moving"])
    layout.show(scene, result, nodes["fixed"])
    return nodes, result


def colored(pixels: np.ndarray) -> np.ndarray:
    """(H, W) where there is a hue."""
    return np.ptp(pixels, axis=-1) > COLORED


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """How different two pictures are within what both of them show of the images."""
    both = (a.max(-1) > 0) & (b.max(-1) > 0)
    return float(np.abs(a - b)[both].mean())


def test_anterior_is_up_the_patients_right_is_left_and_nothing_is_stretched(read, scene, seen):
    nodes, _ = read
    values, affine = volumes.values_of(nodes["fixed"]), volumes.affine_of(nodes["fixed"])
    display = nodes["fixed"].GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(200, 100)
    _, j, i = (n // 2 for n in values.shape)
    places = {}
    for name, lps in {"middle": (0, 0, 0), "anterior": (0, -12, 0), "right": (-12, 0, 0)}.items():
        di, dj, _ = np.rint(np.linalg.solve(affine[:3, :3], lps)).astype(int)
        values[:] = 0
        values[:, j + dj - 2 : j + dj + 3, i + di - 2 : i + di + 3] = 200  # 5 mm wide and high
        nodes["fixed"].GetImageData().Modified()
        spot = np.argwhere(seen(layout.FIXED)[..., 0] > 128)
        rows, columns = np.ptp(spot, axis=0)
        assert abs(rows - columns) <= 2 and rows > 10
        places[name] = spot.mean(0)
    up, left = places["anterior"] - places["middle"], places["right"] - places["middle"]
    assert up[0] < -20 and abs(up[1]) < 2
    assert left[1] < -20 and abs(left[0]) < 2


def test_warped_is_closer_to_fixed_than_moving(good, scene, seen):
    nodes, result = good
    fixed, warped = seen(layout.FIXED), seen(layout.WARPED)
    motion.play(scene, result, nodes["moving"], 0)
    moving = seen(layout.WARPED)
    assert np.ptp(fixed) > 100
    assert apart(warped, fixed) < 0.4 * apart(moving, fixed)


def test_played_from_the_moving_to_the_warped_image(good, scene, seen):
    nodes, result = good
    warped = seen(layout.WARPED)
    distances = []
    for percent in (0, 50, 100):
        motion.play(scene, result, nodes["moving"], percent)
        distances.append(apart(seen(layout.WARPED), warped))
    assert distances[0] > distances[1] > 4 * distances[2]
    motion.stop(scene, result)
    assert np.array_equal(seen(layout.WARPED), warped)


def test_a_checkerboard_shows_both(good, scene, seen):
    nodes, result = good
    values = volumes.values_of(result.nodes["warped"])
    values[:] = values.min()  # a warped image without content: its squares are dark
    result.nodes["warped"].GetImageData().Modified()
    layout.show(scene, result, nodes["fixed"])
    board = seen(layout.COMPARISON)
    layout.show_comparison(scene, result, nodes["fixed"], "blend", 0)
    fixed = seen(layout.COMPARISON)
    bright = fixed[..., 0] > 100
    dark = (board[..., 0] < 20) & bright
    assert 0.3 < dark.sum() / bright.sum() < 0.7
    assert (board[bright & ~dark].mean()) > 100


def test_a_difference_is_gray_where_nothing_differs(good, scene, seen):
    nodes, result = good
    volumes.values_of(result.nodes["warped"])[:] = volumes.values_of(nodes["fixed"])
    volumes.values_of(result.nodes["warped"])[:, :10] += 60
    result.nodes["warped"].GetImageData().Modified()
    layout.show(scene, result, nodes["fixed"], "difference")
    pixels = seen(layout.COMPARISON)[..., 0]
    shown = pixels[pixels > 0]
    assert np.median(shown) == pytest.approx(127, abs=12)
    assert not colored(seen(layout.COMPARISON)).any()


def test_blending_goes_from_one_to_the_other(good, scene, seen):
    nodes, result = good
    fixed, warped = seen(layout.FIXED), seen(layout.WARPED)
    for fraction in (0, 0.5, 1):
        layout.show_comparison(scene, result, nodes["fixed"], "blend", fraction)
        expected = (1 - fraction) * fixed + fraction * warped
        assert np.abs(seen(layout.COMPARISON) - expected).max() < 4


@pytest.mark.parametrize("mode", ["grid", "glyphs", "contours"])
def test_a_deformation_is_drawn_and_gone_again(read, scene, seen, mode):
    _, result = read
    without = seen(layout.DEFORMATION)
    assert not colored(without).any()
    motion.deformation(scene, result, mode, 5)
    drawn = colored(seen(layout.DEFORMATION))
    assert 0.003 < drawn.mean() < 0.5
    assert not any(colored(seen(tag)).any() for tag in layout.VIEWS if tag != layout.DEFORMATION)
    motion.deformation(scene, result, "off")
    assert np.array_equal(seen(layout.DEFORMATION), without)


def test_grid_lines_are_as_far_apart_as_asked(read, scene, seen):
    _, result = read
    shares = []
    for spacing in (10, 5):
        motion.deformation(scene, result, "grid", spacing)
        slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.nodes["transform"]).SetVisibility(False)
        shares.append(colored(seen(layout.DEFORMATION)).mean())
    assert shares[1] == pytest.approx(2 * shares[0], rel=0.35)


def test_limited_to_a_segment_arrows_are_few_and_near(read, scene, seen):
    _, result = read
    counts = []
    for segment in (None, (result.nodes["fixed_segmentation"], "label_1")):
        motion.deformation(scene, result, "glyphs", 4, segment)
        role = "transform" if segment is None else "part"
        slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.nodes[role]).SetVisibility(False)
        counts.append(colored(seen(layout.DEFORMATION)).sum())
    assert 0 < counts[1] < 0.5 * counts[0]


def test_a_fill_is_translucent_over_the_image(read, scene, seen):
    _, result = read
    without = seen(layout.FIXED)
    overlays.segmentations(result, "fill")
    filled = seen(layout.FIXED)
    segment = colored(filled)
    assert segment.sum() > 300
    # Over black all of it would have one color; over the image what lies below shines through.
    brightness, below = filled.mean(-1)[segment], without.mean(-1)[segment]
    assert np.corrcoef(brightness, below)[0, 1] > 0.5
    assert brightness.mean() > 0.5 * below.mean()
    overlays.segmentations(result, "outline")
    assert 0 < colored(seen(layout.FIXED)).sum() < 0.6 * segment.sum()
    overlays.segmentations(result, "off")
    assert np.array_equal(seen(layout.FIXED), without)


def test_the_jacobian_is_colored_over_the_image_with_a_legend(read, scene, seen):
    _, result = read
    values = volumes.values_of(result.nodes["jacobian"])
    third = values.shape[2] // 3
    for i, determinant in enumerate((0.3, 1.0, 1.7)):  # from the patient's right to the left
        values[..., i * third : (i + 1) * third + 2] = determinant
    result.nodes["jacobian"].GetImageData().Modified()
    without = seen(layout.DEFORMATION)
    overlays.jacobian(scene, result, True)
    both = seen(layout.DEFORMATION)
    rows, columns = np.nonzero(without.max(-1) > 0)
    upper = slice(rows.min() + 5, rows.min() + np.ptp(rows) // 2)  # the legend lies below
    parts = np.array_split(np.arange(columns.min(), columns.max()), 3)
    left, middle, right = ((both - without)[upper, part[5:-5]].mean((0, 1)) for part in parts)
    assert left[2] - left[0] > COLORED and right[0] - right[2] > COLORED and np.ptp(middle) < 2
    assert (both[upper, parts[0]].std() > 0.3 * without[upper, parts[0]].std()) and without[upper, parts[0]].std() > 5
    below = slice(rows.max() - np.ptp(rows) // 2, None)
    assert colored(both)[below, columns.max() + 1 :].any()
    assert not any(colored(seen(tag)).any() for tag in layout.VIEWS if tag != layout.DEFORMATION)
    overlays.jacobian(scene, result, False)
    assert np.array_equal(seen(layout.DEFORMATION), without)


def test_agreement_is_green_and_disagreement_magenta(read, scene, seen):
    _, result = read
    without = seen(layout.FIXED)
    overlays.agreement(scene, result, True)
    pixels = seen(layout.FIXED)
    green = (pixels[..., 1] - pixels[..., (0, 2)].max(-1)) > COLORED
    magenta = (pixels[..., (0, 2)].min(-1) - pixels[..., 1]) > COLORED
    assert green.sum() > 100 and magenta.sum() > 50
    overlays.agreement(scene, result, False)
    assert np.array_equal(seen(layout.FIXED), without)
