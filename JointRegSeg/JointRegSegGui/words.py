"""What the library calls things, in the user's language, and where in the panel the cure for an error is."""

from __future__ import annotations

import slicer
from JointRegSegLib.errors import JointRegSegError
from JointRegSegLib.scene.runs import image_seen
from slicer.i18n import tr as _


def stage(name: str) -> str:
    """What a run is doing."""
    return {
        "starting": _("Starting"),
        "reading": _("Reading the volumes"),
        "outlining": _("Outlining the lungs"),
        "affine": _("Aligning the volumes as wholes"),
        "network": _("Applying the model"),
        "deformation": _("Finding the deformation"),
        "refining": _("Refining"),
        "resampling": _("Making the warped volume"),
        "checking": _("Checking the result"),
        "measuring": _("Measuring the lungs"),
        "showing": _("Showing the result"),
    }.get(name, name)


def verdict(color: str) -> str:
    """The quality check in a word."""
    return {"green": _("GREEN"), "amber": _("AMBER"), "red": _("RED")}[color]


def problem(error: JointRegSegError) -> str:
    """What is wrong, and where in the panel the cure is, if it is there."""
    place = {
        "align": _("Advanced, Begin: Middle on middle"),
        "device_name": _("Advanced, Device: Automatic"),
        "fill": _("Advanced, Replace missing values by 0"),
        "lungs": _("Lung review, Lungs"),
        "names": _("Lung review, Lungs"),
        "model": _("Model, Import model…"),
    }.get(error.option)
    return _("{problem} ({place})").format(problem=error, place=place) if place else str(error)


def unfit(fixed: slicer.vtkMRMLScalarVolumeNode, moving: slicer.vtkMRMLScalarVolumeNode) -> str:
    """Why a volume can never be registered, as a sentence; what may change until the click is told after it."""
    for node, role in ((fixed, _("fixed volume")), (moving, _("moving volume"))):
        image = node.GetImageData()
        if not node.IsA("vtkMRMLLabelMapVolumeNode") and (image is None or image.GetNumberOfScalarComponents() < 2):
            continue
        try:
            image_seen(node, role)
        except JointRegSegError as error:
            return problem(error)
    return ""
