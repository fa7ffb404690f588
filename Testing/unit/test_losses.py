"""Losses with values worked out by hand, their extremes, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from JointRegSegLib import losses
from JointRegSegLib.similarity import unit_range
from scipy.ndimage import uniform_filter

SHAPE = (5, 6, 7)


@pytest.fixture
def images(generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two unrelated pairs of two channels, double precision, in (0, 1)."""
    a, b = torch.rand(2, 2, 2, *SHAPE, generator=generator, dtype=torch.float64)
    return a, b


@pytest.fixture
def mask(generator) -> torch.Tensor:
    """(2, 1, D, H, W), another region for each image of the batch."""
    return (torch.rand(2, 1, *SHAPE, generator=generator) > 0.4).double()


def ramp(axis: int) -> torch.Tensor:
    return torch.from_numpy(np.indices(SHAPE)[axis]).double()


def displacement(*components: torch.Tensor | float) -> torch.Tensor:
    return torch.stack([c + torch.zeros(SHAPE, dtype=torch.float64) for c in components])[None]


def test_mse_by_hand(images, mask):
    a, b = images
    assert losses.mse(a, b).item() == pytest.approx(float(np.mean((a.numpy() - b.numpy()) ** 2)))
    assert losses.mse(a, a) == 0
    squares = ((a - b) ** 2).mean(1, keepdim=True)  # over channels; a mean over each image's own mask follows
    expected = np.mean([squares[n][mask[n] > 0].mean() for n in range(2)])
    assert losses.mse(a, b, mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mse", "local_correlation", "correlation"])
def test_nothing_outside_the_mask_counts(images, name):
    a, b = images
    mask = torch.zeros(2, 1, *SHAPE, dtype=torch.float64)
    mask[..., :3] = 1
    disturbed = a.clone()
    disturbed[..., 5:] += 10  # two voxels away: beyond the reach of a window of three
    options = {"window": 3} if name == "local_correlation" else {}
    loss = getattr(losses, name)
    assert loss(disturbed, b, mask=mask, **options).item() == pytest.approx(loss(a, b, mask=mask, **options).item())
    assert loss(disturbed, b, **options).item() != pytest.approx(loss(a, b, **options).item(), rel=1e-3)


def test_box_mean_is_scipys_uniform_filter_inside(images):
    image = images[0]
    out = losses.box_mean(image, 3)
    expected = uniform_filter(image[1, 0].numpy(), 3)
    np.testing.assert_allclose(out[1, 0, 1:-1, 1:-1, 1:-1], expected[1:-1, 1:-1, 1:-1])
    # In a corner only the eight voxels that exist are averaged.
    assert out[0, 1, 0, 0, 0].item() == pytest.approx(image[0, 1, :2, :2, :2].mean().item())


def test_local_correlation_is_the_squared_coefficient_of_a_window(images):
    a, b = (x[:1, :1] for x in images)
    center = torch.zeros(1, 1, *SHAPE)
    center[..., 2, 3, 4] = 1
    r = np.corrcoef(a[0, 0, 1:4, 2:5, 3:6].flatten(), b[0, 0, 1:4, 2:5, 3:6].flatten())[0, 1]
    assert losses.local_correlation(a, b, 3, center, eps=0).item() == pytest.approx(1 - r * r)


def test_local_correlation_window_may_be_larger_than_the_image(images):
    a, b = (x[:1, :1] for x in images)
    # 13 voxels reach from any voxel over the whole image: one coefficient for all.
    r = np.corrcoef(a.flatten(), b.flatten())[0, 1]
    assert losses.local_correlation(a, b, 13, eps=0).item() == pytest.approx(1 - r * r)


def test_local_correlation_of_faint_regions_fades_with_eps(images):
    a = images[0][:1, :1]
    center = torch.zeros(1, 1, *SHAPE)
    center[..., 2, 3, 4] = 1
    square = a[0, 0, 1:4, 2:5, 3:6].var(correction=0).item() ** 2  # of the product of equal variances
    assert losses.local_correlation(a, a, 3, center, eps=square).item() == pytest.approx(0.5)
    assert losses.local_correlation(a, a, 3, center, eps=9 * square).item() == pytest.approx(0.9)


def test_local_correlation_extremes(images):
    a, _ = images
    assert losses.local_correlation(a, 3 - 2 * a, 3).item() < 0.01  # inverted contrast is as good
    # Half of the image inverted: five of seven columns see one sign only, the whole image sees both.
    half = torch.where(ramp(2) < 4, a, 1 - a)
    assert losses.local_correlation(a, half, 3).item() < 0.4
    assert losses.correlation(a, half).item() > 0.7
    assert losses.local_correlation(a, torch.ones_like(a), 3).item() == pytest.approx(1, abs=1e-6)  # flat
    with pytest.raises(ValueError, match="odd"):
        losses.local_correlation(a, a, 4)


def test_correlation_by_hand(images, mask):
    a, b = images

    def expected(keep):
        pairs = [(a[n, c][keep[n, 0]], b[n, c][keep[n, 0]]) for n in range(2) for c in range(2)]
        return np.mean([1 - np.corrcoef(x, y)[0, 1] for x, y in pairs])

    assert losses.correlation(a, b).item() == pytest.approx(expected(torch.ones_like(mask) > 0), abs=1e-6)
    assert losses.correlation(a, b, mask).item() == pytest.approx(expected(mask > 0), abs=1e-6)
    assert losses.correlation(a, 2 * a + 5).item() == pytest.approx(0, abs=1e-6)
    assert losses.correlation(a, 1 - a).item() == pytest.approx(2, abs=1e-6)


def test_mutual_information_of_binary_images():
    # 5 x 6 x 7 cut into two equal halves along H: one bit each, shared fully or not at all.
    low = (ramp(1) < 3).double()[None, None]
    even = ((ramp(1) % 3) < 1.5).double()[None, None]  # 2 of 3 rows in either half: independent of ``low``
    assert losses.mutual_information(low, low).item() == pytest.approx(-math.log(2), abs=1e-6)
    assert losses.mutual_information(low, 1 - low).item() == pytest.approx(-math.log(2), abs=1e-6)
    assert losses.mutual_information(low, even).item() == pytest.approx(0, abs=1e-6)
    assert losses.mutual_information(3 * low, low).item() == pytest.approx(-math.log(2), abs=1e-6)  # cut to [0, 1]


def test_mutual_information_spreads_a_value_over_its_two_bins():
    low = (ramp(1) < 3).double()[None, None]
    # With bins at 0, 0.5 and 1 the value 0.25 counts half in the first and half in the second.
    joint = np.array([[0.25, 0.5], [0.25, 0.0]])  # rows: bins of the image, columns: values of ``low``
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = sum(p * math.log(p / q) for p, q in zip(joint.flat, independent.flat, strict=True) if p)
    assert losses.mutual_information(0.25 * (1 - low), low, bins=3).item() == pytest.approx(-expected, abs=1e-6)


def test_mutual_information_counts_the_mask_and_a_sample():
    low = (ramp(1) < 3).double()[None, None]
    noisy = low.clone()
    noisy[..., 3:] = 1
    mask = (ramp(2) < 3).double()[None, None]
    assert losses.mutual_information(noisy, low, mask=mask).item() == pytest.approx(-math.log(2), abs=1e-6)
    assert losses.mutual_information(noisy, low).item() > -0.5
    # 210 voxels, every third: whole rows of seven are no multiple of it, so both halves stay the same share.
    assert losses.mutual_information(low, low, samples=70).item() == pytest.approx(-math.log(2), abs=1e-3)


def test_a_sample_of_mutual_information_is_from_all_of_the_volume(generator):
    """Powers of two, as of working lattices: every 16th voxel would be in one of 16 planes."""
    a, b = torch.rand(2, 1, 1, 16, 16, 16, generator=generator)
    a.requires_grad_()
    losses.mutual_information(a, b, samples=256).backward()
    for axes in ((3, 4), (2, 4), (2, 3)):
        assert (a.grad[0].abs().sum([axis - 1 for axis in axes]) > 0).all()
    assert 200 < (a.grad != 0).sum() <= 256
    box = torch.zeros_like(a)
    box[..., :13, :12, :12] = 1  # whose width the stride is a divisor of
    a.grad = None
    losses.mutual_information(a, b, mask=box, samples=150).backward()
    assert (a.grad[0, 0].abs().sum((0, 1)) > 0).sum() == 12 and not a.grad[box == 0].any()


def test_mutual_information_of_images_that_map_one_to_one(generator):
    """Three values on as many bins: whatever they are exchanged for, the entropy of the image."""
    values = torch.randint(0, 3, (1, 1, 6, 7, 8), generator=generator)
    shares = values.flatten().bincount() / values.numel()
    entropy = -(shares * shares.log()).sum().item()
    a, b = (torch.tensor(levels, dtype=torch.float64)[values] for levels in ((0.0, 0.5, 1.0), (0.5, 1.0, 0.0)))
    assert losses.mutual_information(a, b, bins=3).item() == pytest.approx(-entropy, abs=1e-6)
    other = torch.rand(a.shape, generator=generator, dtype=torch.float64).round()
    assert losses.mutual_information(a, other, bins=3).item() > -0.1 * entropy


def test_mutual_information_is_the_mean_over_channels(images, mask):
    a, b = images
    alone = [losses.mutual_information(a[:, c : c + 1], b[:, c : c + 1], 8, mask) for c in range(2)]
    assert losses.mutual_information(a, b, 8, mask).item() == pytest.approx(torch.stack(alone).mean().item())
    assert abs(alone[0] - alone[1]) > 1e-4
    both = torch.cat([a[:, :1], 7 + 3 * b[:, :1]], 1)
    two = torch.cat([both, 3 * both + 1])  # each image by itself: what else is in the batch does not matter
    torch.testing.assert_close(unit_range(two)[len(both) :], unit_range(both))
    assert not unit_range(both).amin((2, 3, 4)).any() and (unit_range(both).amax((2, 3, 4)) == 1).all()
    torch.testing.assert_close(unit_range(both)[:, :1], unit_range(a[:, :1]))


def test_dice_by_hand():
    a, b = torch.zeros(2, 1, 2, 2, 2, 2)
    a[0, 0, 0], b[0, 0, :, 0] = 1, 1  # four voxels each, two in common
    b[0, 1, 0, 0] = 0.5  # only in b
    assert losses.dice(a[:, :1], b[:, :1], eps=0).item() == pytest.approx(1 - 2 * 2 / 8)
    assert losses.dice(a, b).item() == pytest.approx((0.5 + 1) / 2, abs=2e-3)
    assert losses.dice(0.5 * a[:, :1], a[:, :1], eps=0).item() == pytest.approx(1 - 2 * 2 / (1 + 4))  # squares
    assert losses.dice(a, a).item() == 0  # the second class is in neither and counts as perfect


def test_dice_of_known_labels_by_hand():
    a, b = torch.zeros(2, 2, 2, 2, 2, 2)
    a[0, 0, 0], b[0, 0, :, 0] = 1, 1  # 0.5 in the first image
    a[0, 1], a[1, 0], b[1, 0] = 1, 1, 1  # missed altogether; perfect in the second image
    a[1, 1, 0] = 1  # nothing is there
    known = torch.tensor([[1, 0], [1, 0]])
    assert losses.dice(a, b, 1e-9, known).item() == pytest.approx((0.5 + 0) / 2)
    assert losses.dice(a, b, 1e-9, torch.tensor([[True, True], [False, False]])).item() == pytest.approx((0.5 + 1) / 2)
    assert losses.dice(a, b, 1e-9, torch.ones(2, 2)).item() == pytest.approx(losses.dice(a, b, 1e-9).item())


def test_nothing_known_teaches_nothing(generator):
    scores = torch.randn(2, 3, 2, 3, 4, generator=generator, requires_grad=True)
    labels = torch.zeros(2, 3, 2, 3, 4)
    labels[:, 0] = 1
    for loss in (
        losses.dice(scores.softmax(1)[:, 1:], labels[:, 1:], known=torch.zeros(2, 2)),
        losses.segmentation(scores, labels, torch.zeros(2, 2)),
    ):
        assert loss.item() == pytest.approx(0, abs=1e-6)
        (slope,) = torch.autograd.grad(loss, scores)
        assert slope.isfinite().all() and slope.abs().max() < 1e-6


def test_segmentation_with_a_label_that_was_not_annotated_by_hand():
    """Probabilities 0.2, 0.3 and 0.5 everywhere; the last label may hide in the background."""
    scores = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log().view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 4)
    labels = torch.zeros(1, 3, 1, 1, 4, dtype=torch.float64)
    labels[:, 0, ..., :3], labels[:, 1, ..., 3] = 1, 1
    entropy = -(3 * math.log(0.2 + 0.5) + math.log(0.3)) / 4
    dice = 1 - (2 * 0.3 + 1e-3) / (4 * 0.3**2 + 1 + 1e-3)
    found = losses.segmentation(scores, labels, torch.tensor([[True, False]])).item()
    assert found == pytest.approx(entropy + dice)
    assert losses.segmentation(scores, labels, torch.ones(1, 2)).item() == losses.segmentation(scores, labels).item()


