"""`slicer.parameterNodeWrapper`: typed members over a real parameter node, as strict as the original."""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import slicer
import vtk
from PySide6 import QtWidgets

from .connectors import Connector
from .rules import Choice, Decimals, Default, Maximum, Minimum, Rule, SingleStep, WithinRange

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class Parameter:
    """A member: how it is checked and kept in the node."""

    name: str
    kinds: tuple[type, ...]  # several only where they are nodes
    nullable: bool
    notes: tuple
    default: Default

    @property
    def kind(self) -> type:
        """The type, the first where there are several."""
        return self.kinds[0]

    def read(self, node: Any) -> Any:
        """The value in the node, which gets the default where it has none."""
        if not node.HasParameter(self.name):
            self.write(node, self.default.value)
        if _is_node(self.kind):
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        if issubclass(self.kind, enum.Enum) and text not in self.kind.__members__:
            raise ValueError(f"{self.name}: {text!r} is not a name in {self.kind}")
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        """Check and keep a value."""
        self._check(value)
        with slicer.util.NodeModify(node):
            if _is_node(self.kind):
                node.SetParameter(self.name, "")  # says that there is one, be it None
                node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            else:
                node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def _check(self, value: Any) -> None:
        if value is None and self.nullable:
            return
        if value is None and not _is_node(self.kind):
            raise ValueError(f"{self.name} must not be None")
        if not isinstance(value, (int, float) if self.kind is float else self.kinds):
            raise TypeError(f"{self.name} must be {self.kind.__name__}, not {type(value).__name__} {value!r}")
        for note in self.notes:
            if isinstance(note, Rule):
                note.validate(value)


def _is_node(kind: type) -> bool:
    return issubclass(kind, slicer.vtkMRMLNode)


def _natural_default(kind: type) -> Any:
    if _is_node(kind):
        return None
    if issubclass(kind, enum.Enum):
        return next(iter(kind))
    if kind in (int, float, bool, str, pathlib.Path):
        return kind()
    raise TypeError(f"no serializer for {kind}")


def _parameter(owner: type, name: str, annotation: Any) -> Parameter:
    kind, *notes = typing.get_args(Annotated[annotation, "last"])[:-1]
    kinds = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    real = tuple(k for k in kinds if k is not type(None))
    if not all(isinstance(k, type) for k in real) or (len(kinds) > 1 and not all(map(_is_node, real))):
        raise TypeError(f"no serializer for {kind} of member '{name}'")
    nullable = len(real) < len(kinds) or (len(kinds) == 1 and _is_node(kind))  # as the original has it
    default = Default(getattr(owner, name)) if hasattr(owner, name) else Default(_natural_default(real[0]))
    default = next((note for note in notes if isinstance(note, Default)), default)
    return Parameter(name, real, nullable, tuple(notes), default)


class _Wrapper:
    """What every wrapped class can do, beside its members."""

    allParameters: typing.ClassVar[dict[str, Parameter]] = {}

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[str, Connector]]] = {}
        self._tag, self._writing = 0, False
        for parameter in self.allParameters.values():
            parameter.read(parameterNode)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what is no member: the original would take it and never save it."""
        if not (name.startswith("_") or name == "parameterNode" or name in self.allParameters):
            raise AttributeError(f"'{type(self).__name__}' has no parameter '{name}'")
        object.__setattr__(self, name, value)

    def default(self, name: str) -> Default:
        return self._named(name).default

    def dataType(self, name: str) -> type:
        return self._named(name).kind

    def getValue(self, name: str) -> Any:
        return self._named(name).read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        self._named(name).write(self.parameterNode, value)

    def connectGui(self, gui: Any) -> None:
        """Bind each widget that names a parameter; as the original, this gives no tag to disconnect with."""
        widgets = gui.findChildren(QtWidgets.QWidget) if hasattr(gui, "findChildren") else vars(gui).values()
        named = {widget.property(PROPERTY): widget for widget in widgets if widget.property(PROPERTY)}
        self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, QtWidgets.QWidget]) -> int:
        """Bind widgets to the parameters of these names."""
        made = [(name, Connector(widget, self._named(name))) for name, widget in mapping.items()]
        self._tag += 1
        self._guis[self._tag] = made
        for name, connector in made:
            connector.write(self.getValue(name))
            connector.on_changed(self._taking(name, connector))
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        return self._tag

    def disconnectGui(self, guiTag: int | None) -> None:
        for _, connector in self._guis.pop(guiTag, []):
            connector.on_changed(None)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> None:
        self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Callable, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def _named(self, name: str) -> Parameter:
        if name not in self.allParameters:
            raise ValueError(f"no parameter '{name}' among {sorted(self.allParameters)}")
        return self.allParameters[name]

    def _taking(self, name: str, connector: Connector) -> Callable[[], None]:
        def take() -> None:
            if not self._writing:
                with slicer.util.NodeModify(self):
                    self.setValue(name, connector.read())

        return take

    def _show(self) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            with slicer.util.NodeModify(self):
                for made in list(self._guis.values()):
                    for name, connector in made:
                        connector.write(self.getValue(name))
        finally:
            self._writing = False


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Make a class with typed members one that keeps them in a parameter node."""
    if classtype is None:
        return parameterNodeWrapper
    found = {
        name: _parameter(classtype, name, annotation)
        for name, annotation in typing.get_type_hints(classtype, include_extras=True).items()
    }
    if taken := [name for name in found if hasattr(_Wrapper, name)]:
        raise ValueError(f"reserved names in a parameterNodeWrapper: {taken}")
    members = {name: _member(name) for name in found}
    own = {name: value for name, value in vars(classtype).items() if name not in ("__dict__", "__weakref__")}
    return type(classtype.__name__, (_Wrapper,), own | members | {"allParameters": found})


def _member(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def isParameterNodeWrapper(thing: Any) -> bool:
    """Whether this is a wrapper or its class."""
    return issubclass(thing if isinstance(thing, type) else type(thing), _Wrapper)


def findChildWidgetForParameter(widget: QtWidgets.QWidget, parameter: str) -> QtWidgets.QWidget | None:
    """The widget that names this parameter."""
    return next((w for w in widget.findChildren(QtWidgets.QWidget) if w.property(PROPERTY) == parameter), None)


CONTENT = {
    thing.__name__: thing
    for thing in (
        parameterNodeWrapper,
        isParameterNodeWrapper,
        findChildWidgetForParameter,
        Choice,
        Decimals,
        Default,
        Maximum,
        Minimum,
        SingleStep,
        WithinRange,
    )
} | {"SlicerParameterNamePropertyName": PROPERTY}
