"""SVF-Net: what has to hold whatever its weights."""

from __future__ import annotations

import pytest
import torch
from JointRegSegLib import fields
from JointRegSegLib.networks import SVFNet
from JointRegSegLib.networks.svfnet import Pool
from perturb import perturbed

SHAPE = (16, 16, 32)


@pytest.fixture
def pair(generator):
    moving, fixed = torch.rand(2, 2, 1, *SHAPE, generator=generator)
    return moving, fixed


def test_untrained_is_exactly_the_identity(pair):
    for network in (SVFNet(), SVFNet.paper((4, 8, 16, 32))):
        answer = network(*pair)
        assert not answer.forward.any()
        assert not answer.backward.any()
        assert torch.equal(fields.warp(pair[0], answer.there), pair[0])


def test_the_published_network_begins_with_features_that_do_not_fade(generator):
    """Else its last layer would have to grow a thousandfold before the others have anything to learn from."""
    torch.manual_seed(0)
    network = SVFNet.paper((8, 16, 32, 64))
    features = network._features(torch.randn(2, 2, *SHAPE, generator=generator))
    assert 0.2 < float(features.detach().square().mean().sqrt()) < 5


@pytest.mark.parametrize("guided", [False, True])
def test_exchanging_the_images_exchanges_the_answers(pair, guided):
    network = perturbed(SVFNet(guided=guided))
    answer, turned = network(*pair), network(*pair[::-1])
    assert answer.forward.abs().max() > 0.1
    torch.testing.assert_close(answer.forward, turned.backward)
    torch.testing.assert_close(answer.moving_segmentation, turned.fixed_segmentation)
    paper = perturbed(SVFNet.paper((4, 8, 16, 32)))
    assert (paper(*pair).forward - paper(*pair[::-1]).backward).abs().max() > 0.1


def test_both_ways_are_exponentials_of_one_velocity(pair):
    answer = perturbed(SVFNet(coarse=False))(*pair)
    there, back = answer.levels[0].velocity.chunk(2)
    assert torch.equal(there, -back)
    torch.testing.assert_close(answer.forward, fields.scale_and_square(there))
    torch.testing.assert_close(answer.backward, fields.scale_and_square(back))


def test_a_smooth_motion_is_the_same_at_half_resolution(pair, monkeypatch, generator):
    smooth = 0.1 * torch.randn(2, 3, 2, 2, 4, generator=generator)
    answers = []
    for coarse in (False, True):
        network = SVFNet(coarse=coarse, passes=1)
        monkeypatch.setattr(network, "_velocity", lambda features, n: fields.resize(smooth, features.shape[2:]))
        answers.append(network(*pair).forward)
    assert answers[0].abs().max() > 1
    missed = (answers[0] - answers[1]).abs()
    assert missed.mean() < 0.05 * answers[0].abs().mean()


def test_later_looks_see_half_the_resolution_within_slices(pair, monkeypatch):
    network, seen = SVFNet(passes=3), []
    look = network._features
    monkeypatch.setattr(network, "_features", lambda x, *more: (seen.append(tuple(x.shape[2:])), look(x, *more))[1])
    network(*pair)
    assert seen == [SHAPE, (16, 8, 16), (16, 8, 16)]


@pytest.mark.parametrize("step", [(1, 2, 2), (2, 2, 2)])
def test_pooling_is_that_of_torch(generator, step):
    x = torch.randn(2, 3, *SHAPE, generator=generator)
    assert torch.equal(Pool(step)(x), torch.nn.functional.max_pool3d(x, step))


def test_an_image_with_itself_does_not_move(pair):
    assert not perturbed(SVFNet())(pair[0], pair[0]).forward.any()


