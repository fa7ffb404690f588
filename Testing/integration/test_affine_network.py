"""U-ReSNet the whole way: it learns, and its affine part points the right way on oblique grids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import PLAN, people
from JointRegSegLib import models, register
from JointRegSegLib.files import grid_of, read_image
from JointRegSegLib.geometry import Grid
from JointRegSegLib.networks import Prediction, UResNet
from JointRegSegTrainingLib import evaluation, trainer
from JointRegSegTrainingLib.subjects import pairs_of

ARGUMENTS = {"channels": [4, 8], "classes": 0, "passes": 1}
#: Matrix, and shift in halves of the lattice's sides, along its axes D, H and W.
LINEAR = np.array([[1.1, 0.05, 0], [-0.05, 0.95, 0], [0, 0.1, 1.05]])
SHIFT = np.array([0.2, -0.1, 0.15])


@pytest.fixture
def known(bundle, tmp_path) -> models.Bundle:
    """A model that answers with one affine map, whatever it sees."""
    network = UResNet(**ARGUMENTS)
    with torch.no_grad():
        network.linear.layer.bias.copy_(torch.from_numpy(np.c_[LINEAR - np.eye(3), SHIFT]).flatten())
    manifest = {key: value for key, value in bundle.manifest.items() if key not in ("sha256", "requires")}
    manifest |= {"name": "known", "network": "uresnet", "arguments": ARGUMENTS, "labels": []}
    manifest["domain"] = {**manifest["domain"], "volumes": []}
    return models.write_bundle(tmp_path / "known", manifest, network)


@pytest.mark.parametrize("refine", [0, 2])
def test_its_affine_part_reaches_physical_space(known, pair, refine):
    result = register(pair["fixed"], pair["moving"], known.folder, refine=refine)
    fixed, moving = (grid_of(read_image(pair[side])) for side in ("fixed", "moving"))
    lattice = known.preprocessing.lattice(fixed)
    partner = known.preprocessing.lattice(moving, axes=fixed)
    index = np.random.default_rng(0).uniform(4, 11, (20, 3))  # along D, H and W
    half = (np.array(lattice.shape) - 1) / 2
    goal = (index - half) @ LINEAR.T + half + SHIFT * half

    def world(grid: Grid, place: np.ndarray) -> np.ndarray:
        return place @ grid.array_affine[:3, :3].T + grid.origin

    tolerance = 0.02 if not refine else 2.0  # two steps hardly move anything
    np.testing.assert_allclose(
        result.deformation.to_moving(world(lattice, index)), world(partner, goal), atol=tolerance
    )
    for start, end in zip(world(lattice, index).tolist(), world(partner, goal).tolist(), strict=True):
        assert np.linalg.norm(np.subtract(result.transform.TransformPoint(start), end)) < tolerance
        assert np.linalg.norm(np.subtract(result.inverse_transform.TransformPoint(end), start)) < tolerance
    assert result.fixed_segmentation is None
    again = sitk.Resample(result.moving, result.fixed, result.transform, sitk.sitkLinear, 0.0)
    inside = sitk.GetArrayFromImage(again) > 0
    difference = sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(result.warped)
    assert np.abs(difference[inside]).max() < 1e-3


def test_it_learns(cohort_folder, tmp_path):
    arguments, weights = {"channels": [4, 8, 8], "classes": 3}, replace(PLAN.weights, overlap=2.0)
    plan = replace(PLAN, network="uresnet", arguments=arguments, steps=300, rate=1e-2, weights=weights)
    subjects = people(cohort_folder, 8)
    seen = {}
    run = trainer.Trainer(plan, subjects, tmp_path)
    run.run(every=40, report=lambda step, terms: seen.setdefault(step, terms))
    first, last = seen[40], seen[300]
    assert sum(last.values()) < 0.8 * sum(first.values())
    assert last["affine"] > 0 and last["inverse"] > 0
    figures = evaluation.validate(run.averaged_network(), subjects, pairs_of(subjects, 6), plan)
    assert figures["dice"] > figures["before"] and figures["segmentation"] > 0.5


def test_the_published_one_way_learns_too(cohort_folder, tmp_path):
    arguments = {"channels": [4, 8, 8], "classes": 3, "normalized": False, "both": False}
    weights = replace(PLAN.weights, error=1.0, inverse=0.0)
    plan = replace(PLAN, network="uresnet", arguments=arguments, steps=40, rate=1e-2, weights=weights)
    subjects = people(cohort_folder, 8)
    seen = {}
    run = trainer.Trainer(plan, subjects, tmp_path)
    run.run(every=10, report=lambda step, terms: seen.setdefault(step, terms))
    assert sum(seen[40].values()) < 0.9 * sum(seen[10].values()) and seen[40]["inverse"] == 0
    network = run.averaged_network()
    assert network(subjects[0].image, subjects[1].image).fixed_segmentation is None


def test_a_segmentation_of_the_moving_image_alone_is_measured_in_that(cohort_folder):
    moving, fixed = people(cohort_folder, 2)

    class Knowing(torch.nn.Linear):
        """Carries nothing and knows where the first structure of its moving image lies, and nothing of the second."""

        def infer(self, image: torch.Tensor, other: torch.Tensor) -> Prediction:
            drawn = (moving if torch.equal(image, moving.image) else fixed).labels == 1
            scores = torch.cat([~drawn, drawn, torch.zeros_like(drawn)], 1).float()
            return Prediction(image.new_zeros(1, 3, *image.shape[2:]), moving_segmentation=scores)

    figures = evaluation.validate(Knowing(1, 1), [moving, fixed], [(moving.name, fixed.name)], PLAN)
    assert figures["segmentation"] == 0.5 and figures["dice"] == figures["before"] < 1
