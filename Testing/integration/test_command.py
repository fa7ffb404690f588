"""The command itself, mostly in processes of its own: exit codes, interruption, the demonstration."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from JointRegSegLib import __version__, cli, pipeline

CLI = [sys.executable, "-m", "JointRegSegLib.cli"]
PATIENCE = 240  # seconds for a child on a busy machine


def child(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [*CLI, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


def test_importing_the_library_does_not_import_torch():
    code = "import sys, JointRegSegLib, JointRegSegLib.cli, JointRegSegLib.errors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_help_does_not_import_torch():
    code = """
import sys
from JointRegSegLib import cli
try:
    cli.main(["train", "--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nFalse\n")


def test_a_pair(installed, pair, tmp_path):
    arguments = ["--fixed", pair["fixed"], "--moving", pair["moving"], "--model", "tiny-blobs", "--refine", "4"]
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}  # a terminal that has no arrows
    options = ["--moving-labels", pair["moving_labels"], "--output", "out"]
    done = child("register", *arguments, *options, cwd=tmp_path, env=plain)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    lines = done.stdout.splitlines()
    reason = report["verdict"]["reasons"][0].encode("ascii", "replace").decode()
    assert lines[0] == f"{report['verdict']['color'].upper()}: {reason}"
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert "For research use only" in lines[-2]
    assert report["settings"]["refine"] == 4
    assert (tmp_path / "out" / "warped_labels.nii.gz").is_file()


def test_bad_input(pair, tmp_path):
    """One line and nothing else: no traceback, no chatter of C libraries."""
    cut = tmp_path / "cut.mha"
    header = "ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    cut.write_text(header + "too little")
    done = child("register", "--fixed", cut, "--moving", pair["moving"], "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"jointregseg: {cut}: cannot be read as an image")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(pair, tmp_path, kind):
    """In the middle of a computation that would go on for long, which a terminal shows as a bar."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    before = sorted(tmp_path.iterdir())
    arguments = ["--fixed", pair["fixed"], "--moving", pair["moving"], "--refine", 10_000, "--output", tmp_path / "out"]
    process = subprocess.Popen(
        [*CLI, "register", *map(str, arguments)],
        stderr=inside,
        stdout=subprocess.PIPE,
        # Tests that were started in the background would hand down that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(inside)
    alarm = threading.Timer(PATIENCE, process.kill)
    alarm.start()
    said, sent = b"", False
    try:
        while True:
            try:
                block = os.read(outside, 1 << 16)
            except OSError:  # the child has closed its end
                break
            if not block:
                break
            said += block
            if not sent and b"deformation" in said:
                process.send_signal(kind)
                sent = True
        assert process.wait(PATIENCE) == 130, said[-2000:]
    finally:
        alarm.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
        os.close(outside)
    assert sent and b"affine" in said and b"%" in said
    assert b"interrupted; nothing half-written was left" in said
    assert b"Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_reader_that_leaves(installed):
    """As in ``jointregseg models | head -1``."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*CLI, "models"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory; close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory; close other programs"),
    ],
)
def test_other_ends(shell, pair, tmp_path, monkeypatch, error, code, word):
    def ends(*arguments, **options):
        raise error

    monkeypatch.setattr(pipeline, "register_and_segment", ends)
    arguments = ["--fixed", pair["fixed"], "--moving", pair["moving"], "--output", tmp_path / "out"]
    found, _, said = shell("register", *arguments)
    assert found == code and word in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--version"], 0, f"jointregseg {__version__}"),
        (["--help"], 0, "research use only"),
        ([], 2, "COMMAND"),
        (["register"], 2, "--fixed"),
        (["regster"], 2, "invalid choice"),
        (["register", "--fixed", "a", "--moving", "b", "--output", "c", "--refine", "x"], 2, "invalid int"),
        (["apply", "--help"], 0, "Points go the opposite way"),
        (["train", "--help"], 0, "go on where it stopped"),
        (["--help"], 0, "training: write the CSV of a cohort"),
        (["register", "--help"], 0, "where to compute"),
    ],
)
def test_usage(shell, arguments, code, word):
    found, said, error = shell(*arguments)
    assert found == code
    assert word in (said if code == 0 else error).replace("\n", " ")


def test_demo(shell, tmp_path):
    output = tmp_path / "demo"
    code, said, error = shell("demo", "--output", output, "--device", "cpu")
    assert (code, error) == (0, "")
    rows = {line[:40].strip(): line[40:].split() for line in said.splitlines() if len(line) >= 60}
    before, after = map(float, rows["motion error in the lungs, mean (mm)"])
    assert before > 5 and after < 0.4 * before
    before, after = map(float, rows["Dice of lungs, liver, heart"])
    assert after > before
    assert float(rows["folded voxels (%)"][0]) < 0.01
    assert float(rows["there and back, mean (voxels)"][0]) < 0.1
    assert f"report:  {output / 'report.html'}" in said
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["quality"]["landmarks"]["after_mm"]["mean"] < report["quality"]["landmarks"]["before_mm"]["mean"]
    assert f"verdict: {report['verdict']['color']}" in said
    assert list(report["quality"]["labels"]["after"]["labels"]) == ["right lung", "left lung", "liver", "heart"]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "simulated inhale" in page and "simulated exhale" in page and "unnamed" not in page
    assert "left lung" in page and "label 1" not in page


def test_demo_with_a_real_pair(bundle, cohort_folder, shell, refused, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "symmetric-hippocampus"
    shutil.copytree(bundle.folder, folder)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8")) | {"name": "symmetric-hippocampus"}
    manifest["training"]["held_out"] = ["p09", "p04", "elsewhere"]
    (folder / "model.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("JOINTREGSEG_MODELS", str(folder.parent))
    data = tmp_path / "data"
    data.mkdir()
    Path(data / "hippocampus").symlink_to(cohort_folder)
    code, said, _ = shell("demo", "--data", data, "--output", tmp_path / "demo")
    assert code == 0
    assert "p04.nii.gz (fixed) and p09.nii.gz (moving)" in said and "HD95 (voxels)" in said
    report = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))
    assert f"{report['quality']['labels']['after']['mean_dice']:.3f}" in said
    assert shell("demo", "--data", data, "--output", tmp_path / "demo")[0] == 0  # an earlier demonstration is replaced
    refused("demo", "--data", tmp_path, words=(str(tmp_path), "hippocampus/images", "--data"))
    refused("demo", "--data", data, output=tmp_path / "data", words=("not the folder of a result",))


def test_a_cure_is_told_where_the_command_has_it_alone():
    some = {"align": "--align center", "lungs": "--inhale-labels and --exhale-labels", "model": "the folder of"}
    register = argparse.Namespace(align=None, fill=None)
    lung = argparse.Namespace(inhale_labels=None, exhale_labels=None)
    for arguments, known in ((register, {"align", "model"}), (lung, {"lungs", "model"})):
        told = {option for option, cure in some.items() if cure in cli.with_cure("wrong", option, arguments)}
        assert told == known
    assert cli.with_cure("wrong", None, register) == "wrong"
