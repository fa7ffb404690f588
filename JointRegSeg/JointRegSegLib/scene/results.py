"""What a registration leaves in the scene: one folder beside the moving volume, with everything in it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import vtk

from ..errors import InputError
from . import files

#: Marks nodes and folders as this module's own; the value is the result's identifier.
ATTRIBUTE = "JointRegSeg.Result"
#: What a node is in its result; by it a result is found again in a scene that was saved.
ROLE = "JointRegSeg.Role"
#: By which a node of a result refers to itself. A user's copy has its attributes, too, but refers to the original.
SELF = "JointRegSeg.Self"
#: What goes when something else does; colors go with what they color.
_OWNERS = {
    "played": "transform",
    "playing": "transform",
    "part": "inverse",
    "checkerboard": "warped",
    "difference": "warped",
}
#: What users read for roles, where underscores for spaces would not do, and what brings them back.
_TITLES = {
    "warped": "warped volume",
    "inverse": "inverse transform",
    "jacobian": "Jacobian map",
    "agreement": "agreement map",
}
_REGISTER, _REVIEW = "register again to get it", "review the lungs again to get it"
_CURES = {
    "inverse": "tick Inverse transform under Advanced, Outputs, and register again",
    "jacobian": "tick Jacobian map under Advanced, Outputs, and register again",
    "agreement": "tick Agreement map under Advanced, Outputs, and register again with a model that segments",
}
#: What a report holds at the least.
_SHAPE = {"verdict": dict, "quality": dict, "model": dict, "warnings": list, "notes": list, "seconds": dict}


@dataclass
class SceneResult:
    """Nodes of one registration, by role, and its report.

    Attributes
    ----------
    nodes : dict
        'warped', 'transform', 'inverse', 'jacobian', 'fixed_segmentation', 'moving_segmentation',
        'warped_segmentation', 'agreement', 'provenance': those that the model gives. What is made to look at a result
        joins them.
    folder : int
        Item of the subject hierarchy, 0 where a user removed it.
    report : dict
        As in ``report.json``; empty where a user removed its node from a scene that was saved.
    identifier : str
        By which `find` finds it.
    request : int or None
        Of the worker, as long as that is the one that computed it.
    """

    nodes: dict[str, Any] = field(default_factory=dict)
    folder: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    identifier: str = field(default_factory=lambda: uuid.uuid4().hex)
    request: int | None = None

    @property
    def verdict(self) -> str:
        """'green', 'amber' or 'red'."""
        return self.report["verdict"]["color"]

    def get(self, role: str) -> Any:
        """A node that is still in its scene, or None: users remove nodes whenever they like."""
        node = self.nodes.get(role)
        return node if node is not None and node.GetScene() is not None else None

    def need(self, role: str) -> Any:
        """A node that something cannot do without.

        Raises
        ------
        InputError
            If the model gave none, or the user has removed it.
        """
        node = self.get(role)
        if node is None:
            again = _REVIEW if role.startswith("lung_") else _REGISTER
            title, cure = _TITLES.get(role, role.replace("_", " ")), _CURES.get(role, again)
            raise InputError(f"the result has no {title} in the scene; {cure}")
        return node


def put(
    scene: slicer.vtkMRMLScene,
    folder: Path,
    event: dict[str, Any],
    fixed: slicer.vtkMRMLScalarVolumeNode,
    moving: slicer.vtkMRMLScalarVolumeNode,
    agreement: bool = True,
) -> SceneResult:
    """Make nodes of what the worker wrote to ``folder`` and told in its 'result' ``event``.

    ``agreement`` adds a map of where the two segmentations agree, if both are there.
    """
    images = {key: folder / name for key, name in event["files"].items()}
    out = SceneResult(report=event["report"])
    named = f"{moving.GetName()} to {fixed.GetName()}"
    scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    try:
        warped = files.volume(scene, images["warped"], f"{moving.GetName()} warped", like=moving)
        out.nodes["warped"] = warped
        out.nodes["transform"] = files.transform(scene, images["displacement"], f"{named}", fixed, moving)
        if "inverse_displacement" in images:
            out.nodes["inverse"] = files.transform(
                scene, images["inverse_displacement"], f"{named}, inverse", moving, fixed
            )
        if "jacobian" in images:
            out.nodes["jacobian"] = files.volume(scene, images["jacobian"], f"{named}, Jacobian")
        for key, title, source, reference in (
            ("fixed_segmentation", f"{fixed.GetName()} segmentation", "fixed_segmentation", fixed),
            ("moving_segmentation", f"{moving.GetName()} segmentation", "moving_segmentation", moving),
            ("warped_segmentation", f"{moving.GetName()} segmentation warped", "warped_segmentation", warped),
        ):
            if source in images:
                out.nodes[key] = files.segmentation(scene, images[source], title, event["labels"], reference)
        if agreement and "warped_segmentation" in images:
            maps = images["fixed_segmentation"], images["warped_segmentation"]
            out.nodes["agreement"], out.nodes["agreement_colors"] = files.agreement(scene, *maps, f"{named}, agreement")
        out.nodes["provenance"] = _text(scene, event["report"], f"{named}, provenance")
        out.folder = _folder(scene, named, moving, out.identifier)
        for role, node in out.nodes.items():
            adopt(out, role, node)
    except BaseException:
        remove(scene, out)
        raise
    finally:
        scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    return out


def write_report(result: SceneResult) -> None:
    """Bring the provenance node up to date with the report."""
    node = result.nodes.get("provenance")
    if node is not None:
        node.SetText(_text_of(result.report))


def _text_of(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=2, allow_nan=False)  # which JSON does not know


def remove(scene: slicer.vtkMRMLScene, result: SceneResult) -> None:
    """Take a result out of the scene again; nodes that the user has removed already are no matter."""
    for role in list(result.nodes):
        discard(result, role)
    sweep(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = _find_folder(hierarchy, result.identifier)
    if folder and not hierarchy.GetNumberOfItemChildren(folder):
        hierarchy.RemoveItem(folder)


def sweep(scene: slicer.vtkMRMLScene) -> None:
    """Take what serves a result out of the scene where what it served is gone: users remove nodes and folders.

    To be called whenever a node was removed from the scene. Looks at each node, and touches nothing of the user's.
    """
    if scene.IsClosing() or scene.IsImporting() or scene.IsRestoring():
        return
    while unneeded := _unneeded(scene):
        for node in unneeded:
            _take_out(node)


def _unneeded(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLNode]:
    """This module's displays without what they display, and hidden nodes without the one they serve."""
    nodes = map(scene.GetNthNode, range(scene.GetNumberOfNodes()))
    own = [node for node in nodes if node.GetAttribute(ATTRIBUTE) and (owns(node) or not node.GetAttribute(ROLE))]
    there = {(node.GetAttribute(ATTRIBUTE), node.GetAttribute(ROLE)) for node in own}
    out = []
    for node in own:
        identifier, role = node.GetAttribute(ATTRIBUTE), node.GetAttribute(ROLE)
        if node.IsA("vtkMRMLDisplayNode"):
            if node.GetDisplayableNode() is None:
                out.append(node)
        elif node.GetHideFromEditors() and role:
            owner = _OWNERS.get(role) or role.removesuffix("_colors")
            if owner != role and (identifier, owner) not in there:
                out.append(node)
    return out


