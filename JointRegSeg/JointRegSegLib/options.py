"""What a registration may be asked for, and what does not go together; told before anything is read."""

from __future__ import annotations

import math
import numbers
from pathlib import Path

from .catalog import GENERIC
from .errors import InputError
from .similarity import SIMILARITIES

ALIGNMENTS = ("world", "center")
#: What ``working_size`` may be.
SMALLEST_SIDE, LARGEST_SIDE = 16, 512
#: Of refinement: hours, even of a small pair.
MOST_STEPS = 10_000


def check_options(
    refine: int = 0,
    similarity: str = "lncc",
    align: str | None = None,
    fill: float | None = None,
    working_size: int | None = None,
    seed: int = 0,
    model: str | Path = GENERIC,
    transform: object = None,
    fixed_organs: object = None,
    moving_organs: object = None,
    **others: object,
) -> None:
    """Refuse values that no pair could be registered with; ``others`` are options that need no check.

    Beside a ``transform``, which is taken as it is, what tells how to find one is refused. Organs that slide are
    outlined in both images or in none, begin on each other, and are for `generic` alone.

    Raises
    ------
    InputError
        With the option and what it takes.
    """
    if similarity not in SIMILARITIES:
        raise InputError(f"unknown similarity '{similarity}'; choose one of {', '.join(SIMILARITIES)}")
    if align is not None and align not in ALIGNMENTS:
        raise InputError(f"unknown alignment '{align}'; choose one of {', '.join(ALIGNMENTS)}")
    for name, value, low, high in (
        ("refine", refine, 0, MOST_STEPS),
        ("working_size", working_size, SMALLEST_SIDE, LARGEST_SIDE),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if value is not None and not (isinstance(value, numbers.Integral) and low <= value <= high):
            raise InputError(f"{name} takes a whole number from {low} to {high}, not {value!r}")
    if fill is not None and not (isinstance(fill, numbers.Real) and math.isfinite(fill)):
        raise InputError(f"fill takes a finite number, not {fill!r}")
    trained = str(model) != GENERIC
    chosen = {"model": trained, "refinement": refine, "alignment": align, "working size": working_size, "seed": seed}
    ignored = [name for name, value in chosen.items() if value]
    if transform is not None and ignored:
        raise InputError(
            f"a transform that is given is taken as it is; leave {' and '.join(ignored)} out, or the transform"
        )
    if (fixed_organs is None) != (moving_organs is None):
        raise InputError(
            "organs that slide have to be outlined in both images; give both label maps, or none", "organs"
        )
    if fixed_organs is not None and align is not None:
        raise InputError("organs that slide begin on each other; leave the alignment out, or the organs")
    if fixed_organs is not None and (trained or transform is not None):
        raise InputError(f"organs that slide are for model '{GENERIC}' only; leave them out, or the model")
