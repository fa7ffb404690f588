"""Errors that a user can act on."""

from __future__ import annotations


class JointRegSegError(Exception):
    """Base of all errors whose message names the input at fault and the cure.

    ``option`` names the argument that is the cure, if one is; command and panel say where it is with them.
    """

    def __init__(self, message: str = "", option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class InputError(JointRegSegError):
    """An image, label map, point list or option that cannot be used as it is."""


class ModelError(JointRegSegError):
    """A model bundle that is missing, damaged or made for another version."""


class OutputError(JointRegSegError):
    """A place that results cannot be written to."""


class Canceled(JointRegSegError):
    """The caller asked to stop."""

    def __init__(self) -> None:
        super().__init__("canceled")
