"""The small Python parts of Slicer: translation, packages, sample data."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import slicer
from packaging.requirements import Requirement

asked: list[str] = []
"""Packages that the module wanted to be installed; nothing is."""
declines = False
"""Whether the user says no when asked."""


def tr(text: str) -> str:
    """The text in the user's language."""
    return slicer.app.translate("", text)


def translate(context: str, text: str) -> str:
    """The text in the user's language."""
    return slicer.app.translate(context, text)


def pip_check(req: Any) -> bool:
    """Whether these packages are here."""
    return all(_met(requirement) for requirement in _requirements(req))


def pip_ensure(requirements: Any, **options: Any) -> None:
    """Note what is missing, where Slicer would install it."""
    known = {
        "constraints",
        "skip_packages",
        "prompt_install",
        "prompt_restart",
        "requester",
        "skip_in_testing",
        "show_progress",
    }
    if unknown := set(options) - known:
        raise TypeError(f"pip_ensure() got unexpected arguments {sorted(unknown)}")
    missing = [str(requirement) for requirement in _requirements(requirements) if not _met(requirement)]
    if missing and declines:
        raise RuntimeError("the user declined the installation")
    asked.extend(missing)


def pip_install(requirements: Any, **_: Any) -> None:
    """Note what was wanted."""
    asked.extend(str(requirement) for requirement in _requirements(requirements))


def _requirements(wanted: Any) -> list[Requirement]:
    many = wanted if isinstance(wanted, list) else [wanted] if ";" in str(wanted) else re.split(r"\s+", str(wanted))
    return [Requirement(str(one)) for one in many]


def _met(requirement: Requirement) -> bool:
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        return version(requirement.name) in requirement.specifier
    except PackageNotFoundError:
        return False


class SampleDataLogic:
    """Sources of sample data, registered as in Slicer and downloaded from nowhere."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        """Note the source."""
        source = SimpleNamespace(**locals())
        slicer.modules.sampleDataSources.setdefault(category, []).append(source)

    def downloadSamples(self, sampleName: str) -> Any:
        """What the source's own downloader makes of it."""
        sources = [
            s for group in slicer.modules.sampleDataSources.values() for s in group if s.sampleName == sampleName
        ]
        if not sources or sources[0].customDownloader is None:
            raise RuntimeError(f"Sample data '{sampleName}' would have to be downloaded.")
        return sources[0].customDownloader(sources[0])
