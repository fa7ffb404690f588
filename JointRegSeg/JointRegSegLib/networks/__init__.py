"""The published systems, one file each, behind the interface of `interface`."""

from .deepatlas import DeepAtlas
from .interface import Level, Prediction, RegistrationNetwork
from .linear_deformable import LinearDeformableNetwork
from .svfnet import SVFNet
from .symmetric import SymmetricNetwork
from .uresnet import UResNet

#: Names that a model's manifest may use.
NETWORKS: dict[str, type[RegistrationNetwork]] = {
    "deepatlas": DeepAtlas,
    "linear_deformable": LinearDeformableNetwork,
    "svfnet": SVFNet,
    "symmetric": SymmetricNetwork,
    "uresnet": UResNet,
}

__all__ = [
    "NETWORKS",
    "DeepAtlas",
    "Level",
    "LinearDeformableNetwork",
    "Prediction",
    "RegistrationNetwork",
    "SVFNet",
    "SymmetricNetwork",
    "UResNet",
]
