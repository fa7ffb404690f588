"""The published systems, one file each, behind the interface of `interface`."""

from .interface import Level, Prediction, RegistrationNetwork
from .linear_deformable import LinearDeformableNetwork
from .symmetric import SymmetricNetwork
from .uresnet import UResNet

#: Names that a model's manifest may use.
NETWORKS: dict[str, type[RegistrationNetwork]] = {
    "linear_deformable": LinearDeformableNetwork,
    "symmetric": SymmetricNetwork,
    "uresnet": UResNet,
}

__all__ = [
    "NETWORKS",
    "Level",
    "LinearDeformableNetwork",
    "Prediction",
    "RegistrationNetwork",
    "SymmetricNetwork",
    "UResNet",
]
