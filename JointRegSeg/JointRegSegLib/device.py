"""Where torch computes; torch itself is imported only when that is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import torch

CHOICES = ("auto", "cpu", "cuda")


def choose(name: str) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda'.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    import torch

    if name not in CHOICES:
        raise InputError(f"unknown device '{name}'; choose one of {', '.join(CHOICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; use --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """The device for a report."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"
