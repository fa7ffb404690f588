"""What a registration gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .deformation import Deformation
from .progress import Progress, silent


@dataclass
class Registration:
    """Everything that came out of one pair; images are SimpleITK's.

    Attributes
    ----------
    fixed, moving : sitk.Image
        The inputs.
    warped : sitk.Image
        Moving image on the fixed grid, in its own pixel type; its minimum where it does not reach.
    deformation : Deformation
        The map itself, for points and further images.
    transform, inverse_transform : sitk.CompositeTransform
        Fixed → moving points (what resampling the moving image needs) and moving → fixed points.
    displacement, jacobian : sitk.Image
        T(x) - x in LPS mm, and the determinant of T's derivative, on the fixed grid, or on every n-th voxel of it where
        that has more than `deformation.FIELD_VOXELS`.
    fixed_segmentation, moving_segmentation : sitk.Image or None
        What the model found, each on its own image's grid; None for a model that does not segment.
    warped_segmentation, warped_labels : sitk.Image or None
        The moving segmentation, and the given moving labels, carried to the fixed grid.
    fixed_labels, moving_labels : sitk.Image or None
        As given.
    label_names : dict
        Names of the segmentation's values.
    report : dict
        Quality, verdict, warnings, model, versions, device, settings, seconds: what ``report.json`` holds.
    """

    fixed: sitk.Image
    moving: sitk.Image
    warped: sitk.Image
    deformation: Deformation
    transform: sitk.CompositeTransform
    inverse_transform: sitk.CompositeTransform
    displacement: sitk.Image
    jacobian: sitk.Image
    fixed_segmentation: sitk.Image | None = None
    moving_segmentation: sitk.Image | None = None
    warped_segmentation: sitk.Image | None = None
    warped_labels: sitk.Image | None = None
    fixed_labels: sitk.Image | None = None
    moving_labels: sitk.Image | None = None
    label_names: dict[int, str] = field(default_factory=dict)
    label_colors: dict[int, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """'green', 'amber' or 'red'."""
        return self.report["verdict"]["color"]

    def save(self, folder: str | Path, overwrite: bool = False, progress: Progress = silent) -> Path:
        """Write all files to ``folder``, all or none; see `output.save`."""
        from .output import save

        return save(self, folder, overwrite, progress)
