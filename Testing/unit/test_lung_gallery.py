"""Arrows of motion in a lung report."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.lung import gallery
from JointRegSegLib.slices import PLANES


@pytest.mark.parametrize("from_here", [False, True])
def test_arrows_lead_from_exhale_to_inhale(from_here):
    """30 mm down and 8 mm to the left, on pixels of 2 mm: their tissue is there at inhale, or at exhale."""
    coronal = next(plane for plane in PLANES if plane.name == "coronal")
    motion = np.broadcast_to((8.0, 5.0, -30.0), (40, 50, 3))
    inside = np.zeros((40, 50), bool)
    inside[19:22, 29:32] = True  # one arrow every two pixels
    lines = gallery._arrows(motion, inside, coronal, 2.0, 2 * 2.0, 40.0, from_here)
    shaft = np.asarray(lines.lines[0])
    here = shaft[0] if from_here else shaft[1]
    np.testing.assert_allclose(shaft[1] - shaft[0], (4, 15))  # columns to the patient's left, rows down
    np.testing.assert_allclose(here, (30, 20), atol=1)
