"""Measures of breathing on expansions whose answer is known, on an oblique, anisotropic lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from JointRegSegLib.deformation import Deformation
from JointRegSegLib.errors import InputError
from JointRegSegLib.fields import to_voxel
from JointRegSegLib.geometry import Grid
from JointRegSegLib.lung import measures
from JointRegSegLib.lung.expansion import Expansion
from scipy.spatial.transform import Rotation

TURN = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
GRID = Grid.from_geometry((18, 20, 16), (1.5, 2.0, 3.0), (5, -40, 12), TURN)
INSIDE = torch.zeros(GRID.shape, dtype=torch.bool)
INSIDE[3:-3, 3:-3, 3:-3] = True
STRETCHES = (1.4, 1.2, 1.1)
#: Stretches along axes of its own, after a rotation: exhale to inhale.
OWN = Rotation.from_euler("xyz", (-10, 25, 15), degrees=True).as_matrix()
KNOWN = Rotation.from_euler("z", 12, degrees=True).as_matrix() @ OWN @ np.diag(STRETCHES) @ OWN.T


def points() -> np.ndarray:
    """(n, 3) LPS mm of all voxels, in array order."""
    k, j, i = np.indices(GRID.shape)
    return GRID.to_world(np.stack([i, j, k], -1)).reshape(-1, 3)


def deformation(mapped: np.ndarray, affine: np.ndarray | None = None) -> Deformation:
    """A deformation whose displacement takes each voxel to a point (n, 3), before the affine part."""
    vectors = torch.from_numpy((mapped - points()).T.reshape(1, 3, *GRID.shape)).float()
    u = to_voxel(vectors, GRID)
    return Deformation(GRID, u, torch.zeros_like(u), np.eye(4) if affine is None else affine)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def linear(matrix: np.ndarray) -> np.ndarray:
    """A matrix about the lattice's middle, (4, 4) LPS."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = matrix, GRID.center - matrix @ GRID.center
    return out


def moved(matrix: np.ndarray) -> np.ndarray:
    return (points() - GRID.center) @ matrix.T + GRID.center


