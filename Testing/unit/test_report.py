"""The report page: whole, safe and alone."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from drawn import EVIL, STEM, blob, moved_box, pixels, registration
from JointRegSegLib import canvas, report, slices
from JointRegSegLib.deformation import Deformation, scalar_image
from JointRegSegLib.errors import OutputError
from JointRegSegLib.geometry import Grid
from JointRegSegLib.pipeline import NOTICE
from JointRegSegLib.report import write_html
from JointRegSegLib.result import Registration
from scipy.spatial.transform import Rotation


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


@pytest.fixture(scope="module")
def moved() -> Registration:
    return moved_box()


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
        "The registration sought this agreement",
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
    # Correlation before, disagreement, lattice, the moving file; a label's HD95 twice and all that is missing "after".
    assert page.text.count("not available") == 4 + 2 + 2 * 2 + 2
    assert "not set" in page.text  # align
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
    half = Grid((15, 30, 30), affine @ grid.affine)  # the patient's right half only
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
