"""The linear + deformable network: what the paper says of its size, the order of its two parts, its segmentation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from JointRegSegLib import fields
from JointRegSegLib.networks import LinearDeformableNetwork
from JointRegSegLib.networks.linear_deformable import SqueezeExcitation
from torch import nn

SHAPE = (12, 16, 20)
SMALL = {"channels": (4, 4, 4, 4, 4), "decoder": (4,)}
VARIANTS = [{}, {"stride": 1}, {"linear": False}, {"passes": 1}, {"velocity": False}, {"squeeze": 0}, {"classes": 3}]


def build(**options) -> LinearDeformableNetwork:
    torch.manual_seed(0)
    return LinearDeformableNetwork(**{**SMALL, **options})


@pytest.fixture
def pair(generator):
    moving, fixed = torch.rand(2, 2, 1, *SHAPE, generator=generator)
    return moving, fixed


def test_the_published_network_merges_290_features_with_a_receptive_field_of_25():
    with torch.device("meta"):
        network = LinearDeformableNetwork.paper()
    assert network.linear.layer.in_features == network.excitation.weigh[-2].out_features == 290
    convolutions = [layer[0] for layer in network.layers]
    assert 1 + sum(2 * c.dilation[0] for c in convolutions) == 25
    assert all(isinstance(c, nn.Conv3d) and c.stride == (1, 1, 1) for c in convolutions)
    assert sum(p.numel() for p in network.parameters()) == 948_131
    assert network.segmentation is None and not network.velocity and network.passes == 1


@pytest.mark.parametrize("options", [*VARIANTS, {"both": False}])
def test_untrained_is_exactly_the_identity(options, pair):
    answer = build(**options)(*pair)
    assert answer.forward.shape == (2, 3, *SHAPE) and not answer.forward.any()
    assert torch.equal(fields.warp(pair[0], answer.there), pair[0])
    assert (answer.affine is None) == (options.get("linear") is False)
    assert (answer.backward is None) == (options.get("both") is False)
    assert (answer.fixed_segmentation is None) == ("classes" not in options)


def test_the_affine_map_comes_first(pair):
    """Equation 3: a point goes to φ(A x)."""
    network = build(stride=1, passes=1, velocity=False)
    with torch.no_grad():
        network.linear.layer.bias.copy_(torch.tensor([[0.1, 0, 0, 0.2], [0, 0.05, 0, 0], [0, 0, -0.1, 0]]).flatten())
        network.gradients.bias.copy_(torch.tensor([0.0, 0.1, 0.0]))  # φ stretches along H
    answer = network(*pair)
    matrix = answer.affine[0].double().detach().numpy()
    x = np.array([4.0, 5.0, 6.0])
    ax = matrix @ [*x, 1]
    stretch = 2 / (1 + np.exp(-0.1))
    expected = ax + np.array([0, (stretch - 1) * (ax[1] + 1), 0])  # cumulative: one step at index 0 already
    found = x + answer.there[0, :, 4, 5, 6].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("options", VARIANTS)
def test_swapping_swaps(options, pair, generator):
    network = moved(build(**options), generator)
    one, other = network(*pair), network(*pair[::-1])
    torch.testing.assert_close(one.there, other.back, rtol=1e-3, atol=1e-4)
    assert (one.there - one.back).abs().max() > 0.01
    if options.get("classes"):
        assert one.moving_segmentation.shape == (2, 3, *SHAPE)
        torch.testing.assert_close(one.moving_segmentation, other.fixed_segmentation, rtol=1e-3, atol=1e-4)
        assert (one.moving_segmentation - one.fixed_segmentation).abs().max() > 0.01


def test_gradients_reach_all(pair, generator):
    network = moved(build(classes=3), generator)
    answer = network(*pair)
    outputs = [answer.there, answer.back, answer.moving_segmentation, answer.fixed_segmentation]
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs).backward()
    # Normalization takes these away again.
    idle = {f"layers.{i}.0.bias" for i in range(5)} | {"decoder.2.0.bias", "segmentation.0.2.0.bias"}
    for name, parameter in network.named_parameters():
        assert name in idle or parameter.grad.abs().max() > 1e-5, name


def moved(network: LinearDeformableNetwork, generator) -> LinearDeformableNetwork:
    """The network with all its weights off their beginning."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        network.excitation.weigh[0].bias.fill_(1.0)  # so few units are easily all off
    return network


def test_two_looks_are_one_map_after_the_other(generator):
    """A network that always answers with one shift finds it twice; the second look is at half the first one's size."""
    network = build(stride=1)
    with torch.no_grad():
        network.linear.layer.bias[3::4] = torch.tensor([0.1, 0.0, -0.2])
    shape = torch.tensor(SHAPE)
    answer = network(*torch.rand(2, 1, 1, *SHAPE, generator=generator))
    first = torch.tensor([0.1, 0.0, -0.2]) * (shape / 2 - 1) / 2 * 2  # voxels are half as wide at the second look
    second = torch.tensor([0.1, 0.0, -0.2]) * (shape - 1) / 2
    expected = (first + second).view(1, 3, 1, 1, 1).expand_as(answer.there)
    torch.testing.assert_close(answer.there, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answer.back, answer.there)
    assert len(answer.levels) == 2 and answer.levels[0].displacement.shape[2:] == tuple(n // 2 for n in SHAPE)


def test_half_precision_convolutions_do_not_round_coordinates(pair, generator):
    network = moved(build(), generator)
    exact = network(*pair).there
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(*pair)
    assert answer.affine.dtype == answer.forward.dtype == torch.float32
    assert (answer.there - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt() + 0.02


def test_what_does_not_go_together_is_refused():
    for options, words in (({"classes": 3, "both": False}, "classes needs both"), ({"passes": 0}, "1 or more, not 0")):
        with pytest.raises(ValueError, match=words):
            build(**options)


def test_excitation_weighs_channels():
    torch.manual_seed(0)
    block, x = SqueezeExcitation(8, 2), torch.randn(2, 8, 3, 4, 5)
    share = block(x) / x
    assert share.amin() > 0 and share.amax() < 1
    torch.testing.assert_close(share, share[:, :, :1, :1, :1].expand_as(share), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="5 widths"):
        LinearDeformableNetwork((4, 4))


def test_what_the_excitation_computes(generator):
    """Two channels and one hidden feature: how much each mean counts can be told by hand."""
    block, x = SqueezeExcitation(2, 2), torch.randn(3, 2, 4, 5, 6, generator=generator)
    narrow, _, wide, _ = block.weigh
    with torch.no_grad():
        for layer, weight, bias in ((narrow, [[2.0, -3]], [0.1]), (wide, [[1.0], [-2]], [0.5, 0.2])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    x[0] += torch.tensor([1.0, -1])[:, None, None, None]  # so that the hidden feature of one at least is above zero
    for image, found in zip(x, block(x), strict=True):
        hidden = max(0.0, float(2 * image[0].mean() - 3 * image[1].mean() + 0.1))
        for channel, told in enumerate((hidden + 0.5, -2 * hidden + 0.2)):
            torch.testing.assert_close(found[channel], image[channel] / (1 + math.exp(-told)))