def discard(result: SceneResult, role: str) -> None:
    """Take one node of a result out of the scene, with what displays and stores it."""
    node = result.get(role)
    result.nodes.pop(role, None)
    if node is not None:
        _take_out(node)


def _take_out(node: slicer.vtkMRMLNode) -> None:
    """A node, with what displays and stores it, and its item in the hierarchy."""
    scene = node.GetScene()
    if scene is None:
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    for own in _belongings(node):
        if own.GetScene() is not None:  # whoever watches the scene may be faster
            scene.RemoveNode(own)
    if item != hierarchy.GetInvalidItemID():
        hierarchy.RemoveItem(item, False, False)  # which the application's plugins do by themselves
    if node.GetScene() is not None:
        scene.RemoveNode(node)


def _belongings(node: slicer.vtkMRMLNode) -> list[slicer.vtkMRMLNode]:
    """How a node is displayed and stored."""
    out = []
    for kind in ("Display", "Storage"):
        count = getattr(node, f"GetNumberOf{kind}Nodes", lambda: 0)()
        out += [getattr(node, f"GetNth{kind}Node")(i) for i in range(count)]
    return [own for own in out if own is not None]


def owns(node: slicer.vtkMRMLNode) -> bool:
    """Whether a node is part of a result itself, and no copy of such a node that a user made."""
    return bool(node.GetAttribute(ROLE)) and node.GetNodeReferenceID(SELF) == node.GetID()


