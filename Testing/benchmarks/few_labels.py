"""What few labels are worth: DeepAtlas beside the same two networks trained apart (Xu and Niethammer 2019).

A registration that has seen no labels is where all begin. For each number of labeled people, of the same split: both
networks apart; from there the segmentation taught by the fixed registration (Semi-DeepAtlas), then both in turn; and,
to compare with, both networks apart for as many further steps of each. With --carry the fixed registration of
Semi-DeepAtlas is `generic` instead of the network, by `jointregseg pseudo-label`, and both networks go on with the
labels that it carried over. In turn means two steps of the registration for one of the segmentation: the paper's 20
belong to trainings so long that a segmentation with a twentieth of the steps has come to its end. Demons on its own
segmentations end the registration of a DeepAtlas that is to be used, and are compared with networks apart that end so,
too, since these gain from them as well. With all people labeled the networks apart are the upper bound. Everything is
trained by `jointregseg train`, and goes on where it was when it is called again. Figures are those of people who were
left out altogether, in as many folds as there are, also of that first registration, labeled 0, beside which the paper
tells what one label gains. A person counts once, with the mean of all pairs onto their image: p is that of a one-sided
Mann-Whitney U test against the networks apart, the paper's test, and "paired" of Wilcoxon's signed-rank test, which
knows that both were tried on the same people; a false discovery rate is controlled over all tests of a kind.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from JointRegSegLib import metrics, models
from JointRegSegTrainingLib import cohort, subjects
from JointRegSegTrainingLib.runs import load_run
from per_person import LEVEL, each, signed_rank
from scipy.stats import false_discovery_control, mannwhitneyu
from trainings import Figures, Table, Trainings, bundle, call, cohort_of, figures, parser

#: Configuration for each folder of the data.
SYSTEMS = {name: Path(__file__).with_name(f"few_labels_{name}.yaml") for name in ("hippocampus", "brain")}
BEGUN, APART, TAUGHT, TOGETHER = "begun", "apart", "Semi-DeepAtlas", "DeepAtlas"
#: Networks used together, by so many steps of demons, however they were trained.
JOINED, DEMONS = ", with demons", 5
MEASURES = {"registration": "dice", "segmentation": "segmentation"}
TESTS = {
    "p": lambda own, others: mannwhitneyu(own, others, alternative="greater").pvalue,
    "paired": lambda own, others: signed_rank(own, others, "greater"),
}


@dataclass(frozen=True)
class Stage:
    """One training: which one it goes on from, what it changes in the configuration, its share of ``--steps``."""

    name: str
    after: str
    changes: tuple[str, ...]
    share: float


ALONE = ("complete=false", "alternate={}", "annotated_share=0.5")
UNLABELED = (*ALONE[:2], "annotated_share=0", "weights.overlap=0", "arguments.classes=0")
#: Every pair teaches the registration, for of one labeled person's pairs there are few, which it would learn by heart.
EVERY = ("unannotated=true", "annotated_share=0.5")
#: The first training; then what each number of labels has.
FIRST = Stage("without labels", "", UNLABELED, 4.0)
STAGES = (
    Stage(BEGUN, "", ALONE, 1.0),
    Stage(APART, BEGUN, ALONE, 1.8),
    Stage(TAUGHT, BEGUN, ("alternate={}", "frozen=[registration]"), 0.9),
    Stage(TOGETHER, TAUGHT, ("alternate={segmentation: 1, registration: 2}", *EVERY), 2.7),
)


def main() -> int:
    options = parser(__doc__, 2500, "of both networks apart; the others in proportion")
    options.add_argument("--system", choices=SYSTEMS, default="hippocampus")
    options.add_argument("--labeled", type=int, nargs="+", default=[1, 10], help="numbers of people with labels")
    options.add_argument(
        "--set-taught", action="append", default=[], metavar="KEY=VALUE", help="of Semi-DeepAtlas and DeepAtlas alone"
    )
    options.add_argument(
        "--set-first", action="append", default=[], metavar="KEY=VALUE", help="of the first registration alone"
    )
    options.add_argument(
        "--carry", action="store_true", help="`generic` carries labels over, which teach both networks"
    )
    options.add_argument("--folds", type=int, default=1, help="of a cross-validation over people")
    options.add_argument("--note", default="", help="what is told of these trainings in the table's title")
    arguments = options.parse_args()
    source = Path(arguments.data) / arguments.system
    if not source.is_dir():
        print(f"few_labels: no {source}; give --data or set JOINTREGSEG_DATA", file=sys.stderr)
        return 2
    found: dict[tuple[int | None, str], Figures] = {}
    said = [told for fold in range(arguments.folds) for told in _measured(source, arguments, fold, found)]
    pairs = [{"labeled": n, "training": name, "pairs": rows} for (n, name), rows in found.items()]
    told = table(", ".join(filter(None, (arguments.system, arguments.note))), found)
    learned = {row.subject for row in cohort.read(_cohort(source, arguments, 0, None)) if row.split == "train"}
    said = [f"Dice of labels that `generic` carried over and those drawn: {', '.join(said)}"] if said else []
    told = replace(told, said="; ".join([told.said, f"those labeled are among {len(learned)} to train on", *said]))
    told.tell(arguments.output / "figures.json", pairs)
    return 0


def _measured(
    source: Path, arguments: argparse.Namespace, fold: int, found: dict[tuple[int | None, str], Figures]
) -> list[str]:
    """Train what a fold is about and add its figures to ``found``; returns how good carried labels are."""
    place, carried = arguments.output / f"fold {fold}", []
    trainings = Trainings(SYSTEMS[arguments.system], arguments.set)

    def add(key: tuple[int | None, str], run: Path, **changes: object) -> None:
        found.setdefault(key, []).extend(figures(run, arguments.pairs, **changes))

    whole, steps = _cohort(source, arguments, fold, None), round(arguments.steps * FIRST.share)
    first = trainings.train(place / FIRST.name, whole, steps, (*arguments.set_first, *FIRST.changes))
    add((0, APART), first)
    for labeled in [*arguments.labeled, None]:
        people = _cohort(source, arguments, fold, labeled)
        stages = _changed(STAGES, arguments.set_taught) if labeled is not None else STAGES[:2]
        taught = people
        if arguments.carry and labeled is not None:
            taught = _carried(people)
            carried.append(f"{agreement(first, taught, whole):.3f} with {labeled} labeled")
        for name, run in _trained(trainings, people, taught, bundle(first), arguments.steps, stages).items():
            if name != BEGUN:
                add((labeled, name), run)
            if name in (APART, TOGETHER):
                add((labeled, name + JOINED), run, demons=DEMONS)
    return [f"{told} in fold {fold}" if arguments.folds > 1 else told for told in carried]


def _cohort(source: Path, arguments: argparse.Namespace, fold: int, labeled: int | None) -> Path:
    """Table of the people, of whom so many, or all, have labels to learn from; in the folder of its trainings."""
    table = arguments.output / f"fold {fold}" / ("all" if labeled is None else str(labeled)) / "cohort.csv"
    return cohort_of(source, table, arguments.validation, arguments.test, labeled=labeled, fold=fold)


def _carried(cohort: Path) -> Path:
    """The cohort with labels that `generic` carries over from those whom people labeled to all others."""
    folder = cohort.parent / "carried"
    if not (folder / "cohort.csv").exists():
        call("pseudo-label", "--model", models.GENERIC, "--cohort", cohort, "--output", folder)
    return folder / "cohort.csv"


def agreement(run: Path, carried: Path, drawn: Path) -> float:
    """Mean Dice of labels that were carried over and those that were drawn, on the lattice of a run."""
    made, rows = load_run(run)[0], [row for row in cohort.read(carried) if row.labeled_by]
    by_name = {row.name: row for row in cohort.read(drawn)}
    found, true = (subjects.load(x, made) for x in (rows, [by_name[row.name] for row in rows]))
    pairs = [[s.labels.int().numpy() for s in both] for both in zip(found, true, strict=True)]
    return float(np.nanmean([value for pair in pairs for value in metrics.dice(*pair, made.values).values()]))


def _changed(stages: tuple[Stage, ...], changes: list[str]) -> tuple[Stage, ...]:
    """With what is asked for of the trainings in which one network teaches the other: the paper's have lower rates."""
    taught = (TAUGHT, TOGETHER)
    return tuple(replace(s, changes=(*changes, *s.changes)) if s.name in taught else s for s in stages)


