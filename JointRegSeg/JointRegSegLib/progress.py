"""How long computations tell where they are, and are stopped."""

from __future__ import annotations

from collections.abc import Callable

from .errors import Canceled

#: Called with a stage's name and the share of it that is done (0 to 1); returning False cancels.
Progress = Callable[[str, float], "bool | None"]


def silent(stage: str, fraction: float) -> None:
    """Report nothing."""


def tell(progress: Progress, stage: str, fraction: float) -> None:
    """Report, and raise `Canceled` if the listener wants no more."""
    if progress(stage, fraction) is False:
        raise Canceled