def test_a_label_that_was_not_annotated_is_not_pushed_away(generator):
    """Of two images of a batch the first lacks the second label: only the other one teaches that it is not there."""
    scores = torch.randn(2, 3, 2, 3, 4, generator=generator, requires_grad=True)
    labels = torch.zeros(2, 3, 2, 3, 4)
    labels[:, 0] = 1
    known = torch.tensor([[True, False], [True, True]])
    (slope,) = torch.autograd.grad(losses.segmentation(scores, labels, known), scores)
    assert slope[0, 2].max() < 0  # it takes from the first label, as the background does
    assert slope[1, 2].min() > 0


def test_segmentation_extremes():
    classes = torch.tensor([0] * 4 + [1] * 12 + [2] * 8).view(1, 2, 3, 4)
    labels = torch.nn.functional.one_hot(classes).movedim(-1, 1).double()
    assert losses.segmentation(100 * labels, labels).item() == pytest.approx(0, abs=1e-6)
    # Equal scores: entropy log 3, and a third of membership everywhere; the background's Dice does not count.
    dice = np.mean([1 - 2 * (n / 3) / (24 / 9 + n) for n in (12, 8)])
    assert losses.segmentation(torch.zeros_like(labels), labels).item() == pytest.approx(math.log(3) + dice, abs=1e-4)


