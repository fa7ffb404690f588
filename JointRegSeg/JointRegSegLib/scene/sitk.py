"""SimpleITK, which is imported when something of it is first used.

Slicer imports its modules when it starts, and SimpleITK takes longer than all the rest of this one.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    import SimpleITK

    return getattr(SimpleITK, name)
