"""What a user chooses, as it is kept in the scene."""

import enum
from typing import Annotated, Union, get_args, get_type_hints

from JointRegSegLib import catalog
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsAngleNode,
    vtkMRMLMarkupsClosedCurveNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScriptedModuleNode,
    vtkMRMLSegmentationNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class _Labeled(enum.Enum):
    """A choice whose value is what the library calls it."""

    def label(self) -> str:
        """What users see; asked when the list is filled, when the language is known."""
        return {
            Similarity.CORRELATION: _("Local correlation"),
            Similarity.SQUARES: _("Squared difference"),
            Similarity.INFORMATION: _("Mutual information"),
            Alignment.MODEL: _("As the model was made for"),
            Alignment.WORLD: _("As they lie in space"),
            Alignment.CENTER: _("Middle on middle"),
            Device.AUTO: _("Automatic"),
            Device.CPU: _("Processor"),
            Device.CUDA: _("GPU (CUDA)"),
            Comparison.CHECKERBOARD: _("Checkerboard"),
            Comparison.DIFFERENCE: _("Difference"),
            Comparison.BLEND: _("Blend"),
            Deformation.OFF: _("Off"),
            Deformation.GRID: _("Grid"),
            Deformation.GLYPHS: _("Arrows"),
            Deformation.CONTOURS: _("Contours"),
            Segmentations.OFF: _("Off"),
            Segmentations.OUTLINE: _("Outlines"),
            Segmentations.FILL: _("Filled"),
            Phase.INHALE: _("Inhale"),
            Phase.EXHALE: _("Exhale"),
            Direction.TO_FIXED: _("From moving to fixed space"),
            Direction.TO_MOVING: _("From fixed to moving space"),
        }[self]


class Similarity(_Labeled):
    CORRELATION = "lncc"
    SQUARES = "mse"
    INFORMATION = "mi"


class Alignment(_Labeled):
    MODEL = "model"
    WORLD = "world"
    CENTER = "center"


class Device(_Labeled):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Comparison(_Labeled):
    CHECKERBOARD = "checkerboard"
    DIFFERENCE = "difference"
    BLEND = "blend"


class Deformation(_Labeled):
    OFF = "off"
    GRID = "grid"
    GLYPHS = "glyphs"
    CONTOURS = "contours"


class Segmentations(_Labeled):
    OFF = "off"
    OUTLINE = "outline"
    FILL = "fill"


class Direction(_Labeled):
    TO_FIXED = "fixed"
    TO_MOVING = "moving"


class Phase(_Labeled):
    INHALE = "inhale"
    EXHALE = "exhale"


#: What lungs can be given as.
Lungs = Union[vtkMRMLLabelMapVolumeNode, vtkMRMLSegmentationNode, None]  # noqa: UP007

#: What can be carried over. The wrapper needs classes of which there are nodes, and knows `Union` only.
Carried = Union[  # noqa: UP007
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLModelNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsAngleNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsClosedCurveNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLMarkupsROINode,
    None,
]


@parameterNodeWrapper
class JointRegSegParameterNode:
    """Inputs, settings and how the result is shown.

    ``model``, ``deformationSegment``, ``lungMeasure`` and ``result``, the identifier of the result that is shown, have
    lists that change and are filled by hand; all others are bound by the panel's file.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    model: str = catalog.GENERIC
    refine: bool = False
    refineSteps: Annotated[int, WithinRange(1, 500)] = 30
    similarity: Similarity = Similarity.CORRELATION
    alignment: Alignment = Alignment.MODEL
    device: Device = Device.AUTO
    fillMissing: bool = False
    workingSize: Annotated[int, WithinRange(32, 256)] = catalog.WORKING_SIZE
    wantInverse: bool = True
    wantSegmentations: bool = True
    wantJacobian: bool = True
    wantAgreement: bool = True
    replaceLast: bool = False
    result: str = ""
    comparison: Comparison = Comparison.CHECKERBOARD
    blend: Annotated[float, WithinRange(0, 1)] = 0.5
    deformationMode: Deformation = Deformation.GRID
    deformationSpacing: Annotated[float, WithinRange(1, 50)] = 10.0
    deformationSegment: str = ""
    showJacobian: bool = False
    segmentationDisplay: Segmentations = Segmentations.OUTLINE
    showAgreement: bool = False
    play: Annotated[float, WithinRange(0, 100)] = 100.0
    propagateNode: Carried
    direction: Direction = Direction.TO_FIXED
    fixedIs: Phase = Phase.INHALE
    fixedLungs: Lungs
    movingLungs: Lungs
    fixedPoints: vtkMRMLMarkupsFiducialNode
    movingPoints: vtkMRMLMarkupsFiducialNode
    namePatient: bool = False
    lungMeasure: str = "ventilation"

    def options(self) -> dict:
        """Keyword arguments of `register_and_segment`."""
        return {
            "model": self.model,
            "refine": self.refineSteps if self.refine else 0,
            "similarity": self.similarity.value,
            "align": None if self.alignment is Alignment.MODEL else self.alignment.value,
            "fill": 0.0 if self.fillMissing else None,
            "working_size": self.workingSize,
            "device_name": self.device.value,
        }

    def outputs(self) -> list[str]:
        """What is wanted beside the warped volume and the transform: see `runs.CHOICES`."""
        wanted = {
            "inverse": self.wantInverse,
            "jacobian": self.wantJacobian,
            "segmentations": self.wantSegmentations,
            "agreement": self.wantAgreement,
        }
        return [name for name, on in wanted.items() if on]


def forget_unknown(node: vtkMRMLScriptedModuleNode) -> None:
    """Take values out of a parameter node that this version does not know, as another version may have saved them.

    A choice by a name that does not exist and a number that is none or out of range become defaults again.
    """
    for name, hint in get_type_hints(JointRegSegParameterNode, include_extras=True).items():
        kind, *rules = get_args(Annotated[hint, None])[:-1]
        if kind not in (int, float) and not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            continue
        text = node.GetParameter(name)
        try:
            value = kind(text) if kind in (int, float) else kind[text]
            for rule in rules:
                rule.validate(value)
        except (KeyError, ValueError):
            node.UnsetParameter(name)
