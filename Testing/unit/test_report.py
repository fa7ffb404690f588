"""The report: pictures turned the right way round on any lattice, and a page that is whole, safe and alone."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from JointRegSegLib import canvas, pictures, report, slices
from JointRegSegLib.deformation import Deformation, scalar_image, vector_image
from JointRegSegLib.errors import OutputError
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from JointRegSegLib.pipeline import NOTICE
from JointRegSegLib.report import write_html
from JointRegSegLib.result import Registration
from JointRegSegLib.slices import PLANES, Box, cut, picture_grid
from PIL import Image
from scipy.spatial.transform import Rotation

AXIAL, CORONAL, SAGITTAL = PLANES
EVIL = """<script>alert("1")</script><img src=x onerror='alert(2)'>&amp;"""
STEM = EVIL.split("/")[-1]  # a path's last part, which is what the title shows


def world(grid: Grid) -> np.ndarray:
    """Where all voxels lie, (d, h, w, 3) in LPS mm."""
    return grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), -1)).transpose(2, 1, 0, 3)


def blob(grid: Grid, center, sigma: float) -> sitk.Image:
    distance = np.linalg.norm(world(grid) - center, axis=-1)
    return scalar_image(np.exp(-((distance / sigma) ** 2) / 2).astype(np.float32), grid)


def registration(fixed, moving, deformation: Deformation | None = None, **more) -> Registration:
    """A result as the pipeline would put it together."""
    deformation = deformation or Deformation.identity(grid_of(fixed))
    transform = deformation.to_itk()
    minimum = float(sitk.GetArrayViewFromImage(moving).min())
    return Registration(
        fixed,
        moving,
        sitk.Resample(moving, fixed, transform, sitk.sitkLinear, minimum),
        deformation,
        transform,
        deformation.to_itk(inverse=True),
        vector_image(deformation.vectors(), deformation.grid),
        scalar_image(deformation.jacobian(), deformation.grid),
        **more,
    )


def pixels(png: bytes) -> np.ndarray:
    """(h, w, 3) of a PNG file."""
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def panels(gallery: pictures.Gallery, plane: str) -> dict[str, np.ndarray]:
    row = next(row for row in gallery.rows if row.plane == plane)
    return {panel.key: pixels(panel.png) for panel in row.panels}


class Page(HTMLParser):
    """What a browser would make of a page: tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.style, self.text, self._tag = "", "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag == "style":
            self.style += data
        else:
            self.text += re.sub(r"\s+", " ", data)

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    @property
    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.tags}

    def safe(self) -> bool:
        """No script, nothing that runs on an event, nothing that comes from elsewhere."""
        return (
            all(tag not in ("script", "link", "iframe", "object", "embed", "base", "form") for tag, _ in self.tags)
            and not any(name.startswith("on") or name in ("href", "srcset") for _, a in self.tags for name in a)
            and all(a["src"].startswith("data:image/png;base64,") for _, a in self.tags if "src" in a)
            and not any("url(" in (a.get("style") or "") for _, a in self.tags)
            and "url(" not in self.style
            and "@import" not in self.style
        )


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize(("plane", "toward"), [(AXIAL, (-1, -1)), (CORONAL, (-1, -1)), (SAGITTAL, (-1, -1))])
def test_a_blob_right_anterior_superior_is_seen_in_the_upper_left_where_it_lies(oblique, plane, toward):
    offset = np.array([-1.6, -2.0, 3.0])  # LPS: to the right, to the front, up
    center = oblique.center + offset
    box = Box.of_grid(oblique)
    grid = picture_grid(plane, center, box)
    picture = np.nan_to_num(cut(blob(oblique, center, 1.5), grid))
    row, column = np.unravel_index(np.argmax(picture), picture.shape)

    height, width = picture.shape
    assert np.sign((column - width / 2, row - height / 2)).tolist() == list(toward)
    # Millimeters from the middle of the box along the picture's axes, written out for each plane.
    middle = (box.low + box.high) / 2
    x, y, z = center - middle
    expected = {"axial": (x, y), "coronal": (x, -z), "sagittal": (y, -z)}[plane.name]
    found = np.array([column - (width - 1) / 2, row - (height - 1) / 2]) * grid.spacing[0]
    np.testing.assert_allclose(found, expected, atol=1.0)  # within a voxel


