"""A tiny model that is trained once, and the ways that several tests go."""

from __future__ import annotations

import locale
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from JointRegSegLib import catalog, cli, models
from JointRegSegLib.geometry import Grid
from JointRegSegLib.models import Bundle
from JointRegSegTrainingLib import cohort
from JointRegSegTrainingLib.plan import Plan, from_entries
from JointRegSegTrainingLib.subjects import Subject, load
from samples import CENTER, Scene, label_map, motion, volume, write
from scipy.spatial.transform import Rotation

#: A network that learns something within seconds.
ENTRIES = {
    "network": "symmetric",
    "arguments": {"channels": [4, 8, 8], "counts": [1, 1, 1], "classes": 3},
    "preprocessing": {"size": [16, 16, 16], "spacing": [2, 2, 2]},
    "labels": [
        {"value": 1, "name": "left blob", "color": "#80ae80"},
        {"value": 2, "name": "right blob", "color": "#f1d691"},
    ],
    "augmentation": {
        "rotation": 5,
        "translation": 1,
        "zoom": 0.05,
        "own_rotation": 3,
        "own_translation": 1,
        "elastic": 0.5,
        "noise": 0.02,
    },
    "steps": 120,
    "pairs": 2,
    "rate": 3e-2,
    "average": 0.9,
    "card": {
        "name": "tiny-blobs",
        "title": "Blobs",
        "description": "two ellipsoids",
        "anatomy": "blob",
        "modality": "formula",
        "training": {"data": "made up", "license": "CC0"},
        "license": "CC0-1.0",
    },
}
PLAN = from_entries(ENTRIES, "tiny")


def small_scene(seed: int = 0) -> Scene:
    """A person of the cohort, about 28 mm wide: a body and two structures in it."""
    places, radii = [[0, 0, 0], [-5, 2, 2], [6, -3, -3]], [[13, 12, 13], [5, 7, 6], [5, 5, 7]]
    return Scene(CENTER + places, np.array(radii, float), np.array([100.0, 90.0, -60.0]), 1.0).varied(seed, 1.0)


def tilted(grid: Grid) -> Grid:
    """An oblique version of a grid, flipped along its second axis."""
    direction = Rotation.from_rotvec([0.1, -0.12, 0.08]).as_matrix() @ np.diag([1, -1, 1])
    return Grid.centered(grid.center, grid.size, grid.spacing, direction)


def small_grid(size: tuple[int, int, int] = (17, 16, 18)) -> Grid:
    """Where the people of the cohort lie."""
    return Grid.centered(CENTER, size, (2, 2, 2), np.eye(3))


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of twelve made-up people."""
    folder = tmp_path_factory.mktemp("cohort")
    for i in range(12):
        scene, grid = small_scene(i), small_grid((16 + i % 3, 16, 17))
        write(volume(scene, grid), folder / "images" / f"p{i:02d}.nii.gz")
        write(label_map(scene, grid), folder / "labels" / f"p{i:02d}.nii.gz")
    return folder


def people(folder: Path, count: int, plan: Plan = PLAN) -> list[Subject]:
    """The first ``count`` people of a cohort's folder, ready for the network."""
    return load(cohort.of_folder(folder, 2, 3)[:count], plan)


@pytest.fixture(scope="module")
def subjects(cohort_folder) -> list[Subject]:
    """Six people of the cohort, for a training without the command."""
    return people(cohort_folder, 6)


@pytest.fixture(scope="session")
def cohort_file(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the twelve, by ``jointregseg cohort``: seven to train on, two to validate and three to test on."""
    path = tmp_path_factory.mktemp("table") / "cohort.csv"
    arguments = ["cohort", cohort_folder, "--output", path, "--validation", 2, "--test", 3]
    assert cli.main([str(a) for a in arguments]) == 0
    return path


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ENTRIES` as a YAML file."""
    path = tmp_path_factory.mktemp("configuration") / "tiny.yaml"
    path.write_text(yaml.safe_dump(ENTRIES), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_folder(cohort_file: Path, config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run by ``jointregseg train``."""
    folder = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "--config", config_file, "--cohort", cohort_file, "--output", folder]
    assert cli.main([str(a) for a in [*arguments, "--every", "40", "--device", "cpu"]]) == 0
    return folder


@pytest.fixture(scope="session")
def bundle(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run as a bundle, by ``jointregseg export``."""
    folder = tmp_path_factory.mktemp("models") / ENTRIES["card"]["name"]
    assert cli.main([str(a) for a in ["export", "--run", run_folder, "--output", folder, "--pairs", "4"]]) == 0
    return models.open_bundle(folder)


@pytest.fixture
def installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The tiny model, found by its name."""
    monkeypatch.setenv(catalog.FOLDERS_VARIABLE, str(bundle.folder.parent))
    return bundle


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """Files of two people of the cohort, on grids of different size and obliqueness, with labels."""
    folder = tmp_path / "pair"
    out = {}
    for side, seed, grid, moved in (
        ("fixed", 20, Grid.centered(CENTER, (20, 18, 12), (2, 2.1, 3), np.eye(3)), None),
        ("moving", 21, tilted(Grid.centered(CENTER, (18, 20, 14), (2.2, 2, 2.6), np.eye(3))), motion(shift=(2, -1, 2))),
    ):
        out[side] = write(volume(small_scene(seed), grid, moved), folder / f"{side}.nii.gz")
        out[f"{side}_labels"] = write(label_map(small_scene(seed), grid, moved), folder / f"{side}_labels.nii.gz")
    return out


@pytest.fixture
def dicom_writer() -> Iterator[sitk.ImageFileWriter]:
    """A writer of slices that keeps their identifiers; it leaves the process another locale, which is put back."""
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    yield writer
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def shell(capfd: pytest.CaptureFixture) -> Iterator[Callable]:
    """``jointregseg ARGUMENTS`` in this process: exit code, stdout and stderr, that of C libraries included."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capfd.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(shell: Callable, tmp_path: Path) -> Callable:
    """Runs a command that has to fail: exit code 2, one line on stderr with all of ``words``, no output folder."""

    def beside(output: Path) -> set[Path]:
        """The output and what is named after it: a folder half-written would be."""
        there = output.parent.iterdir() if output.parent.is_dir() else ()
        return {p for p in there if output.name in p.name}

    def check(*arguments: object, words: tuple[str, ...], output: Path = tmp_path / "refused") -> str:
        before = beside(output)
        code, said, error = shell(*arguments, "--output", output)
        assert code == 2, error
        assert said == ""
        assert error.startswith("jointregseg: ") and error.count("\n") == 1 and error.endswith("\n"), error
        assert not [word for word in words if word not in error], error
        assert beside(output) == before
        return error

    return check
