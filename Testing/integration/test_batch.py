"""A table of pairs: every case by itself, resumed where it stopped, summed up."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import small_grid, small_scene
from JointRegSegLib import batch, catalog, models
from JointRegSegLib.errors import Canceled, InputError, OutputError
from JointRegSegLib.points import write_points
from samples import array, label_map, volume, write


@pytest.fixture
def table(installed, tmp_path: Path) -> Path:
    """Three cases with everything that may be given, files beside the table; the second one's moving is missing."""
    folder = tmp_path / "data"
    lines = ["case,fixed,moving,fixed_labels,moving_labels,fixed_points,moving_points"]
    for i in range(4):
        write(volume(small_scene(i), small_grid()), folder / f"{i}.nii.gz")
        write(label_map(small_scene(i), small_grid()), folder / f"{i}_labels.nii.gz")
        write_points(small_scene(i).centers[1:], folder / f"{i}.csv")
    for case, fixed, moving in (("a", 0, 1), ("b", 1, 9), ("c d", 2, 3)):
        lines.append(
            f"{case},{fixed}.nii.gz,{moving}.nii.gz,{fixed}_labels.nii.gz,{moving}_labels.nii.gz,{fixed}.csv,{moving}.csv"
        )
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")  # with a byte order mark, as Excel writes it
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "summary.csv"}


def test_one_bad_case_stops_nothing_and_a_second_run_resumes(table, shell, tmp_path, monkeypatch):
    output = tmp_path / "out"
    command = ["batch", table, "--model", "tiny-blobs", "--workers", "1", "--output", output]  # in the table's order
    code, said, error = shell(*command)
    assert code == 1
    assert error == f"b: {table.parent / '9.nii.gz'}: no such file; check the path\n"
    first, second, third, last = said.splitlines()
    assert re.fullmatch(r"a: done in \d+\.\d s, (green|amber|red)", first)
    assert second == "b: failed" and third.startswith("c d: done in ")
    assert last == f"2 done, 0 kept from before, 1 failed; summary: {output / 'summary.csv'}"
    assert sorted(p.name for p in output.iterdir()) == ["a", "c d", "summary.csv"]
    assert [(r["case"], r["status"]) for r in rows(output)] == [("a", "done"), ("b", "failed"), ("c d", "done")]
    assert "no such file" in rows(output)[1]["reason"]
    written = stamps(output)

    write(volume(small_scene(9), small_grid()), table.parent / "9.nii.gz")
    write(label_map(small_scene(9), small_grid()), table.parent / "9_labels.nii.gz")
    write_points(small_scene(9).centers[1:], table.parent / "9.csv")
    monkeypatch.chdir(table.parent)  # the same table by another name
    code, said, error = shell(
        "batch", "pairs.csv", "--model", "tiny-blobs", "--workers", "1", "--output", os.path.relpath(output)
    )
    assert (code, error) == (0, "")
    assert said.splitlines()[-1].startswith("1 done, 2 kept from before, 0 failed")
    assert said.startswith("a: kept, ")
    assert stamps(output).items() > written.items()
    assert [r["status"] for r in rows(output)] == ["kept", "done", "kept"]

    code, said, _ = shell(*command, "--overwrite")
    assert code == 0 and "\n3 done, 0 kept" in said
    assert not [p for p, stamp in stamps(output).items() if written.get(p) == stamp]


def test_changed_settings_or_inputs_are_not_mixed(table, shell, tmp_path):
    output = tmp_path / "out"
    first = table.with_name("first.csv")
    first.write_text("case,fixed,moving\na,0.nii.gz,1.nii.gz\n")
    command = ["batch", first, "--model", "tiny-blobs", "--output", output]
    assert shell(*command)[0] == 0
    written = stamps(output)
    for name, value in (("--refine", 3), ("--seed", 1), ("--align", "world"), ("--similarity", "mse"), ("--fill", 0)):
        code, _, error = shell(*command, name, value)
        assert code == 2 and error.count("\n") == 1
        assert f"another {name[2:]};" in error and "(--overwrite)" in error and f"{output / 'a'}: its result" in error
    assert rows(output)[0]["status"] == "done"  # whose figures the summary still has
    for change, name in (("a,0.nii.gz,2.nii.gz", "moving input"), ("a,2.nii.gz,1.nii.gz", "fixed input")):
        first.write_text(f"case,fixed,moving\n{change}\n")
        code, _, error = shell(*command)
        assert code == 1 and name in error
    assert stamps(output) == written
    first.write_text("case,fixed,moving\na,0.nii.gz,1.nii.gz\n")
    assert shell(*command, "--align", "center")[1].endswith(
        f"0 done, 1 kept from before, 0 failed; summary: {output / 'summary.csv'}\n"
    )  # which is what the model does anyhow