def test_directions_and_letters_are_radiological():
    assert [p.letters for p in PLANES] == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    assert [p.axis for p in PLANES] == [2, 1, 0]
    assert AXIAL.position(np.array([1, 2, -3.21])) == "I 3.2 mm"
    assert CORONAL.position(np.array([1, -2, 3])) == "A 2.0 mm"
    assert SAGITTAL.position(np.array([1.04, 2, 3])) == "L 1.0 mm"


def test_a_ball_is_round_and_of_its_size_on_anisotropic_voxels():
    grid = Grid.from_geometry(
        (60, 40, 20), (0.7, 1.0, 2.0), (30, -5, 90), Rotation.from_rotvec([0.4, 0.2, -0.3]).as_matrix()
    )
    distance = np.linalg.norm(world(grid) - grid.center, axis=-1)
    ball = scalar_image(np.clip(12 - distance, 0, 2).astype(np.float32), grid)  # half its height at a radius of 11 mm
    for plane in PLANES:
        lattice = picture_grid(plane, grid.center, Box.of_grid(grid))
        inside = np.nan_to_num(cut(ball, lattice)) > 1
        for axis in (0, 1):
            assert inside.any(axis).sum() * lattice.spacing[0] == pytest.approx(22, abs=0.8)


def test_outside_the_image_there_is_nothing(oblique):
    grid = picture_grid(AXIAL, oblique.center, Box.of_grid(oblique))
    picture = cut(blob(oblique, oblique.center, 3), grid)
    inside = oblique.contains(slices.points_of(grid))
    assert (np.isfinite(picture) == inside).mean() > 0.999  # but for rounding at the border
    assert 0.1 < inside.mean() < 0.9
    labels = cut(sitk.Cast(blob(oblique, oblique.center, 3) > -1, sitk.sitkUInt8) * 7, grid, sitk.sitkLabelLinear)
    assert set(np.unique(labels[~inside])) == {0}
    assert labels.max() == 7


def test_vectors_are_read_at_the_right_place(oblique):
    field = vector_image(torch.from_numpy(world(oblique).transpose(3, 0, 1, 2).copy()).float()[None], oblique)
    grid = picture_grid(CORONAL, oblique.center, Box.of_grid(oblique))
    values, points = cut(field, grid), slices.points_of(grid)
    # Within the outer voxels' centers, where interpolation does not run against the border.
    index = oblique.to_index(points)
    inner = ((index >= 0) & (index <= np.array(oblique.size) - 1)).all(-1)
    np.testing.assert_allclose(values[inner], points[inner], atol=1e-3)
    assert inner.sum() > 1000


# ---------------------------------------------------------------- where to look


def test_cuts_go_through_the_structure_and_not_between_two():
    grid = Grid.from_geometry((60, 40, 50), (2, 2, 2), (-60, -40, -50))
    pair = sum(sitk.GetArrayFromImage(blob(grid, (x, 10, 20), 6)) for x in (-35, 40)) > 0.3
    points = slices.structure_points(scalar_image(pair.astype(np.uint8), grid))
    point = slices.focus(points, grid)
    assert min(abs(point[0] + 35), abs(point[0] - 40)) < 9  # the centroid, x = 2, lies between them
    np.testing.assert_allclose(point[1:], (10, 20), atol=2)
    axis, places = slices.stations(points, grid)
    assert axis != 0  # the middle of the longest extent would show neither
    assert np.ptp(places) > 4
    index = grid.to_index(point)
    np.testing.assert_allclose(index, np.round(index), atol=1e-9)


def test_foreground_is_the_body_without_table_and_noise():
    grid = Grid.from_geometry((60, 60, 40), (4, 4, 5))
    noise = np.random.default_rng(0).normal(-1000, 15, grid.shape)
    ball = np.linalg.norm(world(grid) - (118, 100, 100), axis=-1) < 75
    image = np.where(ball, 40, noise)
    image[:, 55] = 100  # a plate under the body
    points = slices.foreground_points(scalar_image(image.astype(np.float32), grid))
    np.testing.assert_allclose((points.min(0), points.max(0)), ((43, 25, 25), (193, 175, 175)), atol=6)


