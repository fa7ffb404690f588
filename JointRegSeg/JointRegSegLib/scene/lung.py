"""A lung review in the scene: computed by the worker, kept with the result that it is of, and shown for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import slicer

from .. import dicom
from ..client import Event, Worker
from ..errors import InputError
from . import files, layout, motion, results, runs, sitk, volumes
from .files import FIXED_REFERENCE, MOVING_REFERENCE
from .overlays import RIGHT, legend
from .results import SceneResult
from .segments import as_label_maps, layers, mask_of

#: What nodes of a review are in their result: labels, outline, report, and a map for each measure.
LABELS, OUTLINE, REPORT, MAP = "lung_labels", "lung_outline", "lung_report", "lung_map_"
#: The measure whose map holds classes, which have names.
CLASSES = "parametric_response"
#: Level and width in HU of the window in which lungs are read, and opacity of a map over the scan.
LEVEL, WIDTH, OPACITY = -600, 1500, 0.7
#: mm between arrows of the motion.
SPACING = 12.0
#: About how long each stage takes beside the others, in order; the second group where the scans are registered first.
STAGES = {"starting": 1, "reading": 3, "outlining": 2, "resampling": 2, "checking": 2, "measuring": 4}
REGISTERING = {"starting": 1, "reading": 3, "outlining": 2, "affine": 8, "deformation": 60, "refining": 20}

Lungs = slicer.vtkMRMLLabelMapVolumeNode | slicer.vtkMRMLSegmentationNode


@dataclass
class LungReview:
    """A review and the result that holds its nodes.

    Attributes
    ----------
    result : SceneResult
    report : dict
        As in ``review.json``: warnings, figures of all regions, evidence.
    request : int or None
        Of the worker, as long as that is the one that computed it.
    """

    result: SceneResult
    report: dict[str, Any]
    request: int | None = None

    @property
    def maps(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode]:
        """The maps that are still in the scene, by measure."""
        found = {role.removeprefix(MAP): self.result.get(role) for role in self.result.nodes if role.startswith(MAP)}
        return {name: node for name, node in found.items() if node is not None and node.IsA("vtkMRMLVolumeNode")}


class LungRun(runs.Run):
    """A review on its way; see `runs.Run` for how it is followed, canceled and waited for.

    Parameters
    ----------
    result : SceneResult or None
        Holds the transform, and the review once it is there; None to register the scans, where lungs slide along the
        wall.
    fixed, moving : vtkMRMLScalarVolumeNode
        The two scans; parent transforms count.
    reference : 'inhale' or 'exhale'
        What the fixed one is.
    lungs : dict, optional
        Label map or segmentation nodes by 'fixed' and 'moving'; by default lungs are found by themselves.
    points : dict, optional
        Markups nodes by 'fixed' and 'moving', corresponding: they give the error.
    patient : dict, optional
        What the report calls the patient; nobody is named without.
    options : dict, optional
        Of a registration, see `runs.Run`.
    more
        ``outputs`` and ``replaced`` of a registration, see `runs.Run`.

    Raises
    ------
    InputError
        If something cannot be used as it is; nothing has been started then.
    """

    result: LungReview | None

    @property
    def registered(self) -> bool:
        """Whether the scans are registered for the review."""
        return self._of is None

    def __init__(
        self,
        worker: Worker,
        scene: slicer.vtkMRMLScene,
        result: SceneResult | None,
        fixed: slicer.vtkMRMLScalarVolumeNode,
        moving: slicer.vtkMRMLScalarVolumeNode,
        reference: str = "inhale",
        lungs: Mapping[str, Lungs] | None = None,
        points: Mapping[str, slicer.vtkMRMLMarkupsNode] | None = None,
        patient: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        if reference not in ("inhale", "exhale"):
            raise InputError(f"the fixed volume is 'inhale' or 'exhale', not '{reference}'")
        lungs = {side: node for side, node in (lungs or {}).items() if node is not None}
        points = {side: node for side, node in (points or {}).items() if node is not None}
        if len(points) == 1:
            raise InputError("landmarks are needed in both scans or in none; choose the other list, too")
        if result is not None and options:
            raise InputError("a registration that is there is reviewed as it is; leave its options out")
        if result is not None and (other := _changed(result, fixed, moving)):
            raise InputError(
                f"'{other[0]}' holds other voxels, or lies elsewhere, than when it was registered; register again"
            )
        self._of = result
        self._transform = None if result is None else volumes.itk_transform(result.need("transform"))
        self._masks: dict[str, sitk.Image] = {}
        self._request: dict[str, Any] = {"reference": reference, "patient": dict(patient or {})}
        self._request |= {f"{side}_tags": _tags_of(node) for side, node in (("fixed", fixed), ("moving", moving))}
        maps, names = {}, {}
        for side, node in sorted(lungs.items()):  # the fixed one first
            if node.IsA("vtkMRMLSegmentationNode"):
                self._masks[f"{side}_labels"], names = _labels_of(node, names)
            else:
                maps[side] = node
                names = names or _names_of(node)
            if side == "fixed":
                self._request["names"] = names
        more = {"outputs": ("inverse",), **more}  # by which motion is shown
        super().__init__(worker, scene, fixed, moving, dict(options or {}), maps, points, **more)

    def _write(self) -> None:
        try:
            for name, mask in self._masks.items():
                sitk.WriteImage(mask, str(self._folder / f"{name}.nrrd"), useCompression=False)
                self._names[name] = f"{name}.nrrd"
            if self._transform is not None:
                sitk.WriteTransform(self._transform(), str(self._folder / "transform.h5"))
                self._names["transform"] = "transform.h5"
        except (RuntimeError, OSError, MemoryError) as error:
            self._problem = error
        super()._write()

    def _ask(self) -> int:
        names = {"folder": str(self._folder), **self._names}
        if self._of is None:
            names |= {"options": self._options, "outputs": self._outputs}
        return self._worker.submit("review", **names, **self._points, **self._request)

    def _overall(self, stage: str, fraction: float) -> float:
        stages = STAGES if self._of is not None else REGISTERING | STAGES
        if not self._options.get("refine"):
            stages = {name: share for name, share in stages.items() if name != "refining"}
        return runs.passed(stages, stage, fraction)

    def _put(self, event: Event) -> LungReview:
        if self._of is not None and self._of.get("transform") is None:
            raise RuntimeError("the registration was removed meanwhile")
        event["report"]["versions"]["slicer"] = runs.slicer_version()
        result = self._of or super()._put(event["registration"])
        try:
            out = put(self._scene, self._folder, event, result, self._fixed)
        except BaseException:
            if self._of is None:
                results.remove(self._scene, result)
            raise
        out.request = self._number
        return out


def _tags_of(node: slicer.vtkMRMLScalarVolumeNode) -> dict[str, str]:
    """What DICOM says of a volume that was loaded from Slicer's database; nothing of others."""
    database, instances = getattr(slicer, "dicomDatabase", None), node.GetAttribute("DICOM.instanceUIDs")
    if database is None or not instances:
        return {}
    first = instances.split()[0]
    found = {tag: database.instanceValue(first, tag.replace("|", ",")) for tag in (*dicom.TAGS, *dicom.PERSON)}
    return {tag: value.strip() for tag, value in found.items() if value and value.strip()}