def test_what_is_left_out_is_as_by_default(table, tmp_path):
    """In Python options that are not named are not any."""
    first = table.with_name("first.csv")
    first.write_text("case,fixed,moving\na,0.nii.gz,1.nii.gz\n")
    batch.run_batch(first, tmp_path / "out", {"model": "tiny-blobs", "similarity": "mi", "align": "world"})
    for options, name in (({"align": "world"}, "similarity"), ({"similarity": "mi"}, "align")):
        with pytest.raises(OutputError, match=f"was made with another {name};"):
            batch.run_batch(first, tmp_path / "out", {"model": "tiny-blobs", **options})
    kept = batch.run_batch(first, tmp_path / "out", {"model": "tiny-blobs", "similarity": "mi", "align": "world"})
    assert kept.counts == (0, 1, 0)


def test_kept_means_the_same_files_and_model(table, installed, tmp_path, monkeypatch):
    def again() -> str:
        (row,) = batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}).rows
        return row["status"] if row["status"] != "failed" else row["reason"]

    table.write_text("case,fixed,moving,fixed_points,moving_points\na,0.nii.gz,1.nii.gz,0.csv,1.csv\n")
    assert [again(), again()] == ["done", "kept"]
    write_points(small_scene(3).centers[1:] + 1, table.parent / "1.csv")
    assert again().startswith("its result was made with another moving_points input; redo it")
    batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}, overwrite=True)
    assert again() == "kept"
    write(volume(small_scene(3), small_grid()), table.parent / "1.nii.gz")
    assert again().startswith("its result was made with another moving input; redo it")
    batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}, overwrite=True)

    report = tmp_path / "out" / "a" / "report.json"
    old = json.loads(report.read_text(encoding="utf-8"))
    report.write_text(json.dumps({key: value for key, value in old.items() if key != "stamps"}))
    assert again().startswith("its result was made with another version of this program; redo it")
    report.write_text(json.dumps(old))
    assert again() == "kept"

    network = models.load(installed)
    with torch.no_grad():  # as training it anew would
        changed = {name: value * 1.01 for name, value in network.state_dict().items()}
    network = deepcopy(network)
    network.load_state_dict(changed)
    models.write_bundle(tmp_path / "anew" / "tiny-blobs", installed.manifest, network)
    monkeypatch.setenv(catalog.FOLDERS_VARIABLE, str(tmp_path / "anew"))
    with pytest.raises(OutputError, match="a: its result was made with another model; redo all"):
        again()

    # The same weights, used otherwise, and then no more than called otherwise.
    bundle = models.find("tiny-blobs")
    batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}, overwrite=True)
    manifest, card = deepcopy(bundle.manifest), bundle.folder / "model.json"
    card.write_text(json.dumps(manifest | {"title": "Blobs of another name"}))
    assert again() == "kept"
    manifest["refinement"] = {"image": 0.5}
    card.write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match="a: its result was made with another model; redo all"):
        again()


