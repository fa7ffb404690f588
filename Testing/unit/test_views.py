"""Averaging over turned views: what turns with the images must come back unturned, on uneven lattices, too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib import views
from JointRegSegLib.errors import Canceled
from JointRegSegLib.geometry import affine_coordinates
from JointRegSegLib.networks import Prediction, RegistrationNetwork, SymmetricNetwork
from perturb import perturbed
from scipy.spatial.transform import Rotation

SHAPE = (14, 18, 12)
SPACING = (2.5, 1.0, 1.7)  # along D, H, W
#: Where turning by 10 degrees and back does not leave the lattice.
INSIDE = (..., slice(4, -4), slice(5, -5), slice(3, -3))


def ramp(slope: tuple[float, float, float]) -> torch.Tensor:
    """(1, 1, D, H, W): linear in mm, so that interpolation is exact."""
    at = affine_coordinates(np.eye(4), SHAPE, torch.empty(0))
    return sum(s * length * at[:, c : c + 1] for c, (s, length) in enumerate(zip(slope, SPACING, strict=True)))


class Downhill(RegistrationNetwork):
    """Moves along the image's slope in mm, there in the moving and back in the fixed image; the values are scores."""

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        lengths = torch.tensor(SPACING).view(1, 3, 1, 1, 1)

        def slope(image: torch.Tensor) -> torch.Tensor:
            return torch.cat(torch.gradient(image, dim=(2, 3, 4)), 1) / lengths / lengths  # mm, then voxels

        scores = [torch.cat([torch.zeros_like(x), x / 10], 1) for x in (moving, fixed)]
        return Prediction(slope(moving), slope(fixed), None, None, *scores)


def test_what_turns_with_the_images_is_turned_back():
    moving, fixed = ramp((0.5, -0.3, 0.2)), ramp((-0.2, 0.4, 0.6))
    once = Downhill()(moving, fixed)
    found = views.averaged(Downhill(), moving, fixed, 10, SPACING)
    for name in ("forward", "backward"):
        torch.testing.assert_close(getattr(found, name)[INSIDE], getattr(once, name)[INSIDE], atol=1e-4, rtol=0)
    for name in ("moving_segmentation", "fixed_segmentation"):
        there, here = (getattr(answer, name).softmax(1)[INSIDE] for answer in (found, once))
        assert there.std() > 0.05
        torch.testing.assert_close(there, here, atol=2e-3, rtol=0)  # a mean of memberships bends a little


def test_what_ignores_the_images_is_averaged():
    class Aside(RegistrationNetwork):
        def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
            return Prediction(torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE))

    found = views.averaged(Aside(), ramp((1, 0, 0)), ramp((0, 1, 0)), 60, (1, 1, 1))
    # Of turns by a to either side of an axis n the mean is cos a + (1 - cos a) n nᵀ.
    expected = (torch.tensor([0.0, 0.0, 1]) + 2 * torch.tensor([1 / 6, 1 / 6, 1 / 2 + 1 / 6])).view(1, 3, 1, 1, 1) / 3
    torch.testing.assert_close(found.forward, expected.expand(1, 3, *SHAPE))
    assert found.backward is None
    assert found.moving_segmentation is found.fixed_segmentation is None


@pytest.mark.parametrize("degrees", [25, -10, 0])
def test_a_turn_is_a_rotation_in_millimeters(degrees):
    scaling = np.diag(SPACING)
    expected = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(views.AXIS) / np.sqrt(3)).as_matrix()
    np.testing.assert_allclose(scaling @ views.turn(degrees, SPACING) @ np.linalg.inv(scaling), expected, atol=1e-12)


def test_exchanged_images_exchange_the_answer(generator):
    torch.manual_seed(0)
    network = perturbed(SymmetricNetwork((4, 6, 8), (1, 1, 2), classes=3)).eval()
    moving, fixed = torch.rand(2, 1, 1, 16, 8, 24, generator=generator)
    with torch.no_grad():
        one, other = views.averaged(network, moving, fixed, 10), views.averaged(network, fixed, moving, 10)
    assert one.forward.std() > 1e-3
    torch.testing.assert_close(one.forward, other.backward)
    torch.testing.assert_close(one.fixed_segmentation, other.moving_segmentation)
    assert not torch.allclose(one.forward, network(moving, fixed).forward, atol=1e-3)


def test_told_and_canceled():
    told = []
    views.averaged(Downhill(), ramp((1, 0, 0)), ramp((0, 1, 0)), 10, SPACING, lambda *at: told.append(at))
    assert [stage for stage, _ in told] == ["network"] * 2
    assert [share for _, share in told] == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(Canceled):
        views.averaged(Downhill(), ramp((1, 0, 0)), ramp((0, 1, 0)), 10, SPACING, lambda *_: False)
