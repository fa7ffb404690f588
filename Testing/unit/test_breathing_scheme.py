"""Scheme 'breathing': the drawn truth carries one image onto the other, in mm along the body, whatever the lattice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from JointRegSegLib import fields, losses
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import Prediction
from JointRegSegLib.networks.interface import Level
from JointRegSegTrainingLib import trainer
from JointRegSegTrainingLib.augment import Augmentation
from JointRegSegTrainingLib.plan import Plan, from_entries
from JointRegSegTrainingLib.schemes import breathing
from JointRegSegTrainingLib.schemes.breathing import Breathing
from JointRegSegTrainingLib.subjects import Subject

CPU = torch.device("cpu")
STILL = Augmentation(
    flips=(0, 0, 0),
    **dict.fromkeys(
        ("rotation", "translation", "zoom", "own_rotation", "own_translation", "elastic", "contrast", "bias", "noise"),
        0,
    ),
)
ENTRIES = {
    "network": "linear_deformable",
    "arguments": {"channels": [4, 4, 8, 8, 8], "decoder": [8], "squeeze": 8, "classes": 3},
    "preprocessing": {"size": [32, 20, 36], "spacing": [10, 12, 8], "orientation": "RAS"},
    "labels": [
        {"value": 1, "name": "right lung", "color": "#d8654f"},
        {"value": 2, "name": "left lung", "color": "#4f9fd8"},
    ],
    "scheme": "breathing",
    "breaths": {"simulated": 1, "colors": 0, "people": 0, "blanked": 0, "wander": 8},
    "weights": {"displacement": 0.5, "similarity": 0.5},
    "pairs": 1,
}


def made(**changes) -> Plan:
    """The plan with other breaths (or other entries), and nothing varied unless asked for."""
    entries = ENTRIES | {key: value for key, value in changes.items() if key in ENTRIES or key in ("steps", "rate")}
    own = {key: value for key, value in changes.items() if key in ("people", "blanked", "colors", "simulated", "depth")}
    own |= {key: value for key, value in changes.items() if key in ("ribs", "sliding", "stiffening")}
    return replace(from_entries(entries | {"breaths": ENTRIES["breaths"] | own}, "test"), augmentation=STILL)


def person(plan: Plan, owner: str, image: torch.Tensor | None = None, axes: str = "zyx") -> Subject:
    """Two lungs as ellipsoids in the middle of the lattice, which runs along RAS (or as ``axes`` of z, y, x says)."""
    shape = plan.preprocessing.size[::-1]
    spacing = plan.preprocessing.spacing[::-1]
    place = dict(zip(axes, np.indices(shape), strict=True))
    step = dict(zip(axes, spacing, strict=True))
    middle = {a: (shape[axes.index(a)] - 1) / 2 for a in axes}
    z, y, x = ((place[a] - middle[a]) * step[a] for a in "zyx")
    labels = np.zeros(shape, np.float32)
    for value, side in ((1, 70), (2, -70)):  # the lattice runs to the right
        labels[((x - side) / 55) ** 2 + (y / 70) ** 2 + (z / 95) ** 2 < 1] = value
    body = (x / 150) ** 2 + (y / 105) ** 2 < 1
    if image is None:
        image = torch.from_numpy(np.where(labels > 0, -1.5, np.where(body, 1.0, -2.5))).float()
    known = torch.ones(2, dtype=torch.bool)
    return Subject(owner, owner, image[None, None], torch.from_numpy(labels)[None, None], known)


def ramp(plan: Plan, axis: int) -> torch.Tensor:
    """An image that holds its own index along an axis, which interpolation keeps."""
    return torch.from_numpy(np.indices(plan.preprocessing.size[::-1])[axis]).float()


def drawn(plan: Plan, seed: int, axis: int) -> breathing.Pair:
    scheme = Breathing(plan, [person(plan, "a", ramp(plan, axis)), person(plan, "b")], CPU)
    return scheme.simulated(0, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("people", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_truth_carries_the_moving_image_onto_the_fixed_one(people, axis):
    plan = made(people=people)
    for seed in range(3):
        pair = drawn(plan, seed, axis)
        moving, fixed = pair.images[:1], pair.images[1:]
        lungs = 1 - pair.labels[1:, :1]
        carried = fields.warp(moving, pair.displacement)
        inner = (..., slice(5, -5), slice(4, -4), slice(5, -5))
        still = (lungs[inner] < 1e-3) & (moving.amax() > moving.amin())
        error = (carried - fixed)[inner][still].abs()  # in voxels, since the image holds its index
        assert error.quantile(0.95) < 0.1 and pair.displacement.abs().amax() > 0.3
        overlap = 1 - (fields.warp(pair.labels[:1], pair.displacement) - pair.labels[1:]).abs()
        assert overlap[inner].mean() > 0.95  # borders are interpolated twice
        assert fields.jacobian_determinant(pair.displacement)[inner].amin() > 0


def test_lungs_keep_their_mass():
    plan = made(sliding=0, stiffening=0)
    pair = drawn(plan, 1, 0)
    deep = pair.labels[1:, :1] < 1e-3
    air = pair.images[:1].amin()
    grown = (pair.images[1:] - air)[deep] / (fields.warp(pair.images[:1], pair.displacement) - air)[deep]
    expected = fields.jacobian_determinant(pair.displacement)[deep]
    assert (grown - expected).abs().quantile(0.9) < 0.03 and (expected - 1).abs().mean() > 0.03


@pytest.mark.parametrize(("orientation", "axes"), [("RAS", "zyx"), ("SRA", "yxz")])
def test_a_breath_goes_along_the_body_in_mm(orientation, axes):
    """Depth alone moves along the body only, by no more than the depth, on whichever axis of the lattice that is."""
    size = {"RAS": [32, 20, 36], "SRA": [36, 32, 20]}[orientation]
    spacing = {"RAS": [10, 12, 8], "SRA": [8, 10, 12]}[orientation]
    plan = made(
        ribs=0, sliding=0, stiffening=0, preprocessing={"size": size, "spacing": spacing, "orientation": orientation}
    )
    pair = Breathing(plan, [person(plan, "a", axes=axes), person(plan, "b", axes=axes)], CPU).simulated(
        0, torch.Generator().manual_seed(1)
    )
    way = pair.displacement[0].abs().amax((1, 2, 3)) * torch.tensor(spacing[::-1])
    along = axes.index("z")
    assert 3 < way[along] <= 40 and all(way[a] < 0.02 * way[along] for a in range(3) if a != along)


def test_the_random_pose_and_its_inverse_are_inverse():
    plan = made()
    varied = replace(STILL, own_rotation=8, own_translation=2, own_stretch=0.15)
    grid = Breathing(plan, [person(plan, "a"), person(plan, "b")], CPU).grid
    there, back = breathing.wandered(grid, varied, 8.0, torch.Generator().manual_seed(0))
    missed = fields.round_trip(there, back, grid)
    assert missed[~missed.isnan()].quantile(0.98) < 0.2 * grid.spacing.min()
    assert fields.to_world(there, grid).square().sum(1).sqrt().mean() > 5


def test_random_colors_are_one_map_of_the_intensities(generator):
    images = torch.randn(2, 1, 4, 5, 6, generator=generator).clamp(-2.9, 2.9)
    images[1] = images[0].flip(2)
    found = breathing.remapped(images, generator)
    torch.testing.assert_close(found[1], found[0].flip(2))
    assert abs(float(found.mean())) < 1e-4 and float(found.std()) == pytest.approx(1, abs=1e-3)
    order = images.flatten().argsort()
    steps = found.flatten()[order].diff() / images.flatten()[order].diff().clamp_min(1e-3)
    assert len(steps.mul(100).round().unique()) > 3  # not linear


@pytest.mark.parametrize("people", [0, 1])
def test_images_of_one_person_are_colored_and_blanked_alike(people):
    """Nothing but the lungs' own two values is left in a blanked image; of two people each is blanked by itself."""
    plan = made(people=people, blanked=0.5, depth=0, ribs=0, sliding=0)
    scheme = Breathing(plan, [person(plan, "a"), person(plan, "b")], CPU)
    kinds = set()
    for seed in range(12):
        pair = scheme.simulated(0, torch.Generator().manual_seed(seed))
        outside = pair.labels[:, 0] > 0.99
        kinds.add(tuple(float(x[0][o].std()) < 1e-3 for x, o in zip(pair.images, outside, strict=True)))
    assert kinds == ({(a, b) for a in (True, False) for b in (True, False)} if people else {(True,) * 2, (False,) * 2})
    plan = made(people=people, colors=1, depth=0, ribs=0, sliding=0)
    pair = Breathing(plan, [person(plan, "a"), person(plan, "b")], CPU).simulated(0, torch.Generator().manual_seed(0))
    deep = [float(x[0][lung > 0.99].median()) for x, lung in zip(pair.images, pair.labels[:, 1], strict=True)]
    assert (abs(deep[0] - deep[1]) < 0.05) == (not people)


