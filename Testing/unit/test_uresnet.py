"""U-ReSNet: the published counts of parameters, and what has to hold whatever its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from JointRegSegLib import fields, losses
from JointRegSegLib.networks import UResNet
from JointRegSegLib.networks.linear import composed, inverted, refined
from perturb import perturbed

SHAPE = (8, 16, 24)


@pytest.fixture
def pair(generator):
    moving, fixed = torch.rand(2, 2, 1, *SHAPE, generator=generator)
    return moving, fixed


@pytest.mark.parametrize(("classes", "count"), [(4, 39_183), (0, 24_631)])
def test_the_published_network_has_its_published_number_of_parameters(classes, count):
    network = UResNet.paper(classes=classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_twice_the_channels_are_nearly_four_times_the_parameters():
    """But for the first layer and the last ones, which have the images and the answers at their other end."""
    counts = [sum(p.numel() for p in UResNet.paper(channels).parameters()) for channels in ((4, 8, 16), (8, 16, 32))]
    assert 3.8 < counts[1] / counts[0] < 4


@pytest.mark.parametrize("build", [UResNet, UResNet.paper])
def test_untrained_is_exactly_the_identity(build, pair):
    answer = build()(*pair)
    assert not answer.forward.any()
    assert torch.equal(answer.affine, torch.eye(3, 4).expand(2, 3, 4))
    assert torch.equal(fields.warp(pair[0], answer.there), pair[0])


def test_one_way_or_both(pair):
    paper, network = perturbed(UResNet.paper())(*pair), perturbed(UResNet())
    both, turned = network(*pair), network(*pair[::-1])
    assert paper.backward is paper.back is paper.fixed_segmentation is paper.backward_affine is None
    assert paper.moving_segmentation.shape == (2, 4, *SHAPE)
    torch.testing.assert_close(both.there, turned.back)
    torch.testing.assert_close(both.fixed_segmentation, turned.moving_segmentation)
    assert (both.there - both.back).abs().max() > 0.01
    assert UResNet(classes=0)(*pair).moving_segmentation is None
    with pytest.raises(ValueError, match="two levels"):
        UResNet((4,))


def test_the_affine_part_acts_about_the_middle_after_the_deformation(pair):
    network = UResNet(classes=0, both=False, passes=1)
    with torch.no_grad():
        network.linear.layer.bias.copy_(torch.tensor([[0.1, 0, 0, 0.2], [0, 0, 0, 0], [0, 0, -0.1, 0]]).flatten())
    answer = network(*pair)
    middle = np.array([(n - 1) / 2 for n in SHAPE])
    matrix = answer.affine[0].double().detach().numpy()
    np.testing.assert_allclose(matrix @ [*middle, 1], middle * [1.2, 1, 1], atol=1e-4)
    np.testing.assert_allclose(matrix[:, :3], np.diag([1.1, 1, 0.9]), atol=1e-6)
    u = torch.randn(2, 3, *SHAPE)
    place = (fields.identity(u) + u)[0, :, 3, 5, 7].double().numpy()
    total = fields.then_affine(u, answer.affine)[0, :, 3, 5, 7].detach().numpy()
    np.testing.assert_allclose(total + np.array([3, 5, 7]), matrix @ [*place, 1], atol=1e-4)


def test_the_second_look_starts_from_what_a_coarse_one_found(pair):
    network = perturbed(UResNet(classes=0, velocity=False))
    network.passes, network.divisor = 1, 4
    coarse = network(*(F.avg_pool3d(image, 2) for image in pair))
    there = fields.resize(coarse.forward, SHAPE)
    first = fields.then_affine(there, refined(coarse.affine, 2))
    second = network(fields.warp(pair[0], first), pair[1])
    network.passes = 2
    both = network(*pair)
    torch.testing.assert_close(both.there, fields.compose(first, second.there), atol=1e-4, rtol=1e-4)
    assert (both.there - first).abs().max() > 0.01 and (both.there - second.there).abs().max() > 0.01
    torch.testing.assert_close(both.affine, composed(refined(coarse.affine, 2), second.affine))


def test_an_affine_map_on_a_finer_lattice(generator):
    """The same points go the same way: a voxel of the coarse lattice is the middle of 2³ fine ones."""
    matrix = torch.eye(3, 4) + 0.2 * torch.randn(4, 3, 4, generator=generator)
    coarse = torch.rand(4, 3, 1, generator=generator) * 9
    fine = 2 * coarse + 0.5
    moved = matrix[:, :, :3] @ coarse + matrix[:, :, 3:]
    finer = refined(matrix, 2)
    torch.testing.assert_close(finer[:, :, :3] @ fine + finer[:, :, 3:], 2 * moved + 0.5, atol=1e-4, rtol=1e-4)


def test_affine_maps_one_after_the_other_and_back(generator):
    outer, inner = torch.eye(3, 4) + 0.2 * torch.randn(2, 5, 3, 4, generator=generator)
    u = torch.randn(5, 3, 3, 4, 5, generator=generator)
    chained = fields.then_affine(fields.then_affine(u, inner), outer)
    torch.testing.assert_close(fields.then_affine(u, composed(outer, inner)), chained, atol=1e-4, rtol=1e-4)
    nothing = torch.eye(3, 4).expand(5, 3, 4)
    torch.testing.assert_close(composed(outer, inverted(outer)), nothing, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter(pair, generator):
    network = perturbed(UResNet())
    answer = network(*pair)
    outputs = [answer.there, answer.back, answer.moving_segmentation, answer.fixed_segmentation]
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs).backward()
    idle = {f"{name}.bias" for name, _ in _before_norm(network)}  # normalization takes it away again
    for name, parameter in network.named_parameters():
        assert name in idle or parameter.grad.abs().max() > 1e-5, name


def _before_norm(network: torch.nn.Module):
    for name, block in network.named_modules():
        if isinstance(block, torch.nn.Sequential):
            for i in range(1, len(block)):
                if isinstance(block[i], torch.nn.InstanceNorm3d):
                    yield f"{name}.{i - 1}", block[i - 1]


def test_deviation_of_an_affine_map():
    shape = (5, 9, 3)
    assert losses.affine_deviation(torch.eye(3, 4)[None], shape) == 0
    matrix = torch.eye(3, 4)[None].clone()
    matrix[0, 1, 3] = 4.0  # one half of H's side of 9: deviation 1 in one of twelve
    assert losses.affine_deviation(matrix, shape) == pytest.approx(1 / 12)
    turn = torch.eye(3, 4)[None].clone()
    turn[0, 0, 0] = 1.3  # about the middle: no shift
    turn[0, 0, 3] = -0.3 * 2
    assert losses.affine_deviation(turn, shape) == pytest.approx(0.3 / 12)