def test_the_summary_of_many_rows_is_not_written_once_a_row(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving\n" + "none.nii.gz,none.nii.gz\n" * 300)
    written, write_summary = [], batch.write_summary

    def counted(some, place):
        written.append(len(some))
        write_summary(some, place)

    monkeypatch.setattr(batch, "write_summary", counted)
    began = time.monotonic()
    batch.run_batch(path, tmp_path / "out", {})
    assert len(written) <= 2 + time.monotonic() - began
    assert written[-1] == len(rows(tmp_path / "out")) == 300


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_capitals(table, separator):
    table.write_text(
        separator.join(("Fixed", " MOVING ", "Case")) + "\n" + separator.join(("0,a.nii", "1.nii", "x")) + "\n"
    )
    assert batch.read_pairs(table) == [
        {"fixed": str(table.parent / "0,a.nii"), "moving": str(table.parent / "1.nii"), "case": "x"}
    ]


def test_summary_says_what_the_reports_say(table, tmp_path):
    outcome = batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"})
    assert outcome.counts == (2, 0, 1)
    assert [row["case"] for row in outcome.failed] == ["b"]
    row = rows(tmp_path / "out")[0]
    report = json.loads((tmp_path / "out" / "a" / "report.json").read_text(encoding="utf-8"))
    quality = report["quality"]
    for column, value in {
        "dice_before": quality["labels"]["before"]["mean_dice"],
        "dice_after": quality["labels"]["after"]["mean_dice"],
        "hd95_voxels_after": quality["labels"]["after"]["mean_hd95_voxels"],
        "landmarks_mm_before": quality["landmarks"]["before_mm"]["mean"],
        "landmarks_mm_after": quality["landmarks"]["after_mm"]["mean"],
        "segmentation_agreement": quality["segmentation_agreement"]["mean_dice"],
        "local_correlation_after": quality["similarity"]["local_correlation"]["after"],
        "folded_percent": 100 * quality["regularity"]["folded_share"],
        "inverse_mean_voxels": quality["regularity"]["inverse_consistency_voxels"]["mean"],
        "seconds": report["seconds"]["total"],
    }.items():
        assert float(row[column]) == pytest.approx(value, rel=1e-5), column
    assert row["verdict"] == report["verdict"]["color"]
    truth, carried = array(table.parent / "0_labels.nii.gz"), array(tmp_path / "out" / "a" / "warped_labels.nii.gz")
    dice = [2 * ((truth == k) & (carried == k)).sum() / ((truth == k).sum() + (carried == k).sum()) for k in (1, 2)]
    assert float(row["dice_after"]) == pytest.approx(np.mean(dice), rel=1e-5)


def test_cases_without_a_name_are_numbered(table, tmp_path):
    table.write_text("moving,fixed\n1.nii.gz,0.nii.gz\n,2.nii.gz\n")
    outcome = batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"})
    assert [row["case"] for row in outcome.rows] == ["0001", "0002"]
    assert (tmp_path / "out" / "0001" / "report.json").is_file()
    assert outcome.rows[1]["reason"] == "the row names no moving image"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("lacks the column fixed", "columns are fixed, moving and optionally case")),
        ("fixed,moving\n", ("holds no pairs",)),
        ("fixed,case\na,b\n", ("lacks the column moving",)),
        ("fixed,moving,label\na,b,c\n", ("unknown column 'label'",)),
        ("fixed,moving\n\xff\x00,\n", ("CSV in UTF-8",)),
    ],
)
def test_bad_tables(refused, tmp_path, text, words):
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode("latin-1"))
    refused("batch", path, words=(str(path), *words))


def test_a_case_that_can_have_no_folder_stops_nothing(table, shell, tmp_path):
    bad = ("con", "Aux.1", "COM1", "lpt9.txt", "dot.", "x" * 201)
    names = ("a", "../a", "A", "summary.csv", "", "0005", *bad, "console")
    table.write_text("case,fixed,moving\n" + "".join(f"{name},0.nii.gz,none.nii.gz\n" for name in names))
    code, said, error = shell("batch", table, "--workers", "1", "--output", tmp_path / "out")
    assert code == 1 and "0 done, 0 kept from before, 13 failed" in said
    found = {row["case"]: row["reason"] for row in rows(tmp_path / "out")}
    first = ["a", "../a (row 2)", "A (row 3)", "summary.csv (row 4)", "0005", "0005 (row 6)"]
    assert list(found) == [*first, *(f"{name} (row {row})" for row, name in enumerate(bad, 7)), "console"]
    assert all("no such file" in found[name] for name in ("a", "0005", "console"))  # these were tried
    assert all("the name of a folder; name the case otherwise" in found[f"{x} (row {n})"] for n, x in enumerate(bad, 7))
    assert "cannot be the name of a folder" in found["../a (row 2)"] and "../a (row 2): " in error
    assert "an earlier row has the case 'A'" in found["A (row 3)"]
    assert "the name of the summary" in found["summary.csv (row 4)"]
    assert "an earlier row has the case '0005'" in found["0005 (row 6)"]


