"""The loss of a batch of pairs, by numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import Level, Prediction
from JointRegSegTrainingLib.objective import completed, memberships, objective, one_way
from JointRegSegTrainingLib.plan import Weights

NONE = Weights(**dict.fromkeys(asdict(Weights()), 0.0))
#: One structure in one half of a lattice of 4³ voxels, along the last axis.
HALF = (torch.arange(4) >= 2).int().expand(1, 1, 4, 4, 4)


def only(**weights: float) -> Weights:
    return Weights(**asdict(NONE) | weights)


def still(n: int = 1, scores: torch.Tensor | None = None, shift: float = 0.0) -> Prediction:
    """What a network says that moves everything by ``shift`` along the last axis; scores of 2 n images."""
    u = torch.zeros(n, 3, 4, 4, 4)
    u[:, 2] = shift
    halves = (None, None) if scores is None else scores.split(n)
    return Prediction(u, -u, None, None, *halves, [Level(torch.cat([u, -u]), None)])


def test_memberships():
    labels = torch.tensor([0, 3, 7, 3]).view(1, 1, 1, 1, 4)
    expected = [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert memberships(labels, (3, 7)).view(3, 4).tolist() == expected


def test_what_is_drawn_stays_and_the_rest_is_shared_out():
    """Two voxels, two structures: the first image has both, the second one only the first, the third none."""
    drawn = torch.tensor([[[0, 1.0], [1, 0], [0, 0]], [[0, 1.0], [1, 0], [0, 0]], [[1.0, 1], [0, 0], [0, 0]]])
    drawn = drawn.repeat(2, 1, 1).view(6, 3, 1, 1, 2)[[0, 1, 2, 2]]
    known = torch.tensor([[True, True], [True, False], [False, False], [False, False]])
    odds = torch.tensor([0.5, 0.1, 0.4]).log().view(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 2)
    found = completed(drawn, known, Prediction(torch.zeros(2, 3, 1, 1, 2), None, None, None, odds, odds))
    # All is known: drawn memberships, whatever the network says.
    torch.testing.assert_close(found[0], drawn[0])
    # The first structure's voxel stays; the other voxel is background or the second one, 5 to 4.
    expected = torch.tensor([[0, 5 / 9], [1, 0], [0, 4 / 9]])
    torch.testing.assert_close(found[1].view(3, 2), expected)
    # Nothing is known: the network alone.
    torch.testing.assert_close(found[2].view(3, 2), torch.tensor([0.5, 0.1, 0.4])[:, None].expand(3, 2))
    torch.testing.assert_close(found.sum(1), torch.ones(4, 1, 1, 2))


def test_labels_cannot_be_completed_without_segmentations():
    with pytest.raises(InputError, match="segments both"):
        completed(torch.ones(2, 2, 4, 4, 4), torch.ones(2, 1, dtype=torch.bool), still())


def test_what_has_no_weight_is_not_in_the_sum():
    images = torch.rand(2, 1, 4, 4, 4)
    labels = memberships(torch.cat([HALF, HALF]), (1,))
    terms = objective(still(), images, labels, NONE)
    assert set(terms) == set(asdict(Weights())) and not any(terms.values())


def test_terms_of_a_shift_by_one_voxel():
    """A ramp along the last axis, moved by one voxel on a lattice whose borders repeat."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4, 4)
    images, labels = torch.cat([ramp, ramp]), memberships(torch.cat([HALF, HALF]), (1,))
    names = ("error", "inverse", "overlap", "smoothness", "folding")
    terms = objective(still(shift=1.0), images, labels, only(**dict.fromkeys(names, 2.0)))
    # Both directions miss by one voxel everywhere but at one border, in 3 of 4 planes.
    assert terms["error"] == pytest.approx(2 * 0.75)
    assert terms["inverse"] == pytest.approx(0, abs=1e-6)
    assert terms["smoothness"] == terms["folding"] == 0
    # Of two planes the moved label covers three, or one: Dice 4/5 and 2/3.
    assert terms["overlap"] == pytest.approx(2 * (1 - (4 / 5 + 2 / 3) / 2), abs=1e-4)


def test_mutual_information_does_not_mind_which_is_bright():
    images, labels = torch.cat([HALF, 1 - HALF]).float(), memberships(torch.cat([HALF, HALF]), (1,))
    terms = objective(still(), images, labels, only(mutual_information=2.0))
    assert terms["mutual_information"] == pytest.approx(-2 * math.log(2), abs=1e-5)
    moved = objective(still(shift=1.0), images, labels, only(mutual_information=2.0))["mutual_information"]
    assert -2 * math.log(2) + 0.1 < moved < 0


def test_overlap_counts_what_both_images_have():
    other = memberships(torch.cat([HALF, 1 - HALF]), (1,))  # nothing in common
    images = torch.rand(2, 1, 4, 4, 4)
    yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    both = objective(still(), images, other, only(overlap=1.0), torch.cat([yes, yes]))["overlap"]
    assert both == pytest.approx(1, abs=1e-3)
    for known in (torch.cat([yes, no]), torch.cat([no, yes])):
        assert objective(still(), images, other, only(overlap=1.0), known)["overlap"] == 0


