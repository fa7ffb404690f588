"""From a training run to a model bundle."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from JointRegSegLib import catalog, domain, files, models
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.networks import RegistrationNetwork

from .cohort import Row
from .evaluation import class_scores, validate
from .plan import Plan, read_entries, schema
from .runs import load_run, part
from .subjects import load, pairs_of
from .trainer import all_arguments, build


def export_bundle(run: Path, output: Path, card: Path | None = None, pairs: int = 60) -> models.Bundle:
    """Write a bundle; its domain is described on the training subjects, its figures come from the test subjects.

    ``card`` is a YAML file with the entry ``card``; without it the one that the run was begun with counts.

    Raises
    ------
    InputError
        If the run or the card is incomplete, or the run's weights are not finite.
    OutputError
        If there is anything but a bundle at ``output``, which would be replaced.
    """
    _check_place(output)
    plan, rows, network = load_run(run)
    origin, entries = card or run / "card.yaml", card_of(run, card)
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise InputError(f"{run}: the network's weights are not finite; train it again with a lower 'rate'")
    plan, network = _differing(plan, network, entries.pop("arguments", {}), origin)
    # Figures are those of the weights that ship, in half precision.
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    test, train = part(rows, "test"), part(rows, "train")
    subjects = load(test, plan, run)
    used = pairs_of(subjects, pairs)  # of few people there are fewer
    figures = validate(network, subjects, used, plan)
    figures["seconds"] = _seconds(network, subjects[0].image)
    found, threads = class_scores(network, subjects[0].image), torch.get_num_threads()
    manifest = {
        "refinement": {},
        **entries,
        "labels": [] if found is None else [_label(plan.labels[i]) for i in plan.segmented],
        "network": plan.network,
        "arguments": all_arguments(plan),
        "preprocessing": asdict(plan.preprocessing),
        "domain": describe_domain(network, plan, train),
        "validation": {
            "command": f"jointregseg export --run RUN --pairs {pairs}",
            "pairs": len(used),
            "subjects": len({row.subject for row in test}),
            "machine": f"{threads} CPU thread{'s' * (threads != 1)}, {platform.machine()}",
            "figures": {key: round(value, 4) for key, value in figures.items()},
        },
    }
    manifest["training"] = {
        **entries["training"],
        "subjects": len({row.subject for row in train}),
        "validated_on": sorted({row.name for row in rows if row.split == "validation"}),
        "held_out": sorted({row.name for row in test}),
    }
    return models.write_bundle(output, manifest, network)


def card_of(run: Path, card: Path | None = None) -> dict[str, Any]:
    """What a model says of itself: of the YAML file ``card``, or of the run's own.

    Raises
    ------
    InputError
        If there is none, or it breaks the schema.
    """
    import jsonschema

    origin = card or run / "card.yaml"
    if card is not None and not card.is_file():
        raise InputError(f"{card}: no such file; name a YAML with the entry card")
    entries = read_entries(origin).get("card") if origin.is_file() else None
    if entries is None:
        raise InputError(
            f"{origin}: no 'card', which says what the model is called and trained on; name a YAML that has it (--card)"
        )
    try:
        jsonschema.validate(entries, schema()["properties"]["card"])
    except jsonschema.ValidationError as error:
        raise InputError(f"{origin}: card: {error.message}") from None
    return {**entries}


def _check_place(folder: Path) -> None:
    try:
        found = [path.name for path in folder.iterdir()] if folder.exists() else []
    except OSError as error:
        raise OutputError(f"{folder}: cannot be a bundle's folder ({error.strerror}); name another one") from None
    # Hidden files are those of file managers.
    if strange := [name for name in sorted(found) if name not in catalog.FILES and not name.startswith(".")]:
        raise OutputError(f"{folder}: holds {strange[0]}, which is no part of a bundle; name another folder")
    above = next(path for path in folder.absolute().parents if path.exists())
    if not folder.exists() and not os.access(above, os.W_OK):
        raise OutputError(f"{folder}: cannot be created in {above}; name another folder")


def _differing(
    plan: Plan, trained: RegistrationNetwork, arguments: dict[str, Any], origin: Path
) -> tuple[Plan, RegistrationNetwork]:
    """The plan and its network with other arguments, and the weights that it was trained to."""
    plan = replace(plan, arguments=plan.arguments | arguments)
    network = build(plan).eval()
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise InputError(f"{origin}: card.arguments: the trained weights do not fit a network of these") from None
    return plan, network


def _label(label: Any) -> dict[str, Any]:
    entry = {"value": label.value, "name": label.name, "color": label.color}
    return entry | ({"code": label.code} if label.code else {})


@torch.inference_mode()
def describe_domain(network: RegistrationNetwork, plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """What the training images and the network's answers to them are like, as ranges; see ``model.schema.json``."""
    seen: list[dict[str, Any]] = []
    for row, subject in zip(rows, load(rows, plan), strict=True):
        image, grid = files.to_tensor(files.read_image(row.image))
        scores = class_scores(network, subject.image)
        entry = domain.describe(image, grid, plan.preprocessing)
        if scores is not None:
            lattice, unit = plan.preprocessing.lattice(grid), plan.preprocessing.unit
            entry |= domain.describe_segmentation(scores.softmax(1), lattice, grid, unit)
        seen.append(entry)

    def ranges(rows: list[list[float]]) -> list[list[float]]:
        return [[round(min(column), 3), round(max(column), 3)] for column in zip(*rows, strict=True)]

    return {
        **{key: ranges([[v] for entry in seen for v in entry[key]])[0] for key in ("spacing", "extent")},
        "intensity": ranges([entry["intensity"] for entry in seen]),
        "volumes": ranges([entry.get("volumes", []) for entry in seen]),
        "confidence": round(min(entry.get("confidence", 1.0) for entry in seen), 3),
    }


def _seconds(network: RegistrationNetwork, image: torch.Tensor) -> float:
    network.infer(image, image)
    began = time.perf_counter()
    for _ in range(5):
        network.infer(image, image)
    return (time.perf_counter() - began) / 5
