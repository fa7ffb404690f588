"""Which code was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str:
    """Commit of this checkout, with -dirty where files were changed since; 'unknown' where it is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