def test_small_structures_do_not_slip_through_a_coarse_look():
    grid = Grid.from_geometry((300, 300, 60), (0.5, 0.5, 1))
    array = np.zeros(grid.shape, np.uint8)
    array[31, 151, 207] = 3
    np.testing.assert_allclose(slices.structure_points(scalar_image(array, grid)), [(103.5, 75.5, 31)])


# ---------------------------------------------------------------- drawing


def test_rendered_pictures_keep_their_pixels_and_carry_letters_and_a_true_scale_bar():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (200, 240, 3)).astype(np.uint8)
    black = np.zeros_like(noise)
    pixel = 0.5
    drawn = {
        p.name: [
            pixels(x.png) for x in canvas.render([canvas.Tile("a", "", noise), canvas.Tile("b", "", black)], p, pixel)
        ]
        for p in PLANES
    }
    untouched = np.s_[30:80, 30:100]
    np.testing.assert_array_equal(drawn["axial"][0][untouched], noise[untouched])  # neither flipped nor blurred

    def letter(plane: str, where) -> np.ndarray:
        return drawn[plane][1][where]

    left, right, top, bottom = np.s_[85:115, :20], np.s_[85:115, -20:], np.s_[:20, 105:135], np.s_[-20:, 105:135]
    for a, b in [(("axial", left), ("coronal", left)), (("axial", right), ("coronal", right))]:
        np.testing.assert_array_equal(letter(*a), letter(*b))  # R and R, L and L
    for where in (top, bottom):
        np.testing.assert_array_equal(letter("coronal", where), letter("sagittal", where))
        assert (letter("axial", where) != letter("coronal", where)).any()
    ink = {
        place: letter("coronal", where).sum() for place, where in zip("RLSI", (left, right, top, bottom), strict=True)
    }
    assert ink["L"] < 0.75 * ink["R"]
    assert 0 < ink["I"] < 0.6 * ink["S"]
    assert not drawn["axial"][1][:60, :60].any()

    # 240 pixels of half a millimeter: a quarter is 30 mm.
    bar = (drawn["axial"][1][200 - 8] > 200).all(-1)[:100]
    assert bar.sum() * pixel == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize(("length", "expected"), [(0.9, 1), (3.4, 3), (7.2, 10), (41, 50), (130, 100), (0.021, 0.02)])
def test_round_lengths(length, expected):
    assert canvas.round_length(length) == pytest.approx(expected)


def box_image(grid: Grid, shift=(0, 0, 0)) -> sitk.Image:
    """A bright box with a dark corner, its left, posterior, inferior one."""
    x, y, z = np.moveaxis(world(grid) - grid.center - shift, -1, 0)

    def soft(depth: np.ndarray) -> np.ndarray:  # sharp edges would not survive interpolation
        return 1 / (1 + np.exp(-depth))

    inside = soft(14 - abs(x)) * soft(12 - abs(y)) * soft(10 - abs(z))
    corner = soft(x + 3) * soft(y + 3) * soft(3 - z)  # so wide that it reaches the middle, where the cuts go
    return scalar_image((100 + 900 * inside * (1 - corner / 2)).astype(np.int16), grid)


@pytest.fixture(scope="module")
def moved() -> Registration:
    """A pair that a shift of 6 mm to the left explains, with labels and segmentations, on a turned lattice."""
    direction = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix() @ np.diag([1, -1, 1])
    grid = Grid.from_geometry((40, 36, 20), (1.2, 1.3, 2.4), (-110, 75, 1200), direction)
    shift = np.array([6.0, 0, 0])
    affine = np.eye(4)
    affine[:3, 3] = shift
    fixed, moving = box_image(grid), box_image(grid, shift)
    labels, moving_labels = (sitk.Cast(image > 800, sitk.sitkUInt8) for image in (fixed, moving))
    found = labels + 4 * sitk.Cast(image_range(fixed), sitk.sitkUInt8)
    result = registration(
        fixed,
        moving,
        Deformation.identity(grid, affine),
        fixed_labels=labels,
        moving_labels=moving_labels,
        fixed_segmentation=found,
        moving_segmentation=found,
        label_names={1: "bright box", 4: EVIL},
        label_colors={1: "#12ab34", 4: "red;background:url(http://evil.example)"},
    )
    result.warped_labels = sitk.Resample(moving_labels, fixed, result.transform, sitk.sitkNearestNeighbor, 0)
    result.warped_segmentation = found
    result.report = whole_report()
    return result


