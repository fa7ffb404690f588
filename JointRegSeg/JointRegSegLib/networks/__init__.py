"""The published systems, one file each, behind the interface of `interface`."""

from .interface import Level, Prediction, RegistrationNetwork
from .symmetric import SymmetricNetwork
from .uresnet import UResNet

#: Names that a model's manifest may use.
NETWORKS: dict[str, type[RegistrationNetwork]] = {"symmetric": SymmetricNetwork, "uresnet": UResNet}

__all__ = ["NETWORKS", "Level", "Prediction", "RegistrationNetwork", "SymmetricNetwork", "UResNet"]