def test_the_distance_from_the_truth_counts_most_in_the_lungs(generator):
    truth = torch.randn(1, 3, 4, 6, 8, generator=generator)
    exact = Prediction(truth, levels=[Level(truth, None)])
    weight = torch.ones(1, 1, 4, 6, 8)
    assert breathing.missed(exact, truth, weight) == pytest.approx(0.01, rel=1e-3)
    off = truth + torch.tensor([3.0, 4.0, 0]).view(1, 3, 1, 1, 1)
    assert breathing.missed(Prediction(off, levels=[Level(off, None)]), truth, weight) == pytest.approx(5, rel=1e-3)
    # An affine part that is the whole truth counts twice when it is wrong, and an idle one once.
    shift = torch.tensor([[[1.0, 0, 0, 3], [0, 1, 0, 4], [0, 0, 1, 0]]])
    whole, still = torch.zeros_like(truth) + off - truth, torch.zeros_like(truth)
    for level, expected in (
        (Level(still, None, shift), 0.01 + breathing.ALONE * 0.01),
        (Level(whole, None, torch.eye(3, 4)[None]), 0.01 + breathing.ALONE * 5),
        (Level(whole, None, shift), 5 + breathing.ALONE * 0.01),
    ):
        found = breathing.missed(Prediction(whole, levels=[level]), whole, weight)
        assert found == pytest.approx(expected, rel=1e-3)
    # Of two pairs the mean is that of each by itself, whatever their weights, as it is where two processes share them.
    both = Prediction(torch.cat([truth, off]), levels=[Level(torch.cat([truth, off]), None)])
    found = breathing.missed(both, torch.cat([truth, truth]), torch.cat([weight, 0.1 * weight]))
    assert found == pytest.approx((0.01 + 5) / 2, rel=1e-3)
    half = Level(fields.resize(truth, (2, 3, 4)), None)  # whose voxels are twice as wide, so that rounding counts twice
    assert breathing.missed(Prediction(truth, levels=[half]), truth, weight) == pytest.approx(0.02, rel=1e-3)
    plan = made()
    pair = Breathing(plan, [person(plan, "a"), person(plan, "b")], CPU).simulated(0, torch.Generator().manual_seed(2))
    counts = breathing._weight(pair.images[1:], 1 - pair.labels[1:, :1])
    assert counts[0, 0, 18, 10, 23] == breathing.LUNGS and counts[0, 0, 18, 10, 16] == pytest.approx(breathing.BODY)
    assert counts[0, 0, 18, 0, 0] == pytest.approx(breathing.OUTSIDE)


