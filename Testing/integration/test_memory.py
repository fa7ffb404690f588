"""The memory that is foretold is about what a run takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import SimpleITK as sitk
from JointRegSegLib import memory
from JointRegSegLib.catalog import WORKING_SIZE
from JointRegSegLib.client import Worker


def peak(pid: int) -> float:
    """Bytes of a process at its peak."""
    return 1024.0 * int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(("side", "refine"), [(48, 0), (160, 0), (160, 4)])
def test_a_run_takes_about_as_much_as_foretold(tmp_path, side, refine):
    """A refinement's finer lattice included, whose steps leave little behind."""
    x = sitk.GetArrayFromImage(sitk.GaussianSource(sitk.sitkInt16, [side] * 3, [side / 5] * 3, [side / 2] * 3, 1000))
    for name in ("fixed", "moving"):
        sitk.WriteImage(sitk.GetImageFromArray(x), str(tmp_path / f"{name}.nrrd"))
    options = {"model": "generic", "working_size": min(side, 64), "refine": refine}
    with Worker() as worker:
        number = worker.submit(
            "register", folder=str(tmp_path), fixed="fixed.nrrd", moving="moving.nrrd", options=options
        )
        worker.wait(number, timeout=240)
        found = peak(worker._process.pid)
    lattice = min(side, 64) ** 3
    assert found / 2 < memory.estimate(side**3, side**3, lattice) < 2 * found
    assert memory.estimate(512**2 * 300, 512**2 * 300, WORKING_SIZE**3) < 8e9
