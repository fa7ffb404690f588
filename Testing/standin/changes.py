"""Changes to modules and classes that can be taken back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

ABSENT = object()


class Changes:
    """What was put where, in order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class."""
        before = vars(owner).get(name, ABSENT)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if before is ABSENT else setattr(owner, name, before))

    def add_module(self, name: str, content: dict[str, Any]) -> None:
        """Make a module that can be imported, with this content; a dotted one is an attribute of its parent too."""
        module = ModuleType(name)
        vars(module).update(content)
        self.own_module(module)
        parent, _, child = name.rpartition(".")
        if parent:
            self.set(sys.modules[parent], child, module)

    def own_module(self, module: ModuleType) -> None:
        """Let this module be the one that is imported by its name."""
        name = module.__name__
        before = sys.modules.get(name, ABSENT)
        sys.modules[name] = module
        self._undo.append(lambda: sys.modules.pop(name) if before is ABSENT else sys.modules.update({name: before}))

    def undo(self) -> None:
        """Take everything back, the last first."""
        while self._undo:
            self._undo.pop()()