def _names_of(node: slicer.vtkMRMLLabelMapVolumeNode) -> dict[int, str]:
    """Of the values of a label map by its color table, if somebody made that for it; Slicer's own name other organs."""
    display = node.GetDisplayNode()
    table = display.GetColorNode() if display else None
    if table is None or not table.IsA("vtkMRMLColorTableNode") or table.GetType() != table.User:
        return {}
    if node.GetImageData() is None:  # of which its reader tells
        return {}
    highest = int(node.GetImageData().GetScalarRange()[1])  # looking at each voxel would hold up the window
    names = {value: table.GetColorName(value) for value in range(1, highest + 1)}
    return {value: f"label {value}" if name in (None, "", "(none)") else name for value, name in names.items()}


def _labels_of(node: slicer.vtkMRMLSegmentationNode, known: Mapping[int, str]) -> tuple[sitk.Image, dict[int, str]]:
    """Segments as one label map, and their names by value; a name that is known keeps its value."""
    segmentation, stored = node.GetSegmentation(), as_label_maps(node)
    masks = {}
    for i in range(segmentation.GetNumberOfSegments()):
        identifier = segmentation.GetNthSegmentID(i)
        mask = mask_of(node, identifier, stored)
        if mask is not None:
            masks[identifier] = mask
    stacked = layers(masks)
    if len(stacked) != 1:
        why = "holds no segment" if not stacked else "has segments that overlap, or on different lattices"
        raise InputError(f"'{node.GetName()}': {why}; export the lungs to a label map and choose that")
    image, identifiers = stacked[0]
    names = [segmentation.GetSegment(identifier).GetName() for identifier in identifiers]
    values = {name: value for value, name in known.items()}
    values |= {name: max(known, default=0) + i for i, name in enumerate(names, 1) if name not in values}
    image = sitk.ChangeLabel(image, {i: values[name] for i, name in enumerate(names, 1)})
    return image, {values[name]: name for name in names}