def test_a_completed_label_counts_where_one_image_has_it():
    """The network sees the structure where it is drawn in the other image: a perfect overlap, and its opposite."""
    images = torch.rand(2, 1, 4, 4, 4)
    labels = memberships(torch.cat([HALF, torch.zeros_like(HALF)]), (1,))
    known = torch.tensor([[True], [False]])
    sure = 50 * memberships(torch.cat([HALF, HALF]), (1,))
    same = objective(still(scores=sure), images, labels, only(overlap=1.0), known, True)["overlap"]
    assert same == pytest.approx(0, abs=1e-3)
    sure[1] = sure[1].flip(0)
    other = objective(still(scores=sure), images, labels, only(overlap=1.0), known, True)["overlap"]
    assert other == pytest.approx(1, abs=1e-3)
    nobody = objective(still(scores=sure), images, labels, only(overlap=1.0), torch.zeros_like(known), True)
    assert nobody["overlap"] == 0


def test_segmentation_teaches_through_the_completed_labels():
    """The overlap of a pair with one annotated image moves the scores of the other (DeepAtlas, section 2)."""
    scores = torch.zeros(2, 2, 4, 4, 4, requires_grad=True)
    labels = memberships(torch.cat([HALF, torch.zeros_like(HALF)]), (1,))
    known = torch.tensor([[True], [False]])
    terms = objective(still(scores=scores), torch.rand(2, 1, 4, 4, 4), labels, only(overlap=1.0), known, True)
    terms["overlap"].backward()
    assert not scores.grad[0].any()  # drawn labels are not asked for
    assert (scores.grad[1, 1][HALF[0, 0] > 0] < 0).all()  # more of the structure where the other image has it
    assert (scores.grad[1, 1][HALF[0, 0] == 0] > 0).all()


def test_pairs_without_labels_teach_while_the_segmentation_rests():
    images, labels = torch.rand(2, 1, 4, 4, 4), memberships(torch.zeros(2, 1, 4, 4, 4), (1,))
    unknown = torch.zeros(2, 1, dtype=torch.bool)

    def overlap(scores: torch.Tensor, **options: bool) -> float:
        terms = objective(still(scores=scores), images, labels, only(overlap=1.0), unknown, True, **options)
        return terms["overlap"].item()

    opposite = 50 * memberships(torch.cat([HALF, 1 - HALF]), (1,))
    assert overlap(opposite) == 0
    assert overlap(opposite, unannotated=True) == pytest.approx(1, abs=1e-3)
    assert overlap(opposite.requires_grad_(), unannotated=True) == 0


def test_coarse_levels_count_at_their_own_resolution():
    u = torch.zeros(2, 3, 2, 2, 2)
    fine = torch.zeros(2, 3, 4, 4, 4)
    images = torch.cat([torch.zeros(1, 1, 4, 4, 4), torch.arange(4.0).expand(1, 1, 4, 4, 4)])
    labels = memberships(torch.cat([HALF, HALF]), (1,))
    prediction = Prediction(fine[:1], fine[1:], levels=[Level(u, None), Level(fine, None)])
    terms = objective(prediction, images, labels, only(error=1.0))
    opposite = memberships(torch.cat([HALF, 1 - HALF]), (1,))
    # Every level misses, and with several of them the last answer counts at full size, too.
    assert objective(prediction, images, opposite, only(overlap=1.0))["overlap"] == pytest.approx(1 + 1, abs=1e-2)
    # The ramp 0, 1, 2, 3 against zero, and 0.5, 2.5 at half the resolution.
    assert terms["error"] == pytest.approx(((0 + 1 + 4 + 9) / 4 + (0.25 + 6.25) / 2) / 2)


def test_only_the_segmented_labels_are_asked_of_the_segmentation():
    """Two structures, of which the network knows the second: the first one is background to it."""
    images, both = torch.rand(2, 1, 4, 4, 4), HALF.clone()
    both[..., 0, :, :] *= 2
    labels = memberships(torch.cat([both, both]), (1, 2))
    right = 50 * memberships(torch.cat([both, both]), (2,))
    weights = only(segmentation=1.0)
    good = objective(still(scores=right), images, labels, weights, segmented=[1])["segmentation"]
    assert good == pytest.approx(0, abs=1e-3)
    assert objective(still(scores=-right), images, labels, weights, segmented=[1])["segmentation"] > 10


def test_one_way_counts_as_a_network_that_gives_no_other():
    """The terms of the forward half, whatever the backward one says."""
    images, labels = torch.rand(2, 1, 4, 4, 4), memberships(HALF.expand(2, 1, 4, 4, 4), (1,))
    weights = only(error=1.0, overlap=1.0, inverse=1.0, smoothness=1.0)
    u = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = Prediction(u, levels=[Level(u, None)])
    for other in (-u, torch.full_like(u, 3.0)):
        both = Prediction(u, other, levels=[Level(torch.cat([u, other]), None)])
        found, expected = (objective(x, images, labels, weights) for x in (one_way(both, 1), alone))
        assert {name: float(value) for name, value in found.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}
        )
        assert float(found["inverse"]) == 0 < float(found["error"])
        assert float(objective(both, images, labels, weights)["inverse"]) > 0.1
