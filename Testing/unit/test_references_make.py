"""References of drawn people: what is stored, what is skipped, and that velocities carry one person to another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from JointRegSegLib import fields, metrics
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib.references import PairVelocities, References, make_points
from JointRegSegTrainingLib.references.currents import Matching
from JointRegSegTrainingLib.references.template import choose

SHAPE, SPACING = (12, 32, 36), (8.0, 2.5, 2.5)
SETTINGS = References(
    ((1, 2), (2,)), SPACING, edge=13.0, matching=Matching((25.0, 10.0), controls=50, steps=2, iterations=12)
)


def person(middle, radii, wall=8.0) -> np.ndarray:
    """A cavity, 2, in a wall, 1."""
    x = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING - np.array(middle)
    outer, inner = (np.square(x / (np.array(radii) - w)).sum(-1) <= 1 for w in (0, wall))
    return outer.astype(np.uint8) + inner


PEOPLE = {
    "ann": person((44, 40, 44), (36, 26, 28)),
    "bob": person((48, 36, 48), (32, 30, 24)),
    "cat": person((42, 44, 42), (28, 24, 34)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    make_points(PEOPLE, SETTINGS, folder, processes=2)
    return folder


def files(folder) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


def test_the_template_is_the_most_typical():
    others = {"far": np.roll(PEOPLE["ann"], 12, 2), "near": np.roll(PEOPLE["ann"], 2, 2), "mid": PEOPLE["ann"]}
    assert choose(others, ((1,), (2,))) == "near"


def test_a_velocity_carries_one_person_to_the_other(folder):
    velocities = PairVelocities(folder)
    for fixed, moving in (("ann", "bob"), ("bob", "cat")):
        v = velocities(fixed, moving)
        assert v.shape == (1, 3, *SHAPE)
        u = fields.scale_and_square(v)
        labels = torch.from_numpy(PEOPLE[moving])[None, None].float()
        carried = fields.warp(labels, u, "nearest")[0, 0].numpy()
        before = metrics.dice(PEOPLE[fixed], PEOPLE[moving], (1, 2))
        after = metrics.dice(PEOPLE[fixed], carried, (1, 2))
        assert after[1] > max(0.75, before[1] + 0.2)
        assert after[2] > max(0.88, before[2] + 0.05)
        assert fields.jacobian_determinant(u).min() > 0


def test_what_exists_is_not_computed_again(folder):
    velocities = PairVelocities(folder)
    velocities.make([("cat", "ann"), ("ann", "cat")], processes=1)
    before = files(folder)
    assert sum(name.startswith(("cat-ann-", "ann-cat-")) for name in before) == 2
    assert make_points(PEOPLE, SETTINGS, folder, processes=1) == velocities.template
    velocities.make([("cat", "ann"), ("ann", "cat")])
    assert torch.equal(velocities("cat", "ann"), PairVelocities(folder)("cat", "ann"))
    assert files(folder) == before
    assert not list(folder.rglob("*.tmp"))


def test_an_interrupted_run_goes_on(folder, tmp_path):
    (tmp_path / "points").mkdir()
    kept = {p.name: p for p in (folder / "points").iterdir() if not p.name.startswith("bob")}
    for name, path in kept.items():
        (tmp_path / "points" / name).write_bytes(path.read_bytes())
    before = files(tmp_path)
    make_points(PEOPLE, SETTINGS, tmp_path, processes=1)
    after = files(tmp_path)
    assert before.items() < after.items()
    assert len(after) == 3
    np.testing.assert_allclose(PairVelocities(tmp_path).points["bob"], PairVelocities(folder).points["bob"], atol=1e-3)


def test_changed_settings_and_labels_are_not_mixed(folder, tmp_path):
    points = {p.name for p in (folder / "points").iterdir()}
    old = PairVelocities(folder)
    path, _ = old._job("ann", "bob")
    softer = replace(SETTINGS, interpolation=replace(SETTINGS.interpolation, smoothing=0.01))
    for source in points:
        (tmp_path / "points").mkdir(exist_ok=True)
        (tmp_path / "points" / source).write_bytes((folder / "points" / source).read_bytes())
    make_points(PEOPLE, softer, tmp_path, processes=1)
    new = PairVelocities(tmp_path)
    assert {p.name for p in (tmp_path / "points").iterdir()} == points  # smoothing does not concern them
    assert new._job("ann", "bob")[0].name != path.name
    changed = next(name for name in PEOPLE if name != new.template)
    other = PEOPLE[changed].copy()
    other[tuple(np.argwhere(other)[0])] = 0
    make_points(PEOPLE | {changed: other}, softer, tmp_path, processes=1)
    newest, pair = PairVelocities(tmp_path), (changed, new.template)
    assert newest.template == new.template and len(list((tmp_path / "points").glob(f"{changed}-*"))) == 2
    assert newest._job(*pair)[0].name != new._job(*pair)[0].name


def test_mistakes(folder, tmp_path):
    with pytest.raises(InputError, match="make them first"):
        PairVelocities(tmp_path)
    with pytest.raises(InputError, match="no reference of 'dan'"):
        PairVelocities(folder)("ann", "dan")
    with pytest.raises(InputError, match="at least two"):
        make_points({"ann": PEOPLE["ann"]}, SETTINGS, tmp_path)
    with pytest.raises(InputError, match=r"dan, labels \[2\]"):
        make_points(PEOPLE | {"dan": np.minimum(PEOPLE["ann"], 1)}, SETTINGS, tmp_path, processes=1)
    assert len(list((tmp_path / "points").glob("*.npy"))) == 3  # all but dan's
    with pytest.raises(InputError, match="no references"):
        PairVelocities(tmp_path)
