"""JointRegSeg: registration and segmentation of two volumes at once. For research use only.

`register` is the whole way from two images to a result; it is imported when first used, so that
importing the package does not import torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Registration", "__version__", "register"]


def __getattr__(name: str) -> Any:
    if name == "register":
        from .pipeline import register_and_segment

        return register_and_segment
    if name == "Registration":
        from .result import Registration

        return Registration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
