"""A property of a compound widget that is one of the widgets inside it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Property


def forward(kind: Any, inner: str, name: str) -> Property:
    """Property `name` of the widget that is kept in the attribute `inner`."""
    return Property(
        kind,
        lambda self: getattr(getattr(self, inner), name),
        lambda self, value: setattr(getattr(self, inner), name, value),
    )


def stored(kind: Any, name: str, default: Any) -> Property:
    """Property that is only remembered."""
    return Property(
        kind,
        lambda self: self.__dict__.get(f"_{name}", default),
        lambda self, value: self.__dict__.__setitem__(f"_{name}", value),
    )
