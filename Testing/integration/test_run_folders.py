"""The folder of a training run: one process writes there, and what it is begun with is looked at again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import yaml
from conftest import ENTRIES, PLAN
from filelock import FileLock
from JointRegSegLib import files
from JointRegSegTrainingLib import cohort, trainer


def test_a_second_training_changes_nothing_of_the_first(cohort_file, config_file, shell, tmp_path):
    """Before the first checkpoint, too, when nothing would keep another plan out of the folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").write_text(plan := json.dumps(asdict(PLAN)))
    (folder / "cohort.csv").write_text("mine")
    words = ["--config", config_file, "--output", folder, "--set", "rate=0.1"]
    with FileLock(folder / ".lock"):
        code, _, error = shell("train", "--cohort", tmp_path / "none.csv", *words)  # nor is any of it read
    assert code == 2 and "another process works there; wait for it" in error
    assert (folder / "plan.json").read_text() == plan and (folder / "cohort.csv").read_text() == "mine"


def test_a_cohort_whose_files_changed_is_told(cohort_folder, config_file, shell, tmp_path):
    """As when somebody corrects labels while a run waits to go on: it does, and says so."""
    rows = [replace(row, labels=tmp_path / row.labels.name) for row in cohort.of_folder(cohort_folder, 2, 3)]
    for row in rows:
        row.labels.write_bytes((cohort_folder / "labels" / row.labels.name).read_bytes())
    cohort.write(tmp_path / "c.csv", rows)
    words = ["train", "--config", config_file, "--cohort", tmp_path / "c.csv", "--output", tmp_path / "run"]
    words += ["--set", "steps=4", "--device", "cpu", "--progress", "none"]
    assert shell(*words, "--max-minutes", "0")[0] == 0
    run = trainer.read_state(tmp_path / "run")
    assert run["step"] == 0
    assert "not what they were" not in "".join(shell(*words, "--max-minutes", "0.0001")[1:])
    changed = files.read_image(rows[0].labels)
    changed[3, 3, 3] = 1
    files.write_image(changed, rows[0].labels)
    assert trainer.read_state(tmp_path / "run")["step"] > 0
    code, said, error = shell(*words)
    assert code == 0 and f"1 files are not what they were when the run began ({rows[0].labels.name}" in said + error


def test_what_export_will_lack_is_told_by_train(cohort_folder, shell, tmp_path):
    """A card, and labels of the test subjects; evaluate says that it measured no overlap."""
    rows = [replace(row, labels=None) if row.split == "test" else row for row in cohort.of_folder(cohort_folder, 2, 3)]
    cohort.write(tmp_path / "c.csv", rows)
    config = tmp_path / "plan.yaml"
    config.write_text(yaml.safe_dump({key: value for key, value in ENTRIES.items() if key != "card"}))
    words = ["--config", config, "--cohort", tmp_path / "c.csv", "--output", tmp_path / "run", "--device", "cpu"]
    code, said, error = shell("train", *words, "--set", "steps=1")
    assert code == 0 and "0 labeled subjects for test" in said + error and "has no card" in said + error
    code, said, error = shell("evaluate", "--run", tmp_path / "run", "--device", "cpu")
    assert code == 0 and "folded" in said and "dice" not in said
    assert "no overlap was measured" in error
