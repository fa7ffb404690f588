"""Progress on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Bar:
    """A progress bar for `progress` callbacks; each stage begins anew at zero. Silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar = tqdm(
            total=1.0,
            disable=not sys.stderr.isatty(),
            leave=False,
            bar_format="{desc:<12} {percentage:3.0f} % |{bar}| {elapsed}",
        )

    def __call__(self, stage: str, fraction: float) -> None:
        self._bar.set_description_str(stage, refresh=False)
        self._bar.n = fraction
        self._bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()


def say(line: str) -> None:
    """Print a line at once, above a progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()