def put(
    scene: slicer.vtkMRMLScene,
    folder: Any,
    event: Event,
    result: SceneResult,
    fixed: slicer.vtkMRMLScalarVolumeNode,
) -> LungReview:
    """Make nodes of what the worker wrote and told; an earlier review of this result goes."""
    out = LungReview(result, event["report"])
    scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    try:
        remove(result)
        written = dict(event["files"])
        image = sitk.ReadImage(str(folder / written.pop("lungs")))
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", scene.GenerateUniqueName("Lungs"))
        volumes.fill(labels, image)
        labels.CreateDefaultDisplayNodes()
        results.adopt(result, LABELS, labels)
        sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8), str(folder / "outline.nrrd"), useCompression=False)
        entry = [{"value": 1, "name": "lungs", "color": "#ffd166"}]
        outline = files.segmentation(scene, folder / "outline.nrrd", "Lungs outline", entry, fixed)
        outline.GetDisplayNode().SetVisibility(False)
        results.adopt(result, OUTLINE, outline)
        for name, file in written.items():
            colors = event["colors"][name]
            node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(colors["title"]))
            volumes.fill(node, sitk.ReadImage(str(folder / file)))
            results.adopt(result, f"{MAP}{name}", node)
            _color(scene, result, name, node, colors)
        text = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GenerateUniqueName("Lung review"))
        text.SetText(json.dumps(out.report, indent=2, allow_nan=False))
        results.adopt(result, REPORT, text)
    except BaseException:
        remove(result)
        raise
    finally:
        scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    return out


def _color(
    scene: slicer.vtkMRMLScene,
    result: SceneResult,
    name: str,
    node: slicer.vtkMRMLScalarVolumeNode,
    colors: Mapping[str, Any],
) -> None:
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", scene.GenerateUniqueName(f"{colors['title']} colors"))
    table.SetTypeToUser()
    table.SetNumberOfColors(len(colors["colors"]))
    names = colors.get("names") or [str(i) for i in range(len(colors["colors"]))]
    for i, (color, called) in enumerate(zip(colors["colors"], names, strict=True)):
        table.SetColor(i, called, *color, 1.0)
    results.adopt(result, f"{MAP}{name}_colors", table)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(table.GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(colors["low"], colors["high"])
    # NaN, outside the lungs, is not between any two thresholds: the scan shows.
    display.SetAutoThreshold(False)
    display.SetThreshold(*colors["range"])
    display.SetApplyThreshold(True)


def remove(result: SceneResult) -> None:
    """Take the review of a result out of the scene."""
    for role in [role for role in result.nodes if role.startswith("lung_")]:
        results.discard(result, role)


def find(scene: slicer.vtkMRMLScene, result: SceneResult | None) -> LungReview | None:
    """The review of a result, as after a scene was saved and opened again; None if there is none.

    Its nodes join those of the result, which may have been found before there were any.
    """
    there = results.find(scene, result.identifier) if result is not None else None
    if there is None:
        return None
    result.nodes |= {role: node for role, node in there.nodes.items() if role.startswith("lung_")}
    node = result.get(REPORT)
    try:
        report = json.loads(node.GetText()) if node is not None else None
    except ValueError:  # users can edit it
        return None
    whole = (
        isinstance(report, dict) and {"regions", "warnings", "exchanged", "volumes_ml", "reference"} <= report.keys()
    )
    return LungReview(result, report) if whole else None


def scans(result: SceneResult) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLScalarVolumeNode]:
    """The fixed and the moving volume of a result.

    Raises
    ------
    InputError
        If one of them is not in the scene anymore.
    """
    transform = result.need("transform")
    pair = tuple(transform.GetNodeReference(role) for role in (FIXED_REFERENCE, MOVING_REFERENCE))
    if None in pair:
        raise InputError("a volume of the result is not in the scene anymore; load it and register again")
    return pair