@pytest.mark.parametrize("way", ["displacement", "affine"])
@pytest.mark.parametrize("fixed_is_inhale", [False, True])
def test_a_known_expansion(way, fixed_is_inhale):
    matrix = np.linalg.inv(KNOWN) if fixed_is_inhale else KNOWN
    known = deformation(moved(matrix)) if way == "displacement" else deformation(points(), linear(matrix))
    found = Expansion.of(known, INSIDE, fixed_is_inhale)
    np.testing.assert_allclose(found.gradient, np.broadcast_to(KNOWN, found.gradient.shape), atol=1e-4)
    np.testing.assert_allclose(found.stretches, np.tile(STRETCHES, (len(found.motion), 1)), atol=1e-4)
    values = {name: measure.compute(found) for name, measure in measures.MEASURES.items()}
    ratio = np.prod(STRETCHES)
    expected = {
        "ventilation": ratio - 1,
        "log_jacobian": np.log(ratio),
        "strain_1": (1.4**2 - 1) / 2,
        "strain_2": (1.2**2 - 1) / 2,
        "strain_3": (1.1**2 - 1) / 2,
        "anisotropy": np.hypot((1.4 - 1.2) / 1.2, (1.2 - 1.1) / 1.1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=0.01, err_msg=name)
    x = points()[INSIDE.numpy().ravel()]
    way_in = (x - GRID.center) @ (KNOWN - np.eye(3)).T
    if fixed_is_inhale:
        way_in = (x - GRID.center) @ (np.eye(3) - np.linalg.inv(KNOWN)).T
    np.testing.assert_allclose(found.motion, way_in, atol=1e-3)
    np.testing.assert_allclose(values["displacement"], np.linalg.norm(way_in, axis=1), atol=1e-3)


def test_an_expansion_that_varies_in_space():
    """Along x by 1 + 0.02 x, a stretch that grows; along y and z nothing."""
    x = points()
    out = x.copy()
    out[:, 0] += 0.005 * (x[:, 0] - GRID.center[0]) ** 2
    found = Expansion.of(deformation(out), INSIDE, fixed_is_inhale=False)
    expected = 1 + 0.01 * (x[INSIDE.numpy().ravel(), 0] - GRID.center[0])
    np.testing.assert_allclose(found.volume_ratio, expected, rtol=0.01)


def test_averages_keep_what_is_uniform_and_calm_what_is_noise():
    uniform = Expansion.of(deformation(moved(KNOWN)), INSIDE, False, resolution=6.0)
    np.testing.assert_allclose(uniform.gradient, np.broadcast_to(KNOWN, uniform.gradient.shape), atol=1e-4)
    noise = 0.05 * np.random.default_rng(0).standard_normal(points().shape)
    rough, calm = (Expansion.of(deformation(moved(KNOWN) + noise), INSIDE, False, mm) for mm in (0.0, 6.0))
    missed = [np.std(found.volume_ratio - np.prod(STRETCHES)) for found in (rough, calm)]
    assert missed[1] < missed[0] / 3
    np.testing.assert_array_equal(rough.motion, calm.motion)


def test_no_lung_and_folds_are_refused():
    with pytest.raises(InputError, match="no lung"):
        Expansion.of(deformation(points()), torch.zeros(GRID.shape, dtype=torch.bool), True)
    mirror = np.diag([-1.0, 1, 1])
    with pytest.raises(InputError, match="folds in 100 %"):
        Expansion.of(deformation(moved(mirror)), INSIDE, True)


def test_relative_to_the_whole_lung():
    """Two halves; the weights are their volumes at exhale."""
    relative = measures.relative(np.array([0.1, 0.4]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(relative, np.array([0.1, 0.4]) / 0.175)
    assert measures.heterogeneity(np.array([0.1, 0.4]), np.array([3.0, 1.0])) == pytest.approx(
        np.sqrt((3 * 0.075**2 + 0.225**2) / 4) / 0.175
    )
    with pytest.raises(InputError, match="too little"):
        measures.relative(np.array([0.01, -0.01]), np.ones(2))


def test_densities_tell_the_volume_when_mass_is_kept(rng):
    tissue = rng.uniform(0.1, 0.4, 500)
    ratio = rng.uniform(1.1, 1.8, 500)
    exhale, inhale = 1000 * (tissue - 1), 1000 * (tissue / ratio - 1)
    assert measures.mass_factor(inhale, exhale, ratio, np.ones(500)) == pytest.approx(1)
    np.testing.assert_allclose(measures.intensity_ventilation(inhale, exhale), ratio - 1)
    air = (1 - tissue / ratio) * ratio / (1 - tissue)
    np.testing.assert_allclose(measures.specific_air_change(inhale, exhale, ratio), air - 1)
    # More blood at inhale: densities alone would tell too little, the correction mends it.
    heavier = 1000 * (1.1 * tissue / ratio - 1)
    mass = measures.mass_factor(heavier, exhale, ratio, rng.uniform(1, 2, 500))
    assert mass == pytest.approx(1 / 1.1)
    np.testing.assert_allclose(measures.intensity_ventilation(heavier, exhale, mass), ratio - 1)
    # The formula that reports print, with the densities of these values in it.
    printed = {"ρ at exhale": "(exhale + 1000)", "ρ at inhale": "(heavier + 1000)", "M ·": "mass *"}
    text = measures.DERIVED["intensity_ventilation"].formula
    for word, value in printed.items():
        text = text.replace(word, value)
    found = eval(text, {"heavier": heavier, "exhale": exhale, "mass": mass})
    np.testing.assert_allclose(found, measures.intensity_ventilation(heavier, exhale, mass))


def test_no_tissue_and_no_air_tell_nothing():
    assert np.isnan(measures.intensity_ventilation(np.array([-1000.0]), np.array([-800.0]))).all()
    assert np.isnan(measures.specific_air_change(np.array([-800.0]), np.array([20.0]), np.ones(1))).all()


def test_classes_of_the_parametric_response():
    inhale, exhale = np.array([-900, -900, -960, -960]), np.array([-700, -860, -900, -700])
    names = [measures.RESPONSES[c] for c in measures.parametric_response(inhale, exhale)]
    assert names == ["normal", "functional small airways disease", "emphysema", "unclassified"]


def test_the_inspired_fraction():
    assert measures.inspired_fraction(6.0, 3.0) == 0.5


def test_the_error_of_ventilation_is_the_one_that_random_fields_show(rng):
    """Smooth random displacements of known deviation and correlation length, added to a known expansion."""
    from scipy.ndimage import gaussian_filter

    grid = Grid.from_geometry((40, 40, 40), (2, 2, 2))
    inside = torch.zeros(grid.shape, dtype=torch.bool)
    inside[8:-8, 8:-8, 8:-8] = True
    error, length = 0.5, 8.0
    ratios = []
    for _ in range(16):
        # A Gaussian filter of deviation s gives the correlation exp(-r² / 4 s²): s = length / √2.
        white = rng.normal(size=(3, *grid.shape))
        noise = np.stack([gaussian_filter(w, length / 2 / np.sqrt(2), mode="wrap") for w in white])
        u = torch.from_numpy(0.2 * np.indices(grid.shape) + error / 2 * noise / noise.std())[None].float()
        ratios.append(Expansion.of(Deformation(grid, u, u, np.eye(4)), inside, False))
    exact = Deformation(grid, torch.from_numpy(0.2 * np.indices(grid.shape))[None].float(), u, np.eye(4))
    known, uncertainty = Expansion.of(exact, inside, False), measures.Uncertainty(error, length)
    deviation = measures.log_ratio_deviation(known, uncertainty)
    logs = np.array([np.log(e.volume_ratio) for e in ratios])
    assert deviation.mean() == pytest.approx(logs.std(0, ddof=1).mean(), rel=0.1)
    ventilation = measures.MEASURES["ventilation"].error(known, uncertainty)
    assert ventilation.mean() == pytest.approx(1.2**3 * deviation.mean())


def test_the_errors_of_all_measures_are_those_that_random_derivatives_show(rng):
    """Of distinct stretches, so that principal directions are told apart; each component of F by itself."""
    turn = Rotation.from_euler("xyz", (20, -30, 40), degrees=True).as_matrix()
    stretches, uncertainty = np.array([1.4, 1.2, 1.05]), measures.Uncertainty(0.05, 10.0)
    gradient = turn @ np.diag(stretches) @ turn.T
    exact = Expansion(gradient[None], np.array([[3.0, 4.0, 0.0]]))
    noise = rng.normal(size=(20000, 3, 3)) * uncertainty.gradient
    motion = exact.motion + rng.normal(size=(20000, 3)) * uncertainty.displacement
    drawn = Expansion(gradient + noise, motion)
    for measure in measures.MEASURES.values():
        assert measure.error(exact, uncertainty)[0] == pytest.approx(measure.compute(drawn).std(), rel=0.03)
        grown = Expansion(gradient[None] * np.exp(1e-4 / 3), exact.motion)
        slope = (measure.compute(grown) - measure.compute(exact))[0] / 1e-4
        assert measure.growth(exact)[0] == pytest.approx(slope, abs=1e-3)


def test_the_error_of_a_mean_falls_with_the_volume():
    one, many = np.full(10, 0.2), np.full(10, 0.2)
    cell = (np.sqrt(2 * np.pi) * 8) ** 3
    assert measures.mean_deviation(one, np.ones(10), cell / 5, 8) == pytest.approx(0.2)
    assert measures.mean_deviation(many, np.ones(10), 100 * cell, 8) == pytest.approx(0.02)