def test_gradient_deviation_by_hand():
    assert losses.gradient_deviation(torch.tensor([0.5, 0.25, 1.0])).item() == pytest.approx(0.25)


def test_diffusion_by_hand():
    u = displacement(3 * ramp(0), 2 * ramp(2), 5.0)
    # A slope counts in one of three components.
    assert losses.diffusion(u).item() == pytest.approx((9 + 4) / 3)
    assert losses.diffusion(u, (0.5, 1, 4)).item() == pytest.approx((9 / 0.25 + 4 / 16) / 3)


def test_bending_by_hand():
    affine = displacement(0.3 * ramp(0) + ramp(2), 2 * ramp(1) - 7, ramp(0) - 0.1 * ramp(1))
    assert losses.bending(affine).item() == pytest.approx(0, abs=1e-20)
    assert losses.bending(displacement(ramp(1) ** 2, 0, 0)).item() == pytest.approx(2**2)
    # A mixed derivative counts twice, as in the sum over both orders.
    assert losses.bending(displacement(0, 3 * ramp(0) * ramp(2), 0)).item() == pytest.approx(2 * 3**2)
    # The Frobenius norm of a quadratic form's Hessian, H = [[2, 1, 0], [1, 0, 0], [0, 0, -6]], in two components.
    quadratic = ramp(0) ** 2 + ramp(0) * ramp(1) - 3 * ramp(2) ** 2 + ramp(1) - 4
    assert losses.bending(displacement(quadratic, 0, 2 * quadratic)).item() == pytest.approx((1 + 4) * (4 + 2 + 36))