def is_of(result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode, moving: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether a result, whose transform is there, is of these two volumes as they are now."""
    transform = result.get("transform")
    roles = FIXED_REFERENCE, MOVING_REFERENCE
    if transform is None or [transform.GetNodeReferenceID(r) for r in roles] != [fixed.GetID(), moving.GetID()]:
        return False
    return not _changed(result, fixed, moving)


def _changed(
    result: SceneResult, fixed: slicer.vtkMRMLScalarVolumeNode, moving: slicer.vtkMRMLScalarVolumeNode
) -> list[str]:
    """Names of those volumes that hold other voxels, or lie elsewhere, than when they were registered.

    A frame of a sequence takes the place of another in the same node.
    """
    inputs = result.report.get("inputs", {})
    known = [(inputs.get(side, {}).get("fingerprint"), node) for side, node in (("fixed", fixed), ("moving", moving))]
    return [node.GetName() for mark, node in known if mark is not None and volumes.fingerprint(node) != mark]


def registration(
    scene: slicer.vtkMRMLScene, fixed: slicer.vtkMRMLScalarVolumeNode, moving: slicer.vtkMRMLScalarVolumeNode
) -> SceneResult | None:
    """The last result in the scene that is of these two volumes, None without one."""
    there = (results.find(scene, entry.identifier) for entry in reversed(results.entries(scene)))
    return next((r for r in there if r is not None and is_of(r, fixed, moving)), None)


def patient_of(node: slicer.vtkMRMLScalarVolumeNode) -> dict[str, str]:
    """What the scene knows of the patient of a volume, for a report that names him or her."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    out = {"Volume": node.GetName()}
    person = hierarchy.GetItemAncestorAtLevel(item, constants.GetDICOMLevelPatient()) if item else 0
    if person:
        out["Patient"] = hierarchy.GetItemName(person)
        for title, attribute in (
            ("ID", constants.GetDICOMPatientIDAttributeName()),
            ("Birth date", constants.GetDICOMPatientBirthDateAttributeName()),
        ):
            if value := hierarchy.GetItemAttribute(person, attribute):
                out[title] = value
    return out


def show(scene: slicer.vtkMRMLScene, review: LungReview, measure: str, spacing_mm: float = SPACING) -> None:
    """Show a review for reading: fixed | warped over a map | the motion in the lungs, all in the lung window.

    Raises
    ------
    InputError
        If something that it takes is not in the scene anymore.
    """
    result = review.result
    fixed, _ = scans(result)
    if review.report.get("ct"):
        for node in (fixed, result.need("warped")):
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().AutoWindowLevelOff()
            node.GetDisplayNode().SetWindowLevel(WIDTH, LEVEL)
    layout.show(scene, result, fixed, "blend", 0.0)
    outline = result.need(OUTLINE)
    display = outline.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetSliceIntersectionThickness(1)
    display.SetViewNodeIDs([layout.slice_node(scene, tag).GetID() for tag in (layout.WARPED, layout.DEFORMATION)])
    display.SetVisibility(True)
    segment = (outline, outline.GetSegmentation().GetNthSegmentID(0))
    show_map(scene, review, measure)
    center(scene, review)
    motion.deformation(scene, result, "glyphs", spacing_mm, segment)


def show_map(scene: slicer.vtkMRMLScene, review: LungReview, measure: str) -> None:
    """Lay a map over the fixed scan in the third view, with its legend.

    Raises
    ------
    InputError
        If it is not in the scene anymore.
    """
    chosen = review.result.need(f"{MAP}{measure}")
    for node in review.maps.values():
        legend(node, "", "", False)
    described = review.report["measures"][measure]
    title = described["unit"] or (described["formula"] if len(described["formula"]) < 8 else "no unit")
    classes = measure == CLASSES
    legend(chosen, described["title"] if classes else title, "" if classes else "%.2g", True, RIGHT)
    view = layout.composite(scene, layout.COMPARISON)
    view.SetForegroundVolumeID(chosen.GetID())
    view.SetForegroundOpacity(OPACITY)


def hide(scene: slicer.vtkMRMLScene, review: LungReview) -> None:
    """Take what a review lays over the scans from view."""
    for node in review.maps.values():
        legend(node, "", "", False)
    outline = review.result.get(OUTLINE)
    if outline is not None:
        outline.GetDisplayNode().SetVisibility(False)
    view = layout.composite(scene, layout.COMPARISON)
    if view.GetForegroundVolumeID() in {node.GetID() for node in review.maps.values()}:
        view.SetForegroundVolumeID(None)


def center(scene: slicer.vtkMRMLScene, review: LungReview) -> None:
    """Let the reading views cut through the middle of the lungs."""
    jump(scene, review.report["regions"][0]["center_mm"])


def jump(scene: slicer.vtkMRMLScene, center: list[float]) -> None:
    """Let the reading views cut through a place, LPS mm."""
    for tag in layout.VIEWS:
        layout.slice_node(scene, tag).JumpSliceByOffsetting(-center[0], -center[1], center[2])