def image_range(image: sitk.Image) -> sitk.Image:
    return (image > 400) * (image < 700)


def whole_report() -> dict:
    overlap = {
        "labels": {"bright box": {"dice": 0.7654, "hd95_voxels": 3.21}, EVIL: {"dice": 0.5, "hd95_voxels": None}}
    }
    overlap |= {"mean_dice": 0.6327, "mean_hd95_voxels": 3.21}
    return {
        "notice": NOTICE,
        "verdict": {"color": "red", "reasons": ["too much folds", "odd spacing"], "checks_passed": ["more alike"]},
        "warnings": ["odd spacing", "the organ is small"],
        "quality": {
            "similarity": {
                "correlation": {"before": None, "after": 0.8768},
                "local_correlation": {"before": 0.1234, "after": 0.4321},
                "mutual_information": {"before": 0.5, "after": 0.6},
            },
            "regularity": {
                "folded_share": 0.0123,
                "jacobian": {"min": -0.25, "max": 4.5},
                "log_jacobian_spread": 0.345,
                "displacement_mm": {"mean": 5.5, "max": 17.25},
                "inverse_consistency_voxels": {"mean": 0.111, "max": 0.222},
                "inverse_consistency_mm": {"mean": 0.333, "max": 0.444},
            },
            "two_way_disagreement_mm": None,
            "segmentation_agreement": overlap,
            "labels": {"before": overlap, "after": {"labels": {}, "mean_dice": None, "mean_hd95_voxels": None}},
            "landmarks": {
                "count": 17,
                "before_mm": {"mean": 9.87, "std": 1.0, "max": 12.0},
                "after_mm": {"mean": 1.23, "std": 0.5, "max": 2.5},
            },
        },
        "model": {
            "name": "box-net",
            "title": "Boxes",
            "license": "CC-BY-4.0",
            "sha256": "ab" * 32,
            "training": {"data": "boxes", "license": "CC0", "subjects": 3},
        },
        "settings": {"refine": 20, "similarity": "lncc", "align": None},
        "inputs": {
            "fixed": {"file": f"/data/{EVIL}.nii.gz", "size": [40, 36, 20], "spacing_mm": [1.2, 1.3, 2.4], "type": "t"},
            "moving": {"file": None, "size": [40, 36, 20], "spacing_mm": [1.2, 1.3, 2.4], "type": "t"},
            "fixed_labels": "/data/labels.nii.gz",
        },
        "device": "cpu (1 threads)",
        "notes": ["computed on the CPU instead"],
        "versions": {"jointregseg": "9.8.7", "torch": "1.2.3"},
        "seconds": {"reading": 0.5, "total": 12.345},
    }


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
    assert gallery.legend[0] == ("bright box", "#12ab34")
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


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(moved, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(moved, path)
    assert path.stat().st_size < 3e6
    return Page(path.read_text(encoding="utf-8"))


def test_page_is_alone_and_safe(page):
    assert page.safe()
    assert any(a.get("http-equiv") == "Content-Security-Policy" for _, a in page.tags)
    for image in page.images:
        assert image["alt"]
        data = base64.b64decode(image["src"].partition(",")[2], validate=True)
        height, width, _ = pixels(data).shape
        if "width" in image:
            assert (int(image["width"]), int(image["height"])) == (width, height)
            assert min(width, height) >= 100
            assert pixels(data).std() > 1
        else:
            assert image["alt"] == "color scale"
    assert len(page.images) > 30


def test_page_shows_evil_names_as_text(page):
    assert page.text.count(STEM) >= 3  # title, heading, names of labels
    assert EVIL in page.text


def test_page_has_every_section_and_the_notice_first(page):
    assert {"notice", "verdict", "pictures", "outlines", "figures", "details"} <= page.ids
    body = page.text[page.text.index(NOTICE) :]
    assert body.index(NOTICE) < body.index("registered to") < body.index("RED")
    for title in (
        "Similarity of the images",
        "Segmentation agreement",
        "Overlap of the given labels",
        "Landmarks",
        "Inputs",
        "Settings",
        "Model",
        "Device and versions",
        "Time",
        "Notes",
        "What to look for",
    ):
        assert title in page.text


@pytest.mark.parametrize(
    "text",
    [
        "RED",
        "Do not rely on this registration",
        "too much folds",
        "the organ is small",
        "Passed: more alike",
        "0.877",
        "0.123",
        "1.23 %",
        "-0.25 to 4.50",
        "0.345",
        "5.50 mm, 17.25 mm",
        "0.333 mm (0.111 voxels)",
        "0.444 mm (0.222 voxels)",
        "0.765",
        "3.2",
        "17 pairs",
        "9.87 mm",
        "1.23 mm",
        "CC-BY-4.0",
        "ab" * 32,
        "9.8.7",
        "cpu (1 threads)",
        "computed on the CPU instead",
        "12.35 s",
        "/data/labels.nii.gz",
        "40 × 36 × 20",
        "bright box",
    ],
)
def test_page_shows(page, text):
    assert text in page.text


def test_a_reason_is_not_repeated_as_a_warning(page):
    assert page.text.count("odd spacing") == 1


def test_none_is_not_available(page):
    # Correlation before, disagreement, align, the moving file; a label's HD95 twice and all that is missing "after".
    assert page.text.count("not available") == 4 + 2 + 2 * 2 + 2
    assert "None" not in page.text


@pytest.mark.parametrize(
    ("size", "spacing"), [((40, 36, 2), (1, 1, 8)), ((3, 40, 34), (6.0, 1.5, 1)), ((2, 2, 2), (1, 2, 3))]
)
def test_thin_volumes_without_labels_or_figures(tmp_path, size, spacing):
    grid = Grid.from_geometry(size, spacing, (5, 6, 7), Rotation.from_rotvec([0, 0, 0.2]).as_matrix())
    array = np.random.default_rng(0).normal(size=grid.shape).cumsum(-1).astype(np.float32)
    write_html(registration(scalar_image(array, grid), scalar_image(1000 * array, grid)), tmp_path / "thin.html")
    page = Page((tmp_path / "thin.html").read_text(encoding="utf-8"))
    assert page.safe()
    assert NOTICE in page.text
    assert "neither a segmentation nor a label map" in page.text
    assert "each has its own gray window" in page.text
    assert "Outlines:" not in page.text
    assert min(int(image["height"]) for image in page.images if "height" in image) >= 0.44 * slices.SIDE


def test_an_image_elsewhere_in_space_an_empty_map_and_a_name_that_is_no_text(tmp_path):
    grid = Grid.from_geometry((30, 30, 30), (1, 1, 1))
    affine = np.eye(4)
    affine[:3, 3] = 500
    image = blob(grid, grid.center, 6)
    half = grid.cropped((0, 0, 0), (15, 30, 30)).transformed(affine)  # the patient's right half only
    moving = blob(half, grid.center + 500, 6)
    empty = scalar_image(np.zeros(grid.shape, np.uint16), grid)
    result = registration(image, moving, Deformation.identity(grid, affine), fixed_labels=empty)
    result.report = {"inputs": {"fixed": {"file": "bad\udcff.nii"}}, "verdict": {"color": "amber", "reasons": ["r"]}}
    write_html(result, tmp_path / "far.html")
    page = Page((tmp_path / "far.html").read_text(encoding="utf-8"))
    assert page.text.count("The moving image lies elsewhere in space.") == 3
    warped = next(image for image in page.images if image["alt"].startswith("Moving, warped, axial"))
    shown = pixels(base64.b64decode(warped["src"].partition(",")[2]))
    outside = (shown == canvas.OUTSIDE).all(-1)[30:-30]
    assert not outside[:, 20:110].any()
    assert outside[:, 140:-20].all()
    assert "without the mean shift of 707.1 mm" in page.text
    assert "bad\\udcff.nii" in page.text
    assert "AMBER" in page.text
    assert "neither a segmentation nor a label map with any label" in page.text


def test_a_page_that_cannot_be_written_says_so(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda result: "page")
    with pytest.raises(OutputError, match=r"cannot be written.*check space"):
        write_html(moved, tmp_path / "missing" / "report.html")
