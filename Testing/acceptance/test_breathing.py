"""A simulated breath of a diseased person, whose motion is known: with lungs that slide one comes near to it."""

from __future__ import annotations

import sys
from pathlib import Path

from JointRegSegLib.pipeline import register_and_segment
from JointRegSegLib.tables import read_table
from JointRegSegTrainingLib.classifier import simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from breathing import FILES, compared


def test_motion_and_expansion_of_a_known_breath(tmp_path):
    simulate.simulate(simulate.Simulation(patients=4, healthy=2, severity=0.6, test=0, spacing=3.0), tmp_path)
    rows = read_table(tmp_path / simulate.TRUTH, ("case", "diagnosis", *FILES), ("subject", "split")).values()
    sick = next(row for row in rows if row["diagnosis"] == "diseased")
    place = {name: tmp_path / sick[name] for name in FILES}
    organs = {f"{side}_organs": place[f"{side}_labels"] for side in ("fixed", "moving")}
    found = register_and_segment(place["fixed"], place["moving"], "generic", **organs)
    before, lungs, _, wall, _, bones, _, ratio, smooth, folded = compared(place, found)
    assert before > 5 and lungs <= 1  # mm
    assert wall < 1 and bones < 0.7  # half a millimeter is wanted, at 2.5 mm
    assert ratio >= 0.9 and smooth >= 0.9
    assert folded == 0 and float(found.deformation.jacobian().min()) > 0
