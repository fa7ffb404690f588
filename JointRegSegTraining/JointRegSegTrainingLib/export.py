"""From a training run to a model bundle."""

from __future__ import annotations

import inspect
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from JointRegSegLib import domain, files, models
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import NETWORKS, RegistrationNetwork
from JointRegSegLib.preprocess import Preprocessing

from . import cohort
from .evaluation import validate
from .trainer import Plan, build, read_state

#: What a card has to say; the rest of a manifest comes from the run.
CARD = ("name", "title", "description", "anatomy", "modality", "labels", "refinement", "training", "license")


def load_run(folder: Path) -> tuple[Plan, dict[str, list[str]], RegistrationNetwork]:
    """Plan, split and averaged network of a training run.

    Raises
    ------
    InputError
        If the folder holds no run.
    """
    try:
        entries = json.loads((folder / "plan.json").read_text())
        divided = json.loads((folder / "split.json").read_text())
    except OSError as error:
        raise InputError(f"{error.filename}: no such file; name the folder of a training run") from None
    state = read_state(folder)
    plan = Plan(
        network=entries["network"],
        arguments=entries["arguments"],
        preprocessing=Preprocessing(**{k: _tuples(v) for k, v in entries["preprocessing"].items()}),
        labels=tuple(entries["labels"]),
        seed=entries["seed"],
    )
    network = build(plan)
    network.load_state_dict(state["average"])
    return plan, divided, network.eval()


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def export_bundle(run: Path, data: Path, card: Path, output: Path, pairs: int = 60) -> models.Bundle:
    """Write a bundle; its domain is described on the training subjects, its figures come from the test subjects.

    Raises
    ------
    InputError
        If the run or the card is incomplete.
    """
    plan, divided, network = load_run(run)
    try:
        entries = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{card}: cannot be read ({error}); give a JSON file with {', '.join(CARD)}") from None
    if missing := [key for key in CARD if key not in entries]:
        raise InputError(f"{card}: lacks {', '.join(missing)}")
    # Figures are those of the weights that ship, in half precision.
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    test = cohort.load(data, divided["test"], plan.preprocessing)
    figures = validate(network, test, cohort.random_pairs(divided["test"], pairs), plan.labels)
    figures["seconds"] = _seconds(network, test[0].image)
    manifest = {
        **{key: entries[key] for key in CARD},
        "network": plan.network,
        "arguments": _all_arguments(plan),
        "preprocessing": asdict(plan.preprocessing),
        "domain": describe_domain(network, plan, data, divided["train"]),
        "validation": {
            "command": f"jointregseg export --pairs {pairs}",
            "pairs": pairs,
            "subjects": len(test),
            "machine": f"{torch.get_num_threads()} CPU threads, {platform.machine()}",
            "figures": {key: round(value, 4) for key, value in figures.items()},
        },
    }
    manifest["training"] = {**entries["training"], "subjects": len(divided["train"]), "held_out": divided["test"]}
    return models.write_bundle(output, manifest, network)


@torch.inference_mode()
def describe_domain(network: RegistrationNetwork, plan: Plan, data: Path, names: list[str]) -> dict[str, Any]:
    """What the training images and the network's answers to them are like, as ranges; see ``model.schema.json``."""
    seen: list[dict[str, Any]] = []
    for name in names:
        image, grid = files.to_tensor(files.read_image(data / "images" / f"{name}.nii.gz"))
        lattice = plan.preprocessing.lattice(grid)
        prepared = plan.preprocessing.apply(image, grid, lattice)
        scores = network(prepared, prepared).fixed_segmentation
        row = domain.describe(image, grid, plan.preprocessing)
        if scores is not None:
            row |= domain.describe_segmentation(scores.softmax(1), lattice.voxel_volume)
        seen.append(row)

    def ranges(rows: list[list[float]]) -> list[list[float]]:
        return [[round(min(column), 3), round(max(column), 3)] for column in zip(*rows, strict=True)]

    return {
        **{key: ranges([[v] for row in seen for v in row[key]])[0] for key in ("spacing", "extent")},
        "intensity": ranges([row["intensity"] for row in seen]),
        "volumes": ranges([row.get("volumes", []) for row in seen]),
        "confidence": round(min(row.get("confidence", 1.0) for row in seen), 3),
    }


def _all_arguments(plan: Plan) -> dict[str, Any]:
    """The network's arguments with its defaults written out, so that a later default does not change old bundles."""
    parameters = inspect.signature(NETWORKS[plan.network]).parameters
    return {name: p.default for name, p in parameters.items()} | plan.arguments


@torch.inference_mode()
def _seconds(network: RegistrationNetwork, image: torch.Tensor) -> float:
    network(image, image)
    began = time.perf_counter()
    for _ in range(5):
        network(image, image)
    return (time.perf_counter() - began) / 5
