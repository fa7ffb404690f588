"""A bundle applied to pairs: for each an answer with its doubts, and the map of the lungs that drove it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from JointRegSegLib import files
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import JointRegSegError, OutputError
from JointRegSegLib.lung.classifier import Answer, Classifier
from JointRegSegLib.lung.occlusion import as_image
from JointRegSegLib.lung.record import checksum
from JointRegSegLib.output import check_free, complete_or_nothing

from . import prepare
from .cohort import Pair
from .suitability import doubts

ANSWER, MAP = "answer.json", "occlusion.nii.gz"


@dataclass(frozen=True)
class Outcome:
    """The answer of each case, and why others have none."""

    answers: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def classify(
    classifier: Classifier,
    pairs: Sequence[Pair],
    folder: Path,
    device_name: str = "auto",
    registrations: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Judge pairs; those without a transform are registered by the model that the training cohort was registered by.

    Writes a folder for each case: `ANSWER`, and `MAP` on the fixed image's lattice, above 0 where the motion spoke for
    disease and 0 outside the lungs. A case's earlier answer is replaced, other files never. A case that fails does not
    stop the others.

    Raises
    ------
    OutputError
        If the folder cannot be written to at all, or holds inputs or anything that is no answer.
    """
    if pairs:
        _check_folder(folder, pairs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    model = classifier.card["training"]["registration"]
    where, sliding = registrations or folder / "registrations", classifier.card["training"].get("sliding", True)
    transforms, failed = prepare.register(pairs, where, model, device_name, sliding=sliding)
    outcome = Outcome(failed=failed)
    for number, pair in enumerate(pairs):
        if pair.case in transforms:
            try:
                outcome.answers[pair.case] = _judged(classifier, pair, *transforms[pair.case], folder / pair.case)
            except JointRegSegError as error:
                failed[pair.case] = str(error)
            except Exception as error:  # whatever a case does, the others have to be judged; the reason is told
                failed[pair.case] = f"{type(error).__name__}: {error}"
        if progress:
            progress((number + 1) / len(pairs))
    return outcome


def _check_folder(folder: Path, pairs: Sequence[Pair]) -> None:
    """Raise `OutputError` if a folder holds an input, or anything that `classify` does not make."""
    where = folder.resolve()
    for pair in pairs:
        for path in (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels):
            if path is not None and path.resolve().is_relative_to(where):
                raise OutputError(f"{folder}: holds the input {path}; name another folder")
    cases = {pair.case for pair in pairs}
    for path in folder.iterdir() if folder.is_dir() else ():
        own = path.name.startswith((".", "registrations")) or path.name in cases or (path / ANSWER).is_file()
        if not own:
            raise OutputError(f"{folder}: holds '{path.name}', which is no answer; name another folder")


def _judged(classifier: Classifier, pair: Pair, transform: Path, verdict: str | None, place: Path) -> Answer:
    check_free(place, True, names=(ANSWER, MAP), report=ANSWER)
    lungs = prepare.measured(pair, transform)
    unfit, warnings = doubts(pair, files.read_transform(transform), lungs)
    if {checksum(path) for path in (pair.fixed, pair.moving)} & set(classifier.card["training"].get("seen", ())):
        warnings.insert(0, "the networks were trained on this person: the answer says nothing of how good they are")
    warnings += origin_doubts(classifier.card["training"], pair)
    answer = classifier.answer(lungs, verdict, unfit, warnings)
    grid = files.grid_of(files.read_image(pair.fixed, values=False))
    with complete_or_nothing(place) as partial:
        told = {"case": pair.case, **answer.told}
        (partial / ANSWER).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        files.write_image(scalar_image(as_image(answer.map, lungs, grid), grid), partial / MAP)
    return answer


def origin_doubts(training: Mapping[str, Any], pair: Pair) -> list[str]:
    """Whether the motion of a pair comes from elsewhere than that of all who were trained on."""
    given = training.get("given_transforms")
    if pair.transform is None and given == training["people"]:
        return ["the networks learned from given transforms, this pair was registered: motion of the two may differ"]
    if pair.transform is not None and given == 0:
        found = f"the networks learned from what {training['registration']} found, this transform was given"
        return [f"{found}: motion of the two may differ"]
    if pair.transform is None and training.get("sliding") and not pair.moving_labels:
        return [
            "the networks learned from lungs that slide along the wall, which this pair's did not, for want of "
            "moving_labels: motion at the wall may differ"
        ]
    return []
