"""The module JointRegSegTraining as Slicer runs it: a description of its parameters, and a child process."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest
from JointRegSegLib import catalog, cli
from JointRegSegTrainingLib.commands import COMMANDS

FOLDER = Path(__file__).resolve().parents[2] / "JointRegSegTraining"
SCRIPT = FOLDER / "JointRegSegTraining.py"
#: What Slicer's parser of module descriptions knows, as far as it is used here.
HEAD = [
    "category",
    "title",
    "description",
    "version",
    "documentation-url",
    "license",
    "contributor",
    "acknowledgements",
]
KINDS = {
    "string": set(),
    "string-enumeration": {"element"},
    "integer": {"constraints"},
    "double": {"constraints"},
    "file": {"channel"},
    "directory": {"channel"},
}


@pytest.fixture(scope="module")
def module():
    """The script, imported, with Python's search path as it was before."""
    spec = spec_from_file_location("headless", SCRIPT)
    module = module_from_spec(spec)
    before = sys.path[:]
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def description() -> ElementTree.Element:
    return ElementTree.parse(SCRIPT.with_suffix(".xml")).getroot()


def parameters(description: ElementTree.Element) -> list[ElementTree.Element]:
    return [entry for group in description.iter("parameters") for entry in group if entry.tag in KINDS]


def child(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
    """The script in a process of its own."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_description_is_one_that_slicer_reads(description):
    assert description.tag == "executable"
    assert [entry.tag for entry in description if entry.tag != "parameters"] == HEAD
    assert all(description.findtext(tag).strip() for tag in HEAD)
    assert "research use only" in description.findtext("description")
    for group in description.iter("parameters"):
        assert [entry.tag for entry in group][:2] == ["label", "description"]
        assert {entry.tag for entry in group} - {"label", "description"} <= set(KINDS)
    names = []
    for entry in parameters(description):
        tags = [part.tag for part in entry]
        assert set(tags) - {"default", *KINDS[entry.tag]} == {"name", "longflag", "label", "description"}
        assert entry.findtext("name").isidentifier()  # Slicer makes widgets and variables of it
        assert re.fullmatch("[a-z]+", entry.findtext("longflag"))
        assert len(entry.findtext("description")) > 20
        assert entry.findtext("channel", "input") in ("input", "output")
        if entry.tag == "string-enumeration":
            assert entry.findtext("default") in [part.text for part in entry.iter("element")]
        names.append(entry.findtext("name"))
    assert len(names) == len(set(names))


def test_each_parameter_is_an_option_of_the_script_and_the_other_way_round(description, module):
    options = {
        option: action for action in module.parser()._actions for option in action.option_strings if option[:2] == "--"
    }
    del options["--help"]
    assert {f"--{entry.findtext('longflag')}" for entry in parameters(description)} == set(options)
    for entry in parameters(description):
        action = options[f"--{entry.findtext('longflag')}"]
        assert entry.findtext("name") == action.dest
        if entry.tag not in ("integer", "double"):
            assert str(action.default or "") == entry.findtext("default", "")
        if entry.tag == "string-enumeration":
            assert tuple(part.text for part in entry.iter("element")) == action.choices
        for tag, kind in (("integer", int), ("double", float)):
            if entry.tag == tag:
                assert action.type is kind and kind(entry.findtext("default")) == action.default
    taken = {name for options in module.OPTIONS.values() for name in options}
    assert taken == {action.dest for action in options.values()} - {"task"}


@pytest.mark.parametrize(
    "task",
    [
        *("train", "evaluate", "make-references", "pseudo-label", "export"),
        *("simulate-cohort", "train-classifier", "classify"),
    ],
)
def test_each_task_is_a_subcommand_that_takes_its_words(module, task):
    assert task in module.TASKS
    given = dict.fromkeys(("cohort", "configuration", "run", "references", "bundle", "start", "data"), "x") | {
        "changes": "a=1; b.c=2;",
        "patients": 30,
        "healthy": 9,
        "severity": 0.0,
    }
    words = module.command(argparse.Namespace(task=task, minutes=5.0, device="cpu", **given))
    parser = argparse.ArgumentParser()
    COMMANDS[task](parser)
    found = vars(parser.parse_args(words))
    if "changes" in found:
        assert found["changes"] == ["a=1", "b.c=2"]
    if task == "train":
        assert found["max_minutes"] == 5 and found["device"] == "cpu" and found["progress"] == "slicer"
    if task == "simulate-cohort":
        assert (found["patients"], found["healthy"], found["severity"]) == (30, 9, 0.0)


def test_what_is_empty_is_left_out_or_asked_for(module):
    given = dict.fromkeys(("cohort", "references", "bundle", "start", "changes"), "") | {
        "configuration": "c",
        "run": "r",
    }
    given = argparse.Namespace(task="export", minutes=0.0, device="auto", **given)
    assert module.command(given) == ["--run", "r"]
    given.task = "train"
    with pytest.raises(ValueError, match="the task 'train' needs a value for 'cohort'"):
        module.command(given)
    given.cohort = "t.csv"
    assert "--max-minutes" not in module.command(given) and "--start" not in module.command(given)


def test_it_trains_in_a_process_of_its_own(config_file, cohort_file, tmp_path):
    done = child(
        *("--task", "train", "--cohort", cohort_file, "--configuration", config_file, "--run", tmp_path / "run"),
        *("--changes", "steps=3; weights.inverse=0.1", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    shares = [float(share) for share in re.findall("<filter-progress>(.*)</filter-progress>", done.stdout)]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1, 1], abs=1e-3)
    assert done.stdout.startswith("<filter-start><filter-name>train</filter-name>")
    assert re.search(r"<filter-end>.*<filter-time>[\d.]+</filter-time></filter-end>\n$", done.stdout)
    assert "step 3/3" in done.stdout
    assert (tmp_path / "run" / "state.pt").is_file()


def test_an_error_is_one_line_and_a_code(cohort_file, tmp_path):
    done = child("--task", "train", "--cohort", cohort_file, "--configuration", "nothing", "--run", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith("JointRegSegTraining: nothing: neither a YAML file nor a configuration")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_becomes_a_model_of_the_module(module, run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(catalog.HOME_VARIABLE, str(tmp_path))
    assert module.main(["--task", "export", "--run", str(run_folder)]) == 0
    assert "tiny-blobs" in [entry["name"] for entry in catalog.entries()]
    assert capsys.readouterr().out.count("<filter-progress>") == 2
    assert module.main(["--task", "evaluate", "--run", str(tmp_path)]) == 2
    assert "folder of a training run" in capsys.readouterr().err


def test_without_its_packages_it_says_what_is_missing(module, monkeypatch, capsys):
    monkeypatch.setattr(module, "PACKAGES", {"no_such_module": "no-such-package", "torch": "torch"})
    assert module.main(["--task", "evaluate", "--run", "x"]) == 2
    error = capsys.readouterr().err
    assert "packages are missing: no-such-package; run slicer.util.pip_install" in error and error.count("\n") == 1


def test_slicer_takes_it_for_a_command_line_module():
    """It looks at the first line of a script, and for a description beside it."""
    assert SCRIPT.read_text(encoding="utf-8").startswith("#!/usr/bin/env python-real\n")


def test_help_of_the_subcommands(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0 and f"jointregseg {name}" in capsys.readouterr().out
