"""DeepAtlas: two networks apart, the identity to begin with, and the way back of either variant."""

from __future__ import annotations

import pytest
import torch
from JointRegSegLib import fields, losses
from JointRegSegLib.networks import DeepAtlas
from JointRegSegLib.networks.deepatlas import VoxelMorph
from perturb import passing, perturbed
from torch import nn

SHAPE = (8, 16, 24)
SMALL = {"encoder": (4, 6, 6), "decoder": (6, 6, 6, 4), "channels": (4, 6, 8)}


def build(**options) -> DeepAtlas:
    torch.manual_seed(0)
    return DeepAtlas(**{**SMALL, **options})


def paper(**options) -> DeepAtlas:
    torch.manual_seed(0)
    return DeepAtlas.paper(**{**SMALL, **options})


VARIANTS = {
    "default": build,
    "paper": paper,
    "displacement": lambda: build(velocity=False),
    "one way": lambda: build(both=False),
    "two passes": lambda: build(passes=2, normalized=True),
    "two passes, one way": lambda: build(passes=2, both=False),
    "demons": lambda: build(demons=2, passes=2),
    "demons, one way": lambda: build(demons=1, velocity=False, both=False),
    "full resolution": lambda: build(stride=1),
    "no segmentation": lambda: build(classes=0),
}
variants = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def pair(generator):
    moving, fixed = torch.rand(2, 2, 1, *SHAPE, generator=generator)
    return moving, fixed


@variants
def test_untrained_is_exactly_the_identity(make, pair):
    network = make()
    # Segmentations that nobody trained differ from image to image, and demons bring them onto each other.
    answer = network(pair[0], pair[0] if network.demons else pair[1])
    assert answer.forward.shape == (2, 3, *SHAPE) and not answer.forward.any()
    assert torch.equal(fields.warp(pair[0], answer.there), pair[0])
    assert network.seeks_agreement == bool(network.demons)
    assert (answer.back is None) == (not network.both)
    if network.both:
        assert not answer.back.any()


@variants
def test_segments_each_image_by_itself(make, pair):
    network = perturbed(make())
    answer = network(*pair)
    if network.segmentation is None:
        assert answer.moving_segmentation is answer.fixed_segmentation is None
        return
    assert answer.moving_segmentation.shape == (2, 3, *SHAPE)
    torch.testing.assert_close(answer.fixed_segmentation, network.segmentation(pair[1]))
    torch.testing.assert_close(answer.moving_segmentation, network(pair[0], pair[0]).fixed_segmentation)
    assert (answer.moving_segmentation - answer.fixed_segmentation).abs().max() > 0.01


@pytest.mark.parametrize("trained", ["registration", "segmentation"])
def test_the_two_networks_share_nothing(trained, pair):
    """One is trained while the other stays fixed, by its name."""
    network = perturbed(build())
    network.requires_grad_(False)
    getattr(network, trained).requires_grad_(True)
    before = network(*pair)
    perturbed(getattr(network, trained))
    after = network(*pair)
    assert torch.equal(before.forward, after.forward) == (trained == "segmentation")
    assert torch.equal(before.fixed_segmentation, after.fixed_segmentation) == (trained == "registration")
    assert after.forward.requires_grad == (trained == "registration")
    assert after.fixed_segmentation.requires_grad == (trained == "segmentation")


def test_the_way_back_of_a_velocity_undoes_the_way_there(pair):
    smooth = [losses.box_mean(image, 7) for image in pair]
    network = perturbed(build(stride=1), 0.05)
    with torch.no_grad():
        network.registration.field.bias.add_(torch.tensor([1.5, -2.0, 1.0]))
    answer = network(*smooth)
    assert answer.forward.abs().mean() > 1
    assert fields.jacobian_determinant(answer.forward).min() > 0
    missed = fields.round_trip(answer.forward, answer.backward)
    assert missed.nanmean() < 0.05 * answer.forward.square().sum(1).sqrt().mean()


def test_the_way_back_of_a_displacement_is_that_of_the_images_exchanged(pair):
    network = perturbed(build(velocity=False))
    one, other = network(*pair), network(*pair[::-1])
    torch.testing.assert_close(one.forward, other.backward)
    torch.testing.assert_close(one.backward, other.forward)
    assert (one.forward - one.backward).abs().max() > 0.01
    only = perturbed(build(velocity=False, both=False))(*pair)
    torch.testing.assert_close(only.forward, one.forward)


