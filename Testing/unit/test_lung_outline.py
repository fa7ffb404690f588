"""What is kept of a model's outlines."""

from __future__ import annotations

import numpy as np
from JointRegSegLib.lung.outline import _without_specks


def test_large_pieces_stay_and_specks_go():
    mask = np.zeros((4, 5, 12), bool)
    mask[:2, :2, :2] = True  # 8 voxels, the largest piece
    mask[3, 3:, 6] = True  # 2, a quarter of it
    mask[0, 4, 11] = True  # 1
    kept = _without_specks(mask)
    assert kept[:2, :2, :2].all() and kept[3, 3:, 6].all()
    assert kept.sum() == 10
    assert not _without_specks(np.zeros((2, 3, 4), bool)).any()
