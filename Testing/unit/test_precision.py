"""Networks in half precision, coordinates never."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import device, fields, precision
from JointRegSegLib.networks.linear import AffineHead, composed, inverted, refined
from JointRegSegLib.networks.uresnet import UResNet


@pytest.fixture
def halves(monkeypatch):
    """A processor that computes in bfloat16, as far as the library knows."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    precision.halves.cache_clear()
    yield
    monkeypatch.undo()
    precision.halves.cache_clear()


def test_only_processors_that_have_it_compute_in_half_precision(halves, monkeypatch):
    ones = torch.ones(2, 2)
    with precision.fast(torch.device("cpu")):
        assert (ones @ ones).dtype == torch.bfloat16
    assert device.describe(torch.device("cpu"), network=True).endswith(", network in bfloat16)")
    assert "bfloat16" not in device.describe(torch.device("cpu"))
    assert not precision.halves("cuda")
    for capabilities in (lambda: {"avx512_bf16": False}, None):  # the second: a PyTorch that cannot tell
        precision.halves.cache_clear()
        if capabilities is None:
            monkeypatch.delattr(torch.cpu, "get_capabilities")
        else:
            monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities)
        with precision.fast(torch.device("cpu")):
            assert (ones @ ones).dtype == torch.float32
        assert "bfloat16" not in device.describe(torch.device("cpu"), network=True)


def test_a_gpu_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"number {device.index}")
    assert device.describe(torch.device("cuda:1"), network=True) == "cuda (number 1)"


def test_affine_maps_are_exact_under_autocast():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(3, 4) + 0.1 * torch.randn(2, 3, 4, generator=generator)
    displacement = torch.randn(2, 3, 9, 40, 60, generator=generator)
    head = AffineHead(5)
    torch.nn.init.normal_(head.layer.weight, std=0.1, generator=generator)
    features = torch.randn(2, 5, 2, 3, 4, generator=generator)

    def everything():
        return (
            composed(matrix, matrix),
            inverted(matrix),
            refined(matrix, 2),
            fields.then_affine(displacement, matrix),
            fields.mapped(displacement, np.diag([1.1, 0.9, 1.3])),
        )

    exact = everything()
    with torch.autocast("cpu", torch.bfloat16):
        assert (matrix[:, :, :3] @ matrix).dtype == torch.bfloat16  # autocast is at work
        for found, wanted in zip(everything(), exact, strict=True):
            assert found.dtype == torch.float32 and torch.equal(found, wanted)
        found = head(features, torch.Size((80, 96, 80)))
    # The layer is half as precise, what is made of its answer is not.
    wanted = head(features, torch.Size((80, 96, 80)))
    corner = torch.tensor([79.0, 95.0, 79.0])
    there = [m[:, :, :3] @ corner + m[:, :, 3] for m in (found.detach(), wanted.detach())]
    assert float((there[0] - there[1]).abs().max()) < 0.2 < float((there[1] - corner).abs().max())


def test_a_network_infers_nearly_what_it_answers_in_full(halves):
    generator = torch.Generator().manual_seed(1)
    network = UResNet().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    images = torch.randn(2, 1, 1, 32, 40, 32, generator=generator)
    with torch.no_grad():
        full = network(*images)
    half = network.infer(*images)
    assert half.forward.is_inference() and half.there.dtype == half.fixed_segmentation.dtype == torch.float32
    off = (half.there - full.there).norm(dim=1)
    assert 0 < float(off.max()) < 0.1 < float(full.there.norm(dim=1).max())
