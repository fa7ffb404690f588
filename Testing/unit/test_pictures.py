"""Pictures of a registration: what they show is what is there."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from drawn import AXIAL, EVIL, blob, box_image, moved_box, panels, pixels, registration
from JointRegSegLib import canvas, pictures, slices
from JointRegSegLib.deformation import Deformation, scalar_image
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from JointRegSegLib.result import Registration
from JointRegSegLib.slices import Box, cut, picture_grid


@pytest.fixture(scope="module")
def moved() -> Registration:
    return moved_box()


@pytest.fixture(scope="module")
def gallery(moved) -> pictures.Gallery:
    return pictures.draw(moved)


def test_pictures_show_the_dark_corner_where_it_lies(gallery):
    # Left, posterior, inferior of the box: to the right and below in axial and coronal, sagittal on the right, below.
    for plane in ("axial", "coronal", "sagittal"):
        picture = panels(gallery, plane)["fixed"][..., 0]
        body = picture[30:-30, 30:-30]
        dark, bright = np.argwhere((body > 90) & (body < 160)), np.argwhere(body > 240)
        assert min(len(dark), len(bright)) > 500
        assert (dark.mean(0) > bright.mean(0) + 20).all()  # below, and on the right


def test_after_registration_differences_fade_and_the_warped_image_is_the_fixed_one(gallery):
    assert gallery.same_window
    for row in gallery.rows:
        shown = panels(gallery, row.plane)
        white = {
            when: np.abs(shown[f"difference_{when}"][30:-30, 30:-30] - 247).max(-1) > 40 for when in ("before", "after")
        }
        known = (shown["warped"][30:-30, 30:-30] != canvas.OUTSIDE).any(-1)
        assert (white["after"] & known).mean() < 0.01
        if row.plane != "sagittal":  # in which the shift is not seen
            assert (white["before"] & known).mean() > 0.05
        wrong = {
            k: np.abs(shown[k] - shown["fixed"])[30:-30, 30:-30].max(-1)[known].mean() for k in ("before", "warped")
        }
        assert wrong["warped"] < 8
        assert wrong["before"] > 12
    assert gallery.scales["difference_before"] == gallery.scales["difference_after"]


def test_pictures_are_large_enough_not_empty_and_of_one_size_in_a_row(gallery):
    assert [row.plane for row in gallery.rows] == ["axial", "coronal", "sagittal"]
    keys = ["fixed", "before", "warped", "difference_before", "difference_after", "checkerboard", "outlines"]
    keys += ["outlines_given", "grid", "jacobian"]
    for row in gallery.rows:
        assert [panel.key for panel in row.panels] == keys
        shapes = {pixels(panel.png).shape for panel in row.panels}
        assert len(shapes) == 1
        height, width, _ = shapes.pop()
        assert max(height, width) == slices.SIDE
        assert min(height, width) >= 0.44 * slices.SIDE
    for row in gallery.outlines:
        for panel in row.panels:
            assert pixels(panel.png).std() > 10
    assert len(gallery.outlines) == 3
    assert len({row.position for row in gallery.outlines}) == 3


def test_outlines_are_where_the_labels_end_in_the_colors_of_the_legend(moved, gallery):
    assert gallery.legend[0] == ("bright box (given labels: 1)", "#12ab34")
    assert gallery.legend[1][0] == EVIL
    assert gallery.legend[1][1] in pictures.COLORS  # what is no color is not used as one
    row = gallery.rows[0]
    drawn = panels(gallery, "axial")["outlines_given"]
    green = (np.abs(drawn - (0x12, 0xAB, 0x34)).max(-1) < 60) & (drawn[..., 1] - drawn[..., 0] > 60)
    points = slices.foreground_points(moved.fixed)
    structure = slices.structure_points(moved.fixed_segmentation)
    box = Box.around(np.vstack([points, structure]), pictures._MARGIN).within(Box.of_grid(grid_of(moved.fixed)))
    lattice = picture_grid(AXIAL, slices.focus(structure, grid_of(moved.fixed)), box)
    assert AXIAL.position(lattice.center) == row.position
    inside = cut(moved.fixed_labels, lattice, sitk.sitkLabelLinear) > 0
    edge = inside ^ sitk.GetArrayFromImage(
        sitk.BinaryErode(sitk.GetImageFromArray(inside.astype(np.uint8)), (1, 1))
    ).astype(bool)
    assert green.sum() > 200
    to_green, to_edge = (
        sitk.GetArrayFromImage(
            sitk.SignedMaurerDistanceMap(sitk.GetImageFromArray(mask.astype(np.uint8)), False, False)
        )
        for mask in (green, edge)
    )
    assert np.percentile(to_green[edge], 90) < 2.5  # the edge is drawn, all along
    assert np.median(to_edge[green]) < 2
    assert (
        to_edge[green].max() * lattice.spacing[0] < 2 * 2.4
    )  # the carried labels' edge is off by a thick voxel at most


def test_jacobian_colors_say_squeezed_stretched_folded_and_unchanged():
    grid = Grid.from_geometry((40, 40, 40), (2, 2, 2))
    image = blob(grid, grid.center, 25)
    result = registration(image, image)
    values = np.ones(grid.shape, np.float32)
    values[:, :, :13], values[:, :, 27:] = 2.0, 0.5  # right and left of the patient
    values[:, :8, 20] = -0.1  # in front
    result.jacobian = scalar_image(values, grid)
    gallery = pictures.draw(result)
    shown = panels(gallery, "axial")["jacobian"]
    height, width, _ = shown.shape
    assert (shown[height // 2, width // 2] == 255).all()
    red, _, blue = shown[height // 2 + 40, width // 6]
    assert red > blue + 60  # larger in the moving image
    red, _, blue = shown[height // 2 + 40, -width // 6]
    assert blue > red + 60
    folded = (shown == pictures.FOLD).all(-1)
    assert folded.any(1)[: height // 5].all() or folded.any(1)[25 : height // 6].all()
    assert not folded[height // 2 :].any()
    note = next(panel.note for panel in gallery.rows[0].panels if panel.key == "jacobian")
    assert float(re.match(r"([\d.]+) %", note)[1]) == pytest.approx(100 * 8 / 1600, abs=0.1)
    assert gallery.scales["jacobian"].ticks == ("≤ 0.50", "1", "≥ 2.00")


def test_grid_lines_go_where_the_displacement_takes_them():
    grid = Grid.from_geometry((50, 50, 50), (2, 2, 2))
    image = box_image(grid)
    bump = 3.0 * sitk.GetArrayFromImage(blob(grid, grid.center, 8))
    u = torch.zeros(1, 3, *grid.shape)
    u[0, 2] = torch.from_numpy(bump) / 2  # 3 mm to the patient's left at the center
    gallery = pictures.draw(registration(image, image, Deformation(grid, u, -u, np.eye(4))))
    panel = next(panel for panel in gallery.rows[0].panels if panel.key == "grid")
    step = float(re.match(r"A line every ([\d.]+) mm", panel.note)[1])
    shown = pixels(panel.png)
    colored = np.ptp(shown, -1) > 40
    box = Box.around(slices.foreground_points(image), pictures._MARGIN).within(Box.of_grid(grid))
    pixel = float((box.high - box.low).max()) / slices.SIDE
    lattice = picture_grid(AXIAL, slices.focus(slices.foreground_points(image), grid), box)
    shift = float(re.search(r"mean shift of ([\d.]+) mm", panel.note)[1])
    assert shift > 0.2

    def hits(sign: int) -> float:
        """Share of line crossings, half way between the horizontal lines, where a line is drawn."""
        out = []
        for row in np.arange(0.5, shown.shape[0] * pixel / step - 1) * step / pixel:
            drawn = np.flatnonzero(colored[round(row)])
            for column in np.arange(step / pixel, shown.shape[1] - 1, step / pixel):
                point = lattice.to_world((column, round(row), 0))
                motion = 3 * np.exp(-((np.linalg.norm(point - grid.center) / 8) ** 2) / 2) - shift
                out.append(np.abs(drawn - column - sign * motion / pixel).min() <= 2.5)
        return float(np.mean(out))

    assert hits(1) > 0.9
    assert hits(-1) < 0.6
    assert gallery.scales["grid"].text.endswith("mm")
