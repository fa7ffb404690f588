"""Whether the two scans of a pair are fit to be judged: what of them speaks against an answer."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from JointRegSegLib import dicom, files
from JointRegSegLib.errors import InputError
from JointRegSegLib.lung import checks, evidence, threshold
from JointRegSegLib.lung.pair import BreathingPair
from JointRegSegLib.preprocess import is_ct

from .cohort import Pair


def doubts(pair: Pair, transform: sitk.Transform, lungs: BreathingPair) -> tuple[list[str], list[str]]:
    """Why no answer should be given, and what else speaks against the scans.

    No answer: where the moving image is not of these lungs, or does not hold them. The rest is what a lung review looks
    at; the moving lungs are those of the table, in CT by default those that `threshold.lungs` finds.

    Raises
    ------
    InputError
        If an image cannot be read or used.
    """
    scans = [_scan(pair, "fixed"), _scan(pair, "moving")]
    ct = all(is_ct(sitk.GetArrayViewFromImage(scan.image)) for scan in scans)
    breath = lungs.breath
    moved = -breath.expansion.motion if breath.fixed_is_inhale else breath.expansion.motion
    grave = evidence.unseen(float(1 - scans[1].grid.contains(lungs.points + moved).mean()), "moving")
    warnings = [*checks.slices(*scans, ct), *checks.kernels(*scans, ct), *checks.cut_off(scans[0])]
    if pair.moving_labels is None and not ct:
        return grave, warnings
    try:
        moving = _with_lungs(pair, scans[1])
    except InputError as error:
        return [*grave, f"moving: {error}"], warnings
    exhale, inhale = breath.volumes()
    carried = float((exhale if breath.fixed_is_inhale else inhale).sum() / 1000)
    outline = sitk.GetImageFromArray((moving.lungs > 0).astype(np.uint8))
    outline.CopyInformation(moving.image)
    there = sitk.GetArrayFromImage(sitk.Resample(outline, scans[0].image, transform, sitk.sitkNearestNeighbor)) > 0
    if not (there & (scans[0].lungs > 0)).any():
        return [*grave, "the transform takes the lungs to where the moving image has none"], warnings
    return grave, [*warnings, *checks.cut_off(moving), *evidence.volumes(carried, moving.volume, "in the moving image")]


def _scan(pair: Pair, side: str) -> checks.Scan:
    source = getattr(pair, side)
    image = files.read_image(source)
    labels = pair.fixed_labels if side == "fixed" else None
    drawn = np.zeros(0) if labels is None else sitk.GetArrayFromImage(files.read_labels(labels, image, side))
    return checks.Scan(side, image, drawn, files.tags(source, dicom.TAGS))


def _with_lungs(pair: Pair, moving: checks.Scan) -> checks.Scan:
    if pair.moving_labels is None:
        lungs = threshold.lungs(sitk.GetArrayFromImage(moving.image), moving.grid)
    else:
        lungs = sitk.GetArrayFromImage(files.read_labels(pair.moving_labels, moving.image, "moving"))
    return checks.Scan("moving", moving.image, lungs, moving.tags)
