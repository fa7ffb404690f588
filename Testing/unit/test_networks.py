"""What has to hold for a network whatever its weights: shapes, exact identity, symmetry, reach of the gradients."""

from __future__ import annotations

import pytest
import torch
from JointRegSegLib import fields, losses
from JointRegSegLib.networks import NETWORKS, RegistrationNetwork, SymmetricNetwork
from JointRegSegLib.networks.blocks import Decoder, Encoder, convolutions, zeroed
from JointRegSegLib.networks.symmetric import SQUARINGS
from perturb import passing, perturbed
from torch import nn

SHAPE = (16, 8, 24)  # three different sides


def tiny(**options) -> SymmetricNetwork:
    torch.manual_seed(0)
    return SymmetricNetwork((4, 6, 8), (1, 1, 2), **options)


def paper(**options) -> SymmetricNetwork:
    torch.manual_seed(0)
    return SymmetricNetwork.paper((4, 6, 8), **options)


VARIANTS = {
    "default": tiny,
    "paper": paper,
    "full resolution": lambda **o: tiny(finest=0, **o),
    "spatial gradients at every level": lambda **o: tiny(velocity=False, **o),
    "once": lambda **o: tiny(passes=1, **o),
    "three looks": lambda **o: tiny(passes=1, looks=3, **o),
    "two looks, shared encoder only": lambda **o: tiny(joint=False, looks=2, **o),
    "shared encoder only": lambda **o: tiny(joint=False, **o),
    "no segmentation": lambda **o: tiny(joint=False, **{**o, "classes": 0}),
}
variants = pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def pair(generator) -> tuple[torch.Tensor, torch.Tensor]:
    moving, fixed = torch.rand(2, 2, 1, *SHAPE, generator=generator)
    return moving, fixed


@variants
def test_untrained_is_exactly_the_identity(build, pair):
    answer = build()(*pair)
    assert answer.forward.shape == answer.backward.shape == (2, 3, *SHAPE)
    assert not answer.forward.any()
    assert not answer.backward.any()
    assert torch.equal(fields.warp(pair[0], answer.forward), pair[0])


@variants
def test_moves_after_a_perturbation(build, pair):
    answer = perturbed(build())(*pair)
    for field in (answer.forward, answer.backward):
        assert field.isfinite().all()
        assert field.std(dim=(2, 3, 4)).min() > 1e-3  # not a mere shift, and in every component


@variants
def test_swapping_the_images_swaps_the_answer(build, pair):
    network = perturbed(build())
    one, other = network(*pair), network(*pair[::-1])
    torch.testing.assert_close(one.forward, other.backward)
    torch.testing.assert_close(one.backward, other.forward)
    assert (one.forward - one.backward).abs().max() > 0.01
    if network.segmentation is not None:
        torch.testing.assert_close(one.moving_segmentation, other.fixed_segmentation)
        torch.testing.assert_close(one.fixed_segmentation, other.moving_segmentation)
        assert (one.moving_segmentation - one.fixed_segmentation).abs().max() > 0.01


@variants
def test_pairs_of_a_batch_do_not_mix(build, pair):
    network = perturbed(build())
    both, second = network(*pair), network(pair[0][1:], pair[1][1:])
    torch.testing.assert_close(both.forward[1:], second.forward, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both.backward[1:], second.backward, rtol=1e-3, atol=1e-4)


@variants
def test_gradients_reach_every_parameter(build, pair, generator):
    network = perturbed(build())
    answer = network(*pair)
    outputs = [answer.forward, answer.backward, answer.moving_segmentation, answer.fixed_segmentation]
    outputs += [level.displacement for level in answer.levels]
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs if o is not None).backward()
    # A bias that instance normalization takes away again cannot have a gradient.
    blocks = [(name, block) for name, block in network.named_modules() if isinstance(block, nn.Sequential)]
    idle = {f"{n}.{i - 1}.bias" for n, b in blocks for i in range(len(b)) if isinstance(b[i], nn.InstanceNorm3d)}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert name in idle or parameter.grad.abs().max() > 1e-4, name


@variants
def test_one_step_leaves_the_identity_for_the_better(build, pair):
    """All starts at a zero field, and still the gradient says truly how to bring two shifted images closer."""
    network = build()
    smooth = losses.box_mean(pair[0], 5)
    moving, fixed = smooth / smooth.std(), smooth.roll(2, 4) / smooth.std()

    def loss() -> torch.Tensor:
        answer = network(moving, fixed)
        there = losses.mse(fields.warp(moving, answer.forward), fixed)
        return there + losses.mse(fields.warp(fixed, answer.backward), moving)

    start = loss()
    start.backward()
    slope = sum(p.grad.square().sum().item() for p in network.parameters() if p.grad is not None)
    expected = 0.01 * start.item()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= expected / slope * parameter.grad
        gained = (start - loss()).item()
    # Not exactly as much, since linear interpolation has a kink at every voxel's center.
    assert gained == pytest.approx(expected, rel=0.5)