@pytest.mark.parametrize("loss", [losses.diffusion, losses.bending])
def test_smoothness_of_a_single_slice_is_finite(loss):
    flat = displacement(ramp(1) ** 2, 0, 0)[:, :, :1]
    assert loss(flat).item() == pytest.approx(loss(displacement(ramp(1) ** 2, 0, 0)).item())


def test_folding_by_hand():
    mirrored = displacement(-3 * ramp(0), 0, 0)  # determinant -2
    assert losses.folding(mirrored).item() == pytest.approx(2.1)
    assert losses.folding(displacement(-0.5 * ramp(0), 0, 0)) == 0
    assert losses.folding(displacement(-0.5 * ramp(0), 0, 0), margin=0.75).item() == pytest.approx(0.25)


def test_inverse_consistency_by_hand():
    there, back = displacement(1, -2, 0.5).float(), displacement(-1, 2, -0.5).float()
    assert losses.inverse_consistency(there, back) == 0
    assert losses.inverse_consistency(there, torch.zeros_like(there)).item() == pytest.approx(1 + 4 + 0.25)
    # Everything to slice 0 and then two further misses by 2 - k; two further first, the border's vector is read.
    gather, step = displacement(-ramp(0), 0, 0).float(), displacement(2, 0, 0).float()
    k = np.arange(5)
    expected = (np.mean((2 - k) ** 2) + np.mean((2 - np.minimum(k + 2, 4)) ** 2)) / 2
    assert losses.inverse_consistency(gather, step).item() == pytest.approx(expected)