def test_guided_looks_begin_as_without_and_see_the_structures_carried_with_their_images(pair, monkeypatch):
    network, plain = SVFNet(guided=True), SVFNet()
    for each in (network, plain):
        perturbed(each)
    plain.load_state_dict({name: network.state_dict()[name] for name in plain.state_dict()})
    learned = network(*pair).forward
    assert (learned - plain(*pair).forward).abs().max() > 0.01
    torch.nn.init.zeros_(network.guide.weight)
    torch.nn.init.zeros_(network.guide.bias)
    torch.testing.assert_close(network(*pair).forward, plain(*pair).forward)

    seen = []
    network.guide.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shift = torch.zeros(2, 3, *SHAPE)
    shift[:, 2] = 4
    monkeypatch.setattr(network, "_velocity", lambda features, n: fields.resize(shift, features.shape[2:]))
    answer = network(*pair)
    moving, fixed = (s.softmax(1) for s in (answer.moving_segmentation, answer.fixed_segmentation))
    (classes,) = seen  # the moving image's before the fixed one's, then exchanged
    assert classes.shape == (4, 8, 16, 8, 16)
    torch.testing.assert_close(classes[:2], classes[2:].roll(4, 1))
    # Half of the shift each, towards each other; away from the border.
    for found, whole, offset in ((classes[:2, :4], moving, 2), (classes[:2, 4:], fixed, -2)):
        expected = torch.nn.functional.avg_pool3d(whole.roll(-offset, 4), (1, 2, 2))
        torch.testing.assert_close(found[..., 3:-3], expected[..., 3:-3], rtol=0, atol=1e-4)


def test_who_is_segmented(pair):
    both, one = SVFNet()(*pair), SVFNet(symmetric=False, classes=3)(*pair)
    assert both.moving_segmentation.shape == both.fixed_segmentation.shape == (2, 4, *SHAPE)
    assert one.moving_segmentation.shape == (2, 3, *SHAPE)
    assert one.fixed_segmentation is None
    assert SVFNet.paper((4, 8, 16, 32))(*pair).moving_segmentation is None


def test_the_first_two_levels_stay_within_slices(generator):
    network = perturbed(SVFNet(normalized=False, symmetric=False))
    images = torch.rand(1, 2, *SHAPE, generator=generator, requires_grad=True)

    def reached(features: torch.Tensor) -> list[bool]:
        (gradient,) = torch.autograd.grad(features[0, :, features.shape[2] // 2 - 1].sum(), images, retain_graph=True)
        return (gradient != 0).any(4).any(3)[0].any(0).tolist()

    own = [k == 7 for k in range(SHAPE[0])]
    first = network.down[0](images)
    second = network.down[1](network.pool[0](first))
    third = network.down[2](network.pool[1](second))
    assert second.shape[2:] == (16, 8, 16)
    assert reached(first) == reached(second) == own
    assert third.shape[2:] == (16, 4, 8)
    assert sum(reached(third)) == 5  # two 3³ convolutions
    assert network.pool[2](third).shape[2:] == (8, 2, 4)


def test_gradients_reach_every_parameter(pair, generator):
    network = perturbed(SVFNet(guided=True))
    answer = network(*pair)
    outputs = [answer.forward, answer.backward, answer.moving_segmentation, answer.fixed_segmentation]
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs).backward()
    # Normalization takes away what the bias before it adds, and the difference of both orders the velocity's.
    idle = {f"{name}.{i}.bias" for name, block in network.named_modules() if name.startswith(("down.", "up."))
            and isinstance(block, torch.nn.Sequential) for i in (0, 3)} | {"velocity.bias"}  # fmt: skip
    for name, parameter in network.named_parameters():
        assert name in idle or parameter.grad.abs().max() > 1e-5, name


def test_refused_arguments(pair):
    with pytest.raises(ValueError, match="more than 2 levels"):
        SVFNet((8, 16))
    for options in ({"classes": 0}, {"symmetric": False}):
        with pytest.raises(ValueError, match="guided needs classes"):
            SVFNet(guided=True, **options)
    with pytest.raises(ValueError, match="multiples of 16"):
        SVFNet()(pair[0][..., :20], pair[1][..., :20])