@variants
def test_levels_hold_the_fields_and_their_gradients(build, pair):
    network = perturbed(build())
    answer = network(*pair)
    scales = (4, 2, 1)[: 3 - network.finest]
    first = network.passes * len(scales)
    assert len(answer.levels) == first + network.looks - 1
    before = None
    for scale, level in zip(scales * network.passes, answer.levels[:first], strict=True):
        shape = tuple(n // scale for n in SHAPE)
        assert level.displacement.shape == (4, 3, *shape)
        if network.velocity and before is not None:
            assert level.gradients is None
        else:
            assert level.gradients.shape == level.displacement.shape
            assert level.gradients.min() > 0
            assert level.gradients.max() < 1
            expected = fields.integrate_gradients(level.gradients)
            if before is not None and network.warping:
                # The new step comes first and leads to where the coarser field is read.
                expected = fields.compose(fields.resize(before, shape), expected)
            torch.testing.assert_close(level.displacement, expected)
        before = level.displacement
    for level in answer.levels[first:]:
        assert level.gradients is None
        assert level.displacement.shape == (4, 3, *SHAPE)
        before = level.displacement
    torch.testing.assert_close(torch.cat([answer.forward, answer.backward]), fields.resize(before, SHAPE))


def test_a_finer_level_adds_an_integrated_velocity(pair):
    network = perturbed(tiny(passes=1))
    found = []
    network.heads["1"].register_forward_hook(lambda module, inputs, output: found.append(output))
    coarse, fine = network(*pair).levels[:2]
    step = fields.scale_and_square(found[0], SQUARINGS)
    assert step.abs().mean() > 0.01
    torch.testing.assert_close(
        fine.displacement, fields.compose(fields.resize(coarse.displacement, step.shape[2:]), step)
    )


def test_a_second_pass_corrects_the_first(pair):
    """With the same weights, on what the first pass has aligned."""
    once, twice = perturbed(tiny(passes=1)), perturbed(tiny(passes=2))
    first, second = once(*pair).levels, twice(*pair).levels
    torch.testing.assert_close(first[-1].displacement, second[len(first) - 1].displacement)
    assert (second[-1].displacement - first[-1].displacement).abs().max() > 1e-3
    assert once.state_dict().keys() == twice.state_dict().keys()
    with pytest.raises(ValueError, match="need warping"):
        tiny(warping=False)


@pytest.mark.parametrize("options", [{}, {"joint": False}, {"classes": 0, "joint": False}, {"passes": 1}])
def test_a_second_look_at_what_was_carried(options, pair):
    """Half of what it finds on carried images: each against its target, and the images against what came to them."""
    once, twice = perturbed(tiny(**options)), perturbed(tiny(looks=2, **options))
    (moving, fixed), first, second = pair, once(*pair), twice(*pair)
    of_moving = once(fields.warp(moving, first.there), fixed)
    of_fixed = once(moving, fields.warp(fixed, first.back))
    there = fields.compose(first.there, of_moving.there / 2) + fields.compose(of_fixed.there / 2, first.there)
    back = fields.compose(first.back, of_fixed.back / 2) + fields.compose(of_moving.back / 2, first.back)
    torch.testing.assert_close(second.there, there / 2)
    torch.testing.assert_close(second.back, back / 2)
    assert (second.there - first.there).abs().max() > 1e-2
    if once.segmentation is not None:
        torch.testing.assert_close(second.fixed_segmentation, first.fixed_segmentation)
    with pytest.raises(ValueError, match="looks has to be 1 or more, not 0"):
        tiny(looks=0)


@pytest.mark.parametrize("warping", [True, False])
def test_finer_levels_compare_what_the_coarser_field_has_aligned(warping, pair):
    network = perturbed(tiny(joint=False, warping=warping, velocity=False, passes=1))
    seen = []
    network.blocks["1"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    coarse = network(*pair).levels[0].displacement
    encoded = network.encoder(torch.cat(pair))[1]
    source = fields.warp(encoded, fields.resize(coarse, encoded.shape[2:])) if warping else encoded
    torch.testing.assert_close(seen[0][:, 6:], source - encoded.roll(2, 0))  # after six channels from below


@pytest.mark.parametrize(("joint", "follows"), [(True, True), (False, False)])
def test_registration_follows_the_segmentation_only_where_joint(joint, follows, pair):
    network = perturbed(tiny(joint=joint))
    before = network(*pair).forward
    perturbed(network.segmentation)
    assert (not torch.equal(network(*pair).forward, before)) == follows


def test_segmentations_have_a_score_for_each_class(pair):
    answer = tiny(classes=5)(*pair)
    assert answer.moving_segmentation.shape == answer.fixed_segmentation.shape == (2, 5, *SHAPE)
    none = tiny(classes=0, joint=False)(*pair)
    assert none.moving_segmentation is None
    assert none.fixed_segmentation is None
    assert none.affine is None


def test_takes_several_channels(pair):
    windows = [image.repeat(1, 3, 1, 1, 1) for image in pair]
    assert tiny(inputs=3)(*windows).forward.shape == (2, 3, *SHAPE)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_paper_is_the_published_network(depth):
    with torch.device("meta"):  # structure only: 50 million weights need no memory here
        network = SymmetricNetwork.paper((32, 64, 128, 256, 512)[:depth])
    assert not network.warping
    assert not network.joint
    assert network.finest == 0
    assert network.divisor == 2 ** (depth - 1)
    count = [sum(isinstance(layer, nn.Conv3d) for layer in level) for level in network.encoder.levels]
    assert count == [1, 2, 3, 2, 2][:depth]
    assert [level[0].out_channels for level in network.encoder.levels] == [32, 64, 128, 256, 512][:depth]
    # Only the first level goes without normalization.
    normalized = [any(isinstance(layer, nn.InstanceNorm3d) for layer in level) for level in network.encoder.levels]
    assert normalized == [False] + [True] * (depth - 1)


@pytest.mark.parametrize(
    ("moving", "fixed", "message"),
    [
        ((1, 1, 16, 8, 24), (1, 1, 16, 8, 16), "equal"),
        ((1, 1, 16, 8, 24), (2, 1, 16, 8, 24), "equal"),
        ((1, 1, 16, 8), (1, 1, 16, 8), "D, H, W"),
        ((1, 1, 16, 8, 22), (1, 1, 16, 8, 22), "multiples of 4"),
        ((1, 2, 16, 8, 24), (1, 2, 16, 8, 24), "channel"),
    ],
    ids=["other size", "other batch", "a slice", "odd size", "two channels for one"],
)
def test_refuses_images_it_cannot_take(moving, fixed, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(moving), torch.zeros(fixed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (4, 8), "counts": (1,)}, "same length"),
        ({"channels": (4,), "counts": (1,)}, "at least 2"),
        ({"channels": (4, 8), "counts": (1, 1), "finest": 2}, "finest"),
        ({"channels": (4, 8), "counts": (1, 1), "finest": -1}, "finest"),
        ({"channels": (4, 8), "counts": (1, 1), "classes": 0}, "joint"),
    ],
)
def test_refuses_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        SymmetricNetwork(**options)


