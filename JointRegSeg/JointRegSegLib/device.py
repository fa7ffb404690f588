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
        raise InputError("no CUDA device is available; compute on the CPU", "device_name")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def available() -> str:
    """What there is to compute on, for a window: the GPU with its free memory, or why there is none."""
    import torch

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return f"GPU: {torch.cuda.get_device_name()}, {free / 2**30:.1f} GiB free"
    reason = "no CUDA device was found" if torch.backends.cuda.is_built() else "this PyTorch is built without CUDA"
    return f"CPU, {_threads()} ({reason})"


def describe(device: torch.device, network: bool = False) -> str:
    """The device for a report; for a ``network`` also its precision, where it is not the whole one."""
    import torch

    from .precision import halves

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({_threads()}{', network in bfloat16' if network and halves('cpu') else ''})"


def _threads() -> str:
    import torch

    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"
