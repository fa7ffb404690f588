"""Where torch computes."""

from __future__ import annotations

import torch

from .errors import InputError

CHOICES = ("auto", "cpu", "cuda")


def choose(name: str) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda'.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    if name not in CHOICES:
        raise InputError(f"unknown device '{name}'; choose one of {', '.join(CHOICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; use --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """The device for a report."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"
