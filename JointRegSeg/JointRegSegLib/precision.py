"""How exactly torch computes: networks in half precision where that is faster, coordinates never."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def full(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function of tensors compute in float32 whatever autocast says; its first argument tells the device.

    A coordinate of 100 voxels in half precision would be off by half a voxel.
    """

    @wraps(function)
    def exact(*tensors: Parameters.args, **options: Parameters.kwargs) -> Result:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*tensors, **options)

    return exact


def fast(device: torch.device) -> torch.autocast:
    """A context in which a network computes in bfloat16 on a processor that has it: half the time.

    Displacements then differ from those in float32 by some hundredths of a voxel.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=halves(device.type))


@cache
def halves(device: str) -> bool:
    """Whether networks on 'cpu' or 'cuda' compute in half precision. Where PyTorch is too old to tell, they do not."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return device == "cpu" and bool(capabilities().get("avx512_bf16"))