def test_half_of_the_real_pairs_are_of_one_person():
    plan = made(simulated=0)
    people = [person(plan, name) for name in ("a", "b", "c")]
    scheme = Breathing(plan, [*people, replace(people[0], name="a later")], CPU)
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(int(x) for x in torch.cat(scheme.draw(generator))) for _ in range(300)]
    assert all(a != b for a, b in pairs)
    assert sum(pair in ((0, 3), (3, 0)) for pair in pairs) / 300 == pytest.approx(0.5, abs=0.1)


def test_nothing_to_breathe_with():
    plan = made()
    bare = [replace(person(plan, name), labels=torch.zeros(1, 1, 36, 20, 32)) for name in "ab"]
    with pytest.raises(InputError, match="no training image has labels of the lungs"):
        Breathing(plan, bare, CPU)


def test_what_nobody_drew_is_not_learned(tmp_path):
    """A left lung that nobody annotated may be anything: the loss does not change with what the network calls it."""
    plan = made()
    right = [person(plan, name) for name in "ab"]
    right = [replace(s, labels=s.labels * (s.labels == 1), known=torch.tensor([True, False])) for s in right]
    scheme = Breathing(plan, right, CPU)
    told = []
    for called in (0.0, 4.0):
        network = trainer.build(plan)
        with torch.no_grad():
            network.segmentation[-1].weight.zero_()
            network.segmentation[-1].bias.copy_(torch.tensor([0.0, 0.0, called]))
            # Background and left lung together have one probability, however it is shared out.
            network.segmentation[-1].bias[0] = np.log(np.exp(4.0) + 1 - np.exp(called))
        with torch.no_grad():
            told.append(float(scheme.terms(network, torch.Generator().manual_seed(0))["segmentation"]))
    assert told[0] == pytest.approx(told[1], rel=1e-4)


def test_a_tiny_network_learns_to_breathe(tmp_path):
    coarse = {"size": [16, 12, 16], "spacing": [20, 20, 18]}
    plan = replace(made(preprocessing=coarse, steps=60, rate=2e-2, simulated=0.9), average=0.8)
    run = trainer.Trainer(plan, [person(plan, name) for name in "abc"], tmp_path)
    pairs = [run.scheme.simulated(0, torch.Generator().manual_seed(seed)) for seed in range(6)]

    def told() -> tuple[float, float]:
        """Mean distance from the truth, and Dice of the fixed image's own segmentation."""
        network, far, overlaps = run.averaged_network(), [], []
        for pair in pairs:
            with torch.no_grad():
                answer = network(pair.images[:1], pair.images[1:])
            far.append(float(breathing.missed(answer, pair.displacement, 1 - pair.labels[1:, :1])))
            found = answer.fixed_segmentation.softmax(1)[:, 1:]
            overlaps.append(1 - float(losses.dice(found, pair.labels[1:, 1:])))
        return np.mean(far), np.mean(overlaps)

    before, seen = told(), []
    run.run(every=20, report=lambda step, terms: seen.append(terms))
    after = told()
    assert all(np.isfinite(value) for terms in seen for value in terms.values())
    assert after[0] < 0.9 * before[0] and after[1] > before[1] + 0.2
