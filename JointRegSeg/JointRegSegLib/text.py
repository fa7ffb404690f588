"""Numbers as readers expect them: no powers of ten, and no zero below zero."""

from __future__ import annotations

import numpy as np


def plain(value: float, digits: int) -> str:
    """With so many decimals; what rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def percent(share: float) -> str:
    """A share from 0 to 1: '0.0 %', '0.123 %', '12.3 %', '100 %'; only nothing looks like nothing, and all like all."""
    value = 100 * share
    if 0 < value < 9.99:
        return f"{np.format_float_positional(value, 3, unique=False, fractional=False, trim='-')} %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return "100 %" if value == 100 else f"{plain(value, 1)} %"


def short(value: float) -> str:
    """With two decimals, or with two digits where these would look like nothing."""
    if 0 < abs(value) < 0.01:
        return np.format_float_positional(value, 2, fractional=False)
    return plain(value, 2)
