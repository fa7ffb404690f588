"""What the tests of pictures and of the report page share."""

import io

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import pictures
from JointRegSegLib.deformation import Deformation, scalar_image, vector_image
from JointRegSegLib.files import grid_of
from JointRegSegLib.geometry import Grid
from JointRegSegLib.pipeline import NOTICE
from JointRegSegLib.result import Registration
from JointRegSegLib.slices import PLANES
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


def box_image(grid: Grid, shift=(0, 0, 0)) -> sitk.Image:
    """A bright box with a dark corner, its left, posterior, inferior one."""
    x, y, z = np.moveaxis(world(grid) - grid.center - shift, -1, 0)

    def soft(depth: np.ndarray) -> np.ndarray:  # sharp edges would not survive interpolation
        return 1 / (1 + np.exp(-depth))

    inside = soft(14 - abs(x)) * soft(12 - abs(y)) * soft(10 - abs(z))
    corner = soft(x + 3) * soft(y + 3) * soft(3 - z)  # so wide that it reaches the middle, where the cuts go
    return scalar_image((100 + 900 * inside * (1 - corner / 2)).astype(np.int16), grid)


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
            "segmentation_agreement": overlap | {"sought": True},
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


def moved_box() -> Registration:
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
