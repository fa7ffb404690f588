"""A bundle applied to pairs: for each an answer with its doubts, and the map of the lungs that drove it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from JointRegSegLib import files
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.errors import OutputError
from JointRegSegLib.lung.classifier import Answer, Classifier
from JointRegSegLib.lung.occlusion import as_image
from JointRegSegLib.output import check_free, complete_or_nothing

from . import prepare
from .cohort import Pair

ANSWER, MAP = "answer.json", "occlusion.nii.gz"


def classify(
    classifier: Classifier,
    pairs: Sequence[Pair],
    folder: Path,
    device_name: str = "auto",
    registrations: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Answer]:
    """Judge pairs; those without a transform are registered by the model that the training cohort was registered by.

    Writes a folder for each case: `ANSWER`, and `MAP` on the fixed image's lattice, above 0 where the motion spoke for
    disease and 0 outside the lungs. A case's earlier answer is replaced, other files never.

    Raises
    ------
    InputError
        If pairs cannot be registered or measured.
    OutputError
        If the folder cannot be written to, or a case's holds something else.
    """
    for pair in pairs:
        check_free(folder / pair.case, True, names=(ANSWER, MAP), report=ANSWER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    model = classifier.card["training"]["registration"]
    transforms = prepare.register(pairs, registrations or folder / "registrations", model, device_name)
    answers = {}
    for number, pair in enumerate(pairs):
        transform, verdict = transforms[pair.case]
        lungs = prepare.measured(pair, transform)
        answer = answers[pair.case] = classifier.answer(lungs, verdict)
        grid = files.grid_of(files.read_image(pair.fixed, values=False))
        with complete_or_nothing(folder / pair.case) as partial:
            told = {"case": pair.case, **answer.told}
            (partial / ANSWER).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            files.write_image(scalar_image(as_image(answer.map, lungs, grid), grid), partial / MAP)
        if progress:
            progress((number + 1) / len(pairs))
    return answers
