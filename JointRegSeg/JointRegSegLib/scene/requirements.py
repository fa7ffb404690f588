"""What the computing process needs in Slicer's Python, and how it gets there; nothing is imported to find out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys

import slicer
from packaging.requirements import Requirement

from ..errors import JointRegSegError

#: Package to install for each module that has to be found.
PACKAGES = {
    "jinja2": "jinja2>=3.1",
    "jsonschema": "jsonschema>=4.18",
    "matplotlib": "matplotlib>=3.8",
    "safetensors": "safetensors>=0.4",
    "surface_distance": "surface-distance>=0.1",
    "tqdm": "tqdm>=4.66",
}
#: torch comes through Slicer's PyTorch extension, which picks the build for this computer's GPU.
TORCH = Requirement("torch>=2.5")


class MissingPackages(JointRegSegError):
    """Packages are missing or too old, and nobody is there to say that they may be installed."""


def missing() -> list[str]:
    """Modules that are not installed, or too old: other extensions install some of them, too."""
    wanted = {TORCH.name: TORCH} | {name: Requirement(package) for name, package in PACKAGES.items()}
    return [name for name, requirement in wanted.items() if not _suits(name, requirement)]


def _suits(module: str, wanted: Requirement) -> bool:
    found = _version(module, wanted.name)
    return found is not None and (not found or wanted.specifier.contains(found, prereleases=True))


def _version(module: str, package: str) -> str | None:
    """Of an installed package, '' where nothing says it; None where there is none."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check() -> None:
    """Raise `MissingPackages` unless everything is installed."""
    if found := missing():
        raise MissingPackages(
            f"Python packages are missing or too old: {', '.join(found)}; open the module JointRegSeg, which installs "
            "them"
        )


def install(modules: list[str]) -> bool:
    """Install modules, after asking; returns whether all are there now. For the window: it shows dialogs.

    Raises
    ------
    MissingPackages
        If torch is missing and so is the extension that installs it, or torch is too old, which that extension has to
        be told.
    """
    packages = [PACKAGES[name] for name in modules if name in PACKAGES]
    if TORCH.name in modules:
        _install_torch()
    if packages:
        _install_packages(packages)
    importlib.invalidate_caches()
    return not missing()


def _install_torch() -> None:
    found = _version(TORCH.name, TORCH.name)
    if found and not _suits(TORCH.name, TORCH):
        raise MissingPackages(
            f"PyTorch {found} is installed, and {TORCH.specifier} is needed; uninstall it in the module PyTorch Utils, "
            "restart Slicer, and it is installed anew from here"
        )
    try:
        import PyTorchUtils
    except ImportError:
        raise MissingPackages(
            "PyTorch is needed; install the extension PyTorch in the Extensions Manager and restart Slicer"
        ) from None
    PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=str(TORCH.specifier))


def _install_packages(packages: list[str]) -> None:
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer 5.10
        text = "JointRegSeg needs these Python packages: {packages}. Install them now?".format(
            packages=", ".join(packages)
        )
        if slicer.util.confirmOkCancelDisplay(text, "JointRegSeg"):
            slicer.util.pip_install(packages)
        return
    try:
        pip_ensure(packages, requester="JointRegSeg")
    except RuntimeError:
        if all(importlib.util.find_spec(name) is None for name in PACKAGES if PACKAGES[name] in packages):
            return  # the user declined
        raise


def python() -> str:
    """The interpreter that runs the computing process: Slicer's own, or the one that runs this."""
    return shutil.which("PythonSlicer") or sys.executable