CHECKED = {
    "mse": lambda a, b: losses.mse(a, b),
    "local_correlation": lambda a, b: losses.local_correlation(a, b, 3),
    "correlation": lambda a, b: losses.correlation(a, b),
    "mutual_information": lambda a, b: losses.mutual_information(a, b, bins=4),
    "dice": lambda a, b: losses.dice(a, b),
    "dice of known labels": lambda a, b: losses.dice(a, b, known=torch.tensor([[1, 0, 1]])),
    "segmentation of known labels": lambda a, b: losses.segmentation(a, b.softmax(1), torch.tensor([[1, 0]])),
    "segmentation": lambda a, b: losses.segmentation(a, b.softmax(1)),
    "gradient_deviation": lambda a, b: losses.gradient_deviation(a) + losses.gradient_deviation(b),
    "diffusion": lambda a, b: losses.diffusion(a - b, (1, 2, 3)),
    "bending": lambda a, b: losses.bending(a - b),
    "folding": lambda a, b: losses.folding(4 * a - 5 * b),
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradient_by_finite_differences(name, generator):
    # Three channels, so that both images and displacements can be checked.
    a, b = (torch.rand(1, 3, 3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    if name == "mutual_information":
        a, b = (x[:, :1].detach().requires_grad_() for x in (a, b))
    assert torch.autograd.gradcheck(CHECKED[name], (a, b))
    assert torch.autograd.grad(CHECKED[name](a, b), a)[0].abs().max() > 0


def test_gradient_of_inverse_consistency(generator):
    # Sampling is single precision, so one direction with a long step stands for the full check.
    u, v, along = (0.2 * torch.rand(3, 1, 3, *SHAPE, generator=generator) + 0.1).unbind(0)
    u.requires_grad_()
    slope = (torch.autograd.grad(losses.inverse_consistency(u, v), u)[0] * along).sum().item()
    step = 1e-2
    difference = losses.inverse_consistency(u + step * along, v) - losses.inverse_consistency(u - step * along, v)
    assert difference.item() / (2 * step) == pytest.approx(slope, rel=2e-2)


def test_mass_change_is_of_what_density_does_not_make_up_for(generator):
    moved = 0.2 + 0.1 * torch.rand(1, 1, 8, 9, 10, generator=generator)
    ratio = 1 + 0.3 * torch.rand(moved.shape, generator=generator)
    inside = torch.zeros_like(moved)
    inside[..., 1:7, 2:8, 2:9] = 1
    kept = moved * ratio
    assert losses.mass_change(moved, kept, ratio, inside, 3) < 1e-10
    # A common factor is calibration, and what lies outside does not count.
    assert losses.mass_change(moved, 1.3 * kept, ratio, inside, 3) < 1e-10
    assert losses.mass_change(moved, torch.where(inside > 0, kept, 9), ratio, inside, 3) < 1e-10
    # Half of an even organ 10 % denser, the other half as much thinner: each tenth of the mean, squared.
    even, ones = torch.full((1, 1, 40, 6, 6), 0.25), torch.ones(1, 1, 40, 6, 6)
    other = even.clone()
    other[:, :, :20], other[:, :, 20:] = 0.275, 0.225
    assert float(losses.mass_change(even, other, ones, ones, 1)) == pytest.approx(0.01, rel=1e-4)
    ratio.requires_grad_()
    losses.mass_change(moved, 0.25 * inside, ratio, inside, 3).backward()
    assert ratio.grad.abs().max() > 0 and not ratio.grad[inside == 0].any()
