"""What several tests share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from JointRegSegLib.geometry import Grid
from scipy.spatial.transform import Rotation

# The same examples every time: a run that fails on one machine fails on all of them.
# A busy machine is slow, not wrong.
settings.register_profile(
    "jointregseg",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jointregseg")


@pytest.fixture
def oblique() -> Grid:
    """Three sizes, three spacings, turned about every axis, one axis flipped, far away: nothing cancels by accident."""
    direction = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix() @ np.diag([1, -1, 1])
    return Grid.from_geometry((10, 9, 8), (0.8, 1.3, 2.5), (-110, 75, 1200), direction)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)