def test_what_no_case_could_do_without(table, refused, tmp_path):
    refused("batch", table.with_name("none.csv"), words=("none.csv", "no such file", "columns are fixed, moving"))
    refused("batch", table, "--model", "brains", words=("no model 'brains'",))
    refused("batch", table, "--refine", "-1", words=("refine takes a whole number from 0 to 10000, not -1",))
    organs = table.with_name("organs.csv")
    organs.write_text("fixed;moving;fixed_organs;moving_organs\n0.nii.gz;1.nii.gz;0.nii.gz;1.nii.gz\n")
    refused("batch", organs, "--model", "tiny-blobs", words=("organs.csv", "'generic' only", "moving_organs"))
    refused("batch", organs, "--align", "center", words=("organs.csv", "alignment"))
    refused("batch", table, output=Path("/proc/out"), words=("/proc/out", "cannot be created"))


def test_a_folder_that_is_no_result_is_left_alone(table, shell, tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "thesis.txt").write_text("mine")
    code, _, error = shell("batch", table, "--model", "tiny-blobs", "--output", tmp_path / "out")
    assert code == 1 and "a: " in error and "holds 'thesis.txt', and will not be replaced" in error
    assert (tmp_path / "out" / "a" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "out" / "c d" / "warped.nii.gz").is_file()


def test_a_summary_of_something_else_is_left_alone(table, refused, tmp_path):
    (tmp_path / "out").mkdir()
    summary = tmp_path / "out" / "summary.csv"
    for content in (b"my,thesis\n1,2\n", b"\xff\xfe\x00", b""):
        summary.write_bytes(content)
        refused("batch", table, output=tmp_path / "out", words=("summary.csv", "no summary of a batch"))
        assert summary.read_bytes() == content and list((tmp_path / "out").iterdir()) == [summary]


def test_a_damaged_report_is_named(table, tmp_path):
    table.write_text("case,fixed,moving\na,0.nii.gz,1.nii.gz\n")
    report = tmp_path / "out" / "a" / "report.json"
    report.parent.mkdir(parents=True)
    for text in ("{", "{}", "[]"):
        report.write_text(text)
        row = batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}).rows[0]
        assert (row["reason"], row["option"]) == (f"{report}: is damaged; redo the case", "overwrite")
    assert batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}, overwrite=True).counts == (1, 0, 0)


def test_whatever_breaks_a_case_the_others_run(table, tmp_path, monkeypatch):
    real = batch.register_and_segment

    def breaks_on_first(fixed, moving, **options):
        if fixed.endswith("0.nii.gz"):
            raise ZeroDivisionError("a bug")
        return real(fixed, moving, **options)

    monkeypatch.setattr(batch, "register_and_segment", breaks_on_first)
    outcome = batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"})
    assert [r["status"] for r in outcome.rows] == ["failed", "failed", "done"]
    assert outcome.rows[0]["reason"] == "ZeroDivisionError: a bug"


def test_progress_and_cancel(table, tmp_path):
    told = []

    def listen(case: str, fraction: float) -> bool:
        told.append((case, fraction))
        return case != "c d"

    with pytest.raises(Canceled):
        batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"}, progress=listen)
    assert [case for case, _ in told] == ["a", "b", "c d"]
    assert [f for _, f in told] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [r["case"] for r in rows(tmp_path / "out")] == ["a", "b"]
    assert sitk.ReadImage(str(tmp_path / "out" / "a" / "warped.nii.gz")).GetDimension() == 3


def test_canceling_within_a_case_is_no_failure_of_it(table, tmp_path, monkeypatch):
    def canceled(*arguments, **options):
        raise Canceled

    monkeypatch.setattr(batch, "register_and_segment", canceled)
    with pytest.raises(Canceled):
        batch.run_batch(table, tmp_path / "out", {"model": "tiny-blobs"})
    assert list((tmp_path / "out").iterdir()) == []


def test_a_summary_that_cannot_be_written(table, refused, tmp_path):
    table.write_text("fixed,moving\nnone.nii.gz,none.nii.gz\n")
    (tmp_path / "out" / "summary.csv").mkdir(parents=True)
    refused("batch", table, output=tmp_path / "out", words=("summary.csv", "cannot be written"))


def test_absolute_paths_stay(table):
    table.write_text(f"fixed,moving,case\n{table.parent / '0.nii.gz'}, 1.nii.gz ,x\n")
    assert batch.read_pairs(table) == [
        {"fixed": str(table.parent / "0.nii.gz"), "moving": str(table.parent / "1.nii.gz"), "case": "x"}
    ]
    with pytest.raises(InputError, match="is a folder; give a CSV"):
        batch.read_pairs(table.parent)