def adopt(result: SceneResult, role: str, node: slicer.vtkMRMLNode) -> None:
    """Make a node part of a result: found again with it, removed with it, and in its folder unless it is hidden."""
    result.nodes[role] = node
    node.SetAttribute(ATTRIBUTE, result.identifier)
    node.SetAttribute(ROLE, role)
    node.SetNodeReferenceID(SELF, node.GetID())
    if node.IsA("vtkMRMLColorNode"):
        node.SetHideFromEditors(True)
    if node.GetHideFromEditors():
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    folder = _find_folder(hierarchy, result.identifier) or hierarchy.GetSceneItemID()  # users remove folders too
    if item == hierarchy.GetInvalidItemID():  # without the application's plugins nobody has made it
        item = hierarchy.CreateItem(folder, node)
    hierarchy.SetItemParent(item, folder)


def hidden(scene: slicer.vtkMRMLScene, result: SceneResult, kind: str, role: str) -> slicer.vtkMRMLNode:
    """The result's helper of this role, which users meet neither in lists nor in saved scenes; made where missing."""
    if result.get(role) is None:
        node = scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(f"JointRegSeg {role}")
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        adopt(result, role, scene.AddNode(node))
    return result.nodes[role]


def identifiers(scene: slicer.vtkMRMLScene) -> list[str]:
    """Of the results in a scene, oldest first."""
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    found = (node.GetAttribute(ATTRIBUTE) for node in nodes if owns(node))
    return list(dict.fromkeys(value for value in found if value))


@dataclass(frozen=True)
class Entry:
    """A result in a list of them.

    Attributes
    ----------
    identifier : str
        By which `find` finds it.
    name : str
        Of its folder, else of its first node.
    started : str
        When it was begun, ISO 8601; empty where nothing says so.
    model, verdict : str
        As in the report; empty where a user removed that.
    """

    identifier: str
    name: str
    started: str
    model: str
    verdict: str


def entries(scene: slicer.vtkMRMLScene) -> list[Entry]:
    """The results of a scene that can still be shown, to choose one of, oldest first."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    found = [find(scene, identifier) for identifier in identifiers(scene)]
    return [
        Entry(
            result.identifier,
            hierarchy.GetItemName(result.folder) if result.folder else next(iter(result.nodes.values())).GetName(),
            result.report.get("started", ""),
            result.report.get("model", {}).get("name", ""),
            result.report.get("verdict", {}).get("color", ""),
        )
        for result in found
        if result.get("warped") is not None or result.get("transform") is not None
    ]


def find(scene: slicer.vtkMRMLScene, identifier: str) -> SceneResult | None:
    """A result of `identifiers`, as after a scene was saved and opened again; None if nothing of it is there."""
    out = SceneResult(identifier=identifier)
    for i in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(i)
        if identifier and node.GetAttribute(ATTRIBUTE) == identifier and owns(node):
            out.nodes.setdefault(node.GetAttribute(ROLE), node)  # the same scene imported twice has it twice
    if not out.nodes:
        return None
    if out.get("provenance") is not None:
        out.report = _report_of(out.nodes["provenance"].GetText())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    out.folder = _find_folder(hierarchy, identifier)
    return out


def _report_of(text: str) -> dict[str, Any]:
    """The report in a provenance node; users can edit it, and what is no report any more counts as none."""
    try:
        report = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(report, dict) or not _SHAPE.keys() <= report.keys():
        return {}
    return report if all(isinstance(report[key], kind) for key, kind in _SHAPE.items()) else {}


def _text(scene: slicer.vtkMRMLScene, report: dict[str, Any], name: str) -> slicer.vtkMRMLTextNode:
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", scene.GenerateUniqueName(name))
    node.SetText(_text_of(report))
    return node


def _folder(scene: slicer.vtkMRMLScene, name: str, moving: slicer.vtkMRMLVolumeNode, identifier: str) -> int:
    """A folder beside the moving volume."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(moving)
    parent = hierarchy.GetItemParent(item) if item != hierarchy.GetInvalidItemID() else hierarchy.GetSceneItemID()
    folder = hierarchy.CreateFolderItem(parent, hierarchy.GenerateUniqueItemName(name))
    hierarchy.SetItemAttribute(folder, ATTRIBUTE, identifier)
    return folder


def _find_folder(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, identifier: str) -> int:
    """The folder of a result, 0 if there is none; asking for one that is gone would print errors."""
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    for item in (items.GetId(i) for i in range(items.GetNumberOfIds())):
        if hierarchy.GetItemAttribute(item, ATTRIBUTE) == identifier:
            return item
    return 0
