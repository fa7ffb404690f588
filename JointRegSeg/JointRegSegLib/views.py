"""A network's answer as the mean over small turns of both images.

Errors that depend on how a structure lies on the lattice cancel each other; what is true in every view stays. Known for
segmentation as test-time augmentation (Wang et al. 2019, doi:10.1016/j.neucom.2019.01.103); displacements are turned
back as vectors and averaged, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from . import fields
from .geometry import affine_coordinates
from .networks.interface import Prediction, RegistrationNetwork
from .progress import Progress, silent, tell

#: Axis of the turns, in mm along D, H, W: one that leaves none of the lattice's axes where it is.
AXIS = (1, 1, 1)


def averaged(
    network: RegistrationNetwork,
    moving: torch.Tensor,
    fixed: torch.Tensor,
    degrees: float,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    progress: Progress = silent,
) -> Prediction:
    """Mean answer for two images as they are and turned about the lattice's middle, about `AXIS` to either side.

    Parameters
    ----------
    moving, fixed : torch.Tensor
        (1, C, D, H, W) images on one lattice.
    degrees : float
        Of each turn.
    spacing : sequence of float
        Of the lattice along D, H, W, in mm or any one unit.

    Returns
    -------
    Prediction
        Voxel displacements as `Prediction.there` and `Prediction.back`, so without an affine map beside them.

    Raises
    ------
    Canceled
        If ``progress`` asks to stop.
    """
    views = [_parts(network.infer(moving, fixed))]
    for n, angle in enumerate((degrees, -degrees), start=1):
        tell(progress, "network", n / 3)
        views.append(_seen(network, moving, fixed, turn(angle, spacing)))
    means = [None if part[0] is None else torch.stack(part).mean(0) for part in zip(*views, strict=True)]
    there, back, *memberships = means
    scores = [None if share is None else share.clamp_min(1e-6).log() for share in memberships]
    return Prediction(there, back, None, None, *scores)


def turn(degrees: float, spacing: Sequence[float]) -> np.ndarray:
    """(3, 3) matrix of voxel coordinates for a rotation in mm about `AXIS`, all along D, H, W."""
    axis = np.array(AXIS) / np.linalg.norm(AXIS)
    rotation = Rotation.from_rotvec(degrees * axis, degrees=True).as_matrix()
    lengths = np.asarray(spacing, float)
    return rotation * lengths / lengths[:, None]


def _parts(answer: Prediction) -> list[torch.Tensor | None]:
    """Displacements there and back, and memberships in the moving and in the fixed image."""
    scores = (answer.moving_segmentation, answer.fixed_segmentation)
    return [answer.there, answer.back, *(None if s is None else s.softmax(1) for s in scores)]


def _seen(
    network: RegistrationNetwork, moving: torch.Tensor, fixed: torch.Tensor, matrix: np.ndarray
) -> list[torch.Tensor | None]:
    """`_parts` of the answer for both images turned by a (3, 3) voxel ``matrix``, turned back.

    If T turns the lattice and φ(y) = y + u(y) is the answer for the images read at T(y), then the images themselves are
    brought together by T φ T⁻¹, whose displacement is the vector part of T times u(T⁻¹(x)).
    """
    there, back = (_about_middle(m, moving) for m in (matrix, np.linalg.inv(matrix)))
    parts = _parts(network.infer(fields.warp(moving, there), fields.warp(fixed, there)))
    out = [None if part is None else fields.warp(part, back) for part in parts]
    vectors = [None if part is None else fields.mapped(part, matrix) for part in out[:2]]
    return [*vectors, *out[2:]]


def _about_middle(matrix: np.ndarray, image: torch.Tensor) -> torch.Tensor:
    """Voxel displacement (1, 3, D, H, W) of a (3, 3) voxel matrix about the lattice's middle."""
    shape = image.shape[2:]
    change = fields.affine_matrix(matrix, np.zeros(3), (np.array(shape) - 1) / 2) - np.eye(4)
    return affine_coordinates(change, shape, image)