def test_every_named_network_has_the_common_interface():
    assert NETWORKS["symmetric"] is SymmetricNetwork
    assert all(issubclass(network, RegistrationNetwork) for network in NETWORKS.values())
    with pytest.raises(NotImplementedError):
        RegistrationNetwork()(torch.zeros(1), torch.zeros(1))


def test_encoder_and_decoder_mirror_each_other(generator):
    features = Encoder(2, (3, 4, 5), (1, 2, 1))(torch.rand(1, 2, 8, 12, 16, generator=generator))
    assert [tuple(f.shape) for f in features] == [(1, 3, 8, 12, 16), (1, 4, 4, 6, 8), (1, 5, 2, 3, 4)]
    decoded = Decoder((3, 4, 5), (1, 2, 1))(features)
    assert [d.shape for d in decoded] == [f.shape for f in features]
    assert decoded[-1] is features[-1]


def test_what_encoder_and_decoder_compute(generator):
    """With weights that pass features on, each layer by itself: a sum, every other voxel, each voxel as a block."""
    image = torch.rand(1, 2, 4, 6, 8, generator=generator) + 0.1
    fine, coarse = passing(Encoder(2, (1, 3), (2, 1)))(image)
    total = image.sum(1, keepdim=True)
    torch.testing.assert_close(fine, total)

    def normal(x: torch.Tensor) -> torch.Tensor:
        spread = x.var((2, 3, 4), correction=0, keepdim=True)
        x = (x - x.mean((2, 3, 4), keepdim=True)) / (spread + 1e-5).sqrt()
        return torch.where(x > 0, x, 0.1 * x)

    torch.testing.assert_close(coarse, normal(3 * total[..., ::2, ::2, ::2]).repeat(1, 3, 1, 1, 1))
    decoded, same = passing(Decoder((1, 3), (1, 1)))([fine, coarse])
    blocks = coarse.sum(1, keepdim=True)
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(2, axis)
    assert same is coarse
    torch.testing.assert_close(decoded, normal(blocks + fine))


def test_convolutions_normalize_each_channel_of_each_image(generator):
    image = 5 + torch.rand(2, 1, 8, 8, 8, generator=generator)
    block = convolutions(1, 3, 1)
    normalized = block[:2](image)  # without the activation
    torch.testing.assert_close(normalized.mean((2, 3, 4)), torch.zeros(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(normalized.std((2, 3, 4)), torch.ones(2, 3), rtol=0.02, atol=0)
    assert {name for name, _ in block.named_parameters()} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert [type(layer) for layer in convolutions(1, 3, 2, norm=False)] == [nn.Conv3d, nn.LeakyReLU] * 2


def test_zeroed_starts_neutral():
    head = nn.Conv3d(8, 3, 3)
    assert zeroed(head) is head
    assert not head.weight.any()
    assert not head.bias.any()