def _trained(
    trainings: Trainings, cohort: Path, taught: Path, first: Path, steps: int, stages: tuple[Stage, ...]
) -> dict[str, Path]:
    """Run of each stage, which begins with the weights of the one that it goes on from, or with ``first``.

    ``taught`` is the cohort that Semi-DeepAtlas and DeepAtlas learn from.
    """
    runs: dict[str, Path] = {}
    for stage in stages:
        start = bundle(runs[stage.after]) if stage.after else first
        place = cohort.parent / stage.name
        people = taught if stage.name in (TAUGHT, TOGETHER) else cohort
        runs[stage.name] = trainings.train(place, people, round(steps * stage.share), stage.changes, start)
    return runs


def table(of: str, found: dict[tuple[int | None, str], Figures]) -> Table:
    """Mean figures of each training ``of`` a system, beside the networks apart on the same labels."""
    # A registration without labels has no segmentation, and used together networks segment as they do apart.
    untold = [(*x, MEASURES["segmentation"]) for x in found if x[0] == 0 or x[1].endswith(JOINED)]
    beside = {name: APART + JOINED if name.endswith(JOINED) else APART for _, name in found}
    compared = [
        (labeled, name, key)
        for labeled, name in found
        for key in MEASURES.values()
        if name != beside[name] and (labeled, name, key) not in untold
    ]
    corrected: dict[tuple, list[str]] = {told: [] for told in compared}
    for test in TESTS.values() if compared else ():
        ps = [test(*(each(found[n, x], key) for x in (name, beside[name]))) for n, name, key in compared]
        for told, p in zip(compared, false_discovery_control(ps), strict=True):
            corrected[told].append(f"{p:.2g}")
    lines = []
    for (labeled, name), rows in found.items():
        line = ["all" if labeled is None else str(labeled), name]
        for key in MEASURES.values():
            if (labeled, name, key) in untold:
                line += ["", "", *("" for _ in TESTS)]
                continue
            mean, base = (float(np.mean([row[key] for row in x])) for x in (rows, found[labeled, beside[name]]))
            line += [f"{mean:.3f}"]
            told = [f"{mean - base:+.3f}", *corrected[labeled, name, key]] if name != beside[name] else []
            line += told or ["", *("" for _ in TESTS)]
        lines.append([*line, f"{100 * np.mean([row['folded'] for row in rows]):.4f}"])
    columns = [column for title in MEASURES for column in (f"{title}, Dice", "gain", *TESTS)]
    pairs = next(iter(found.values()))
    before = np.mean([row["before"] for row in pairs])
    people = len({row["fixed"] for row in pairs})
    said = f"{len(pairs)} pairs of {people} people who were left out, of Dice {before:.3f} before registration; "
    said += "gain, p of Mann-Whitney's test and p of the paired one, a person counting once, are beside the networks "
    said += f"apart that learned from the same labels, of '{TOGETHER}{JOINED}' beside '{APART}{JOINED}'"
    first = {told: float(ps[0]) for told, ps in corrected.items()}
    titles = {key: title for title, key in MEASURES.items()}
    if useless := [f"{titles[key]} by {name} with {n} labeled" for (n, name, key), p in first.items() if p > LEVEL]:
        said += f"; no gain that Mann-Whitney's test can tell from chance: {', '.join(useless)}"
    return Table(f"DeepAtlas with few labels: {of}", said, ["labeled", "training", *columns, "folded, %"], lines)


if __name__ == "__main__":
    sys.exit(main())
