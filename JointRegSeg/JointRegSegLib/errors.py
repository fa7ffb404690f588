"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


#: What torch, on a CPU, and ITK say, which have no error of their own for it.
_NO_MEMORY = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was what was missing."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def reading(path: str | Path, kind: type[JointRegSegError] = InputError) -> Iterator[None]:
    """Turn what the system says while ``path`` is read into an error of ``kind``."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror}); check the path and permissions") from None
