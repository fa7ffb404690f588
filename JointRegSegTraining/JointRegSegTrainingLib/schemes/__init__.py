"""Where the loss of one step comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from JointRegSegLib.errors import InputError

from ..plan import Plan
from ..subjects import Subject
from .pairs import Pairs
from .scheme import Scheme


def scheme_of(plan: Plan, subjects: Sequence[Subject], references: Path | None, device: torch.device) -> Scheme:
    """The plan's scheme; ``references`` is the folder of its velocities, where it needs some.

    Raises
    ------
    InputError
        If it needs some and there is no folder, or needs none, or the subjects do not suffice.
    """
    if references is not None and plan.scheme != "references":
        raise InputError(f"scheme '{plan.scheme}' learns from no references (--references); 'references' does")
    if plan.scheme == "references":
        if references is None:
            raise InputError("scheme 'references' needs the folder that make-references filled (--references)")
        from .references import References

        return References(plan, subjects, references, device)
    if plan.scheme == "breathing":
        from .breathing import Breathing

        return Breathing(plan, subjects, device)
    return Pairs(plan, subjects, device)


__all__ = ["Pairs", "Scheme", "scheme_of"]