def test_a_field_of_half_resolution_is_enlarged(pair):
    network = perturbed(build(velocity=False))
    found = []
    network.registration.register_forward_hook(lambda module, inputs, output: found.append(output))
    answer = network(*pair)
    assert found[0].shape == (4, 3, *(n // 2 for n in SHAPE))
    torch.testing.assert_close(answer.forward, fields.resize(found[0], SHAPE)[:2])
    torch.testing.assert_close(answer.levels[0].displacement, torch.cat([answer.forward, answer.backward]))


@variants
def test_gradients_reach_every_parameter(make, pair, generator):
    network = perturbed(make())
    answer = network(*pair)
    outputs = [answer.there, answer.back, answer.moving_segmentation, answer.fixed_segmentation]
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs if o is not None).backward()
    # A bias that instance normalization takes away again cannot have a gradient.
    blocks = [(name, block) for name, block in network.named_modules() if isinstance(block, nn.Sequential)]
    idle = {f"{n}.{i - 1}.bias" for n, b in blocks for i in range(len(b)) if isinstance(b[i], nn.InstanceNorm3d)}
    for name, parameter in network.named_parameters():
        assert name in idle or parameter.grad.abs().max() > 1e-5, name


@pytest.mark.parametrize("make", [build, paper, VARIANTS["displacement"]])
def test_it_leaves_the_identity_for_the_better(make, pair):
    smooth = losses.box_mean(pair[0], 5)
    moving, fixed = smooth / smooth.std(), smooth.roll(2, 4) / smooth.std()
    network = make()
    adam = torch.optim.Adam(network.registration.parameters(), 3e-3)
    errors = []
    for _ in range(25):
        errors.append(losses.mse(fields.warp(moving, network.register(moving, fixed)[:2]), fixed))
        adam.zero_grad()
        errors[-1].backward()
        adam.step()
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("velocity", [True, False])
def test_a_second_pass_goes_on_where_the_first_ended(velocity, pair):
    network = perturbed(build(passes=2, velocity=velocity))
    there, back = network.register(*pair).split(2)
    network.passes = 1
    first, first_back = network.register(*pair).split(2)
    second, second_back = network.register(fields.warp(pair[0], first), pair[1]).split(2)
    assert first.abs().max() > 0.1 and second.abs().max() > 0.1
    # Read at x + second(x) and then moved by the first; on the way back the other way around.
    assert torch.allclose(there, fields.compose(first, second)) and not torch.allclose(there, first + second, atol=1e-2)
    assert torch.allclose(back, fields.compose(second_back, first_back))
    with pytest.raises(ValueError, match="passes has to be"):
        build(passes=0)


def test_normalization_is_of_registration_too():
    count = [
        sum(isinstance(m, nn.InstanceNorm3d) for m in n.registration.modules())
        for n in (build(normalized=True), build())
    ]
    assert count == [sum(isinstance(m, nn.Conv3d) for m in build().registration.modules()) - 1, 0]


def test_the_published_networks():
    with torch.device("meta"):
        network = DeepAtlas.paper(classes=32)
        pairs, image = torch.zeros(1, 2, 168, 200, 176), torch.zeros(1, 1, 168, 200, 176)
        assert network.registration(pairs).shape == (1, 3, 168, 200, 176)
        assert network.segmentation(image).shape == (1, 32, 168, 200, 176)
    layers = [m for m in network.registration.modules() if isinstance(m, nn.Conv3d)]
    assert [m.out_channels for m in layers] == [16, 32, 32, 32, 32, 32, 32, 32, 32, 8, 8, 3]
    assert [m.stride[0] for m in layers] == [1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert not network.velocity and not network.both and network.passes == 1
    assert not any(isinstance(m, nn.InstanceNorm3d) for m in network.registration.modules())


@pytest.mark.parametrize("stride", [1, 2])
def test_what_the_registration_computes(stride, generator):
    """With weights that pass features on: each level's, the coarser ones from their nearest neighbor, together."""
    pairs = torch.rand(1, 2, 8, 4, 12, generator=generator) + 0.1
    network = passing(VoxelMorph(2, (1, 1, 1), (1, 1, 1, 1), stride))
    fine = pairs.sum(1, keepdim=True)[..., ::stride, ::stride, ::stride]
    expected = fine
    for factor in (2, 4):
        coarse = fine[..., ::factor, ::factor, ::factor]
        for axis, size in enumerate(fine.shape[2:], 2):
            coarse = coarse.repeat_interleave(factor, axis).narrow(axis, 0, size)
        expected = expected + coarse
    torch.testing.assert_close(network(pairs), expected.repeat(1, 3, 1, 1, 1))


def test_registration_takes_sides_of_any_length(generator):
    network = VoxelMorph(2, (4, 4, 4), (4, 4, 4), stride=2)
    assert network(torch.rand(1, 2, 9, 14, 23, generator=generator)).shape == (1, 3, 5, 7, 12)
    assert build(classes=0).divisor == 2 and build().divisor == 4
    with pytest.raises(ValueError, match="as many widths"):
        VoxelMorph(2, (4, 4, 4), (4, 4), stride=1)


def test_takes_ct_windows(pair):
    windows = [image.repeat(1, 3, 1, 1, 1) for image in pair]
    answer = build(inputs=3)(*windows)
    assert answer.forward.shape == (2, 3, *SHAPE) and answer.fixed_segmentation.shape == (2, 3, *SHAPE)
    with pytest.raises(ValueError, match="3 channels"):
        build(inputs=3)(*pair)
