"""Losses and layers that MONAI has, too, give what MONAI's give; ours also know masks and labels that nobody drew."""

from __future__ import annotations

import pytest
import torch
from JointRegSegLib import losses
from JointRegSegLib.networks.linear_deformable import SqueezeExcitation
from monai.losses import (
    BendingEnergyLoss,
    DiceCELoss,
    DiceLoss,
    DiffusionLoss,
    LocalNormalizedCrossCorrelationLoss,
)
from monai.networks.blocks import ChannelSELayer

SHAPE = (11, 12, 13)
#: MONAI 1.6 still does it.
LISTS = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing")


@pytest.fixture
def coordinates() -> torch.Tensor:
    """(3, D, H, W) coordinates of voxels."""
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SHAPE), indexing="ij"))


def test_dice(generator):
    a, b = torch.rand(2, 2, 3, *SHAPE, generator=generator)
    theirs = DiceLoss(squared_pred=True, smooth_nr=1e-3, smooth_dr=1e-3)(a, b)
    torch.testing.assert_close(losses.dice(a, b), theirs)


def test_segmentation(generator):
    scores = 3 * torch.randn(2, 4, *SHAPE, generator=generator)
    labels = (
        torch.nn.functional.one_hot(torch.randint(0, 4, (2, *SHAPE), generator=generator), 4).movedim(-1, 1).float()
    )
    theirs = DiceCELoss(include_background=False, softmax=True, squared_pred=True, smooth_nr=1e-3, smooth_dr=1e-3)
    torch.testing.assert_close(losses.segmentation(scores, labels), theirs(scores, labels))


def test_local_correlation(generator):
    """Where no window reaches across a border: there MONAI's has zeros, and ours what there is."""
    a = torch.rand(2, 1, *SHAPE, dtype=torch.float64, generator=generator)
    b = a.square() + 0.5 * torch.rand(a.shape, dtype=torch.float64, generator=generator)
    theirs = LocalNormalizedCrossCorrelationLoss(kernel_size=5, smooth_nr=0, smooth_dr=1e-12, reduction="none")(a, b)
    inside = torch.zeros(2, 1, *SHAPE, dtype=torch.float64)
    inside[..., 2:-2, 2:-2, 2:-2] = 1
    ours = losses.local_correlation(a, b, 5, inside, eps=1e-12)
    assert 0.1 < ours < 0.9
    torch.testing.assert_close(ours - 1, (theirs * inside).sum() / inside.sum())


@LISTS
def test_bending_energy(coordinates, generator):
    """Of quadratic fields, whose differences of any kind are the derivatives; MONAI takes the mean over components."""
    weights = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=generator)
    field = torch.einsum("ncij,idhw,jdhw->ncdhw", weights, coordinates, coordinates)
    torch.testing.assert_close(losses.bending(field), 3 * BendingEnergyLoss()(field))


@LISTS
def test_diffusion(coordinates, generator):
    field = torch.einsum("nci,idhw->ncdhw", torch.randn(2, 3, 3, dtype=torch.float64, generator=generator), coordinates)
    torch.testing.assert_close(losses.diffusion(field), DiffusionLoss()(field))


def test_squeeze_and_excitation(generator):
    ours, theirs = SqueezeExcitation(8, 2), ChannelSELayer(3, 8, 2, ("relu", {"inplace": True}))
    theirs.fc.load_state_dict(ours.weigh.state_dict())
    x = torch.randn(2, 8, *SHAPE, generator=generator)
    torch.testing.assert_close(ours(x), theirs(x))
