"""What a parameter's annotation can say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Rule:
    """An annotation that values have to keep."""

    def validate(self, value: Any) -> None:
        """Raise a ValueError where the value breaks the rule."""
        if not self.holds(value):
            raise ValueError(f"{value!r} breaks {self}")


@dataclass(frozen=True)
class WithinRange(Rule):
    minimum: float
    maximum: float

    def holds(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Minimum(Rule):
    minimum: float

    def holds(self, value: float) -> bool:
        return value >= self.minimum


@dataclass(frozen=True)
class Maximum(Rule):
    maximum: float

    def holds(self, value: float) -> bool:
        return value <= self.maximum


@dataclass(frozen=True)
class Choice(Rule):
    choices: Sequence

    def holds(self, value: Any) -> bool:
        return value in self.choices


@dataclass(frozen=True)
class Decimals:
    value: int


@dataclass(frozen=True)
class SingleStep:
    value: float


class Default:
    """A default value, or what makes one each time."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        return self._generator() if self._generator else self._value
