"""The widgets of Slicer that modules use: they follow the scene as the real ones do."""

from __future__ import annotations

from typing import Any
from weakref import WeakMethod

import slicer
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal, Slot
from shiboken6 import Shiboken

from .forward import stored

FOLLOWED = ("NodeAddedEvent", "NodeRemovedEvent", "EndBatchProcessEvent", "EndCloseEvent", "EndImportEvent")


def _rule(name: str) -> Property:
    """A property of a node selector that decides which nodes it offers."""
    return Property(bool, lambda self: self._rules[name], lambda self, value: self._set_rule(name, value))


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that hands its scene down."""

    mrmlSceneChanged = Signal(object)

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self.mrmlScene():
            self._scene = scene
            self.mrmlSceneChanged(scene)

    def mrmlScene(self) -> Any:
        return self.__dict__.get("_scene")


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The module panel that owns a module's Python widget."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        QtWidgets.QVBoxLayout(self)
        self._python, self._entered = None, False

    isEntered = Property(bool, lambda self: self._entered)

    def self(self) -> Any:  # Slicer's own name for it
        return self._python

    def enter(self) -> None:
        """The user opens the module."""
        self._entered = True
        if hasattr(self._python, "enter"):
            self._python.enter()

    def exit(self) -> None:
        """The user opens another module."""
        self._entered = False
        if hasattr(self._python, "exit"):
            self._python.exit()


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """The nodes of some types in a scene, one of them current."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeAddedByUser = Signal(object)
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    renameEnabled = stored(bool, "renameEnabled", False)
    editEnabled = stored(bool, "editEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    baseName = stored(str, "baseName", "")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene, self._tags, self._types, self._id, self._asked = None, [], [], "", None
        self._rules = {"noneEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._attributes: dict[str, tuple[str, str | None]] = {}
        self._combo = QtWidgets.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._changed)

    noneEnabled, showHidden, showChildNodeTypes = (
        _rule(name) for name in ("noneEnabled", "showHidden", "showChildNodeTypes")
    )

    def _set_rule(self, name: str, value: bool) -> None:
        self._rules[name] = value
        self._follow()

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._follow()

    nodeTypes = Property("QStringList", lambda self: self._types, _set_types)
    currentNodeID = Property(str, lambda self: self._id, lambda self, value: self.setCurrentNodeID(value))
    noneDisplay = stored(str, "noneDisplay", "None")

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = [getattr(slicer.vtkMRMLScene, name) for name in FOLLOWED] if scene else []
        follow = WeakMethod(self._follow)  # the scene must not keep the widget alive
        self._tags = [scene.AddObserver(event, lambda *_: (alive := follow()) and alive()) for event in events]
        self.setEnabled(scene is not None)
        self._follow()
        if scene and self._asked is not None:
            self.setCurrentNodeID(self._asked)
        self._asked = None

    def mrmlScene(self) -> Any:
        return self._scene

    def nodeCount(self) -> int:
        return self._combo.count - self.noneEnabled

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID(self._combo.itemData(index + self.noneEnabled)) if self._scene else None

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        """Only nodes of this type that have this attribute."""
        self._attributes[kind] = (name, None if value is None else str(value))
        self._follow()

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._id) if self._scene and self._id else None

    @Slot(object)
    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node else "")

    @Slot(str)
    def setCurrentNodeID(self, node_id: str) -> None:
        if self._scene is None:
            self._asked = node_id  # as soon as there is a scene
        self._combo.setCurrentIndex(self._combo.findData(node_id or ""))

    def addNode(self, kind: str = "") -> Any:
        kind = kind or self._types[0]
        node = self._scene.AddNewNodeByClass(kind, self.baseName)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser(node)
        return node

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        for kind in self._types:
            if node.GetClassName() == kind or (self.showChildNodeTypes and node.IsA(kind)):
                name, value = self._attributes.get(kind, (None, None))
                found = node.GetAttribute(name) if name else None
                return name is None or (found is not None and value in (None, found))
        return False

    def _follow(self) -> None:
        """Bring the list up to date row by row, so that the combo box itself chooses what is current then."""
        if not Shiboken.isValid(self):
            return
        rows = {"": self.noneDisplay} if self.noneEnabled else {}
        if self._scene:
            nodes = (self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes()))
            rows |= {node.GetID(): node.GetName() for node in nodes if self._fits(node)}
        for row in reversed(range(self._combo.count)):
            if self._combo.itemData(row) not in rows:
                self._combo.removeItem(row)
        for row, (node_id, text) in enumerate(rows.items()):
            if self._combo.findData(node_id) < 0:
                self._combo.insertItem(row, text, node_id)
            else:
                self._combo.setItemText(self._combo.findData(node_id), text)

    def _changed(self, row: int) -> None:
        node_id = self._combo.itemData(row) or ""
        if node_id != self._id:
            self._id = node_id
            node = self.currentNode()
            self.currentNodeChanged(node)
            self.currentNodeChanged[bool](node is not None)
            self.currentNodeIDChanged(node_id)


WIDGETS = {kind.__name__: kind for kind in (qMRMLWidget, qMRMLNodeComboBox, qSlicerScriptedLoadableModuleWidget)}
