"""What the deformation between exhale and inhale says of the lungs: `review` is the whole way.

It is imported when first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Review", "review"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import reviewing

        return getattr(reviewing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
