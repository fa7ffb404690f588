"""Results are written as a whole or not at all, and what was there before goes only when the new one is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from JointRegSegLib import files, output, register
from JointRegSegLib.errors import OutputError


@pytest.fixture
def result(installed, pair):
    return register(pair["fixed"], pair["moving"], "tiny-blobs")


def breaks(*arguments):
    raise OSError(28, "No space left on device")


def stops(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["write_image", "write_transform"])
@pytest.mark.parametrize(("failure", "error"), [(breaks, OutputError), (stops, KeyboardInterrupt)])
def test_nothing_is_left_of_a_failed_writing(result, tmp_path, monkeypatch, step, failure, error):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(files, step, failure)
    with pytest.raises(error):
        result.save(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_failed_overwriting_keeps_the_old_result(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "out")
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(files, "write_transform", breaks)
    with pytest.raises(OutputError, match="No space left"):
        result.save(tmp_path / "out", overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept
    assert [p.name for p in tmp_path.iterdir() if p.name != "pair"] == ["out"]


def test_folder_is_readable_by_others_and_given_back(result, tmp_path):
    folder = result.save(tmp_path / "out")
    assert folder == tmp_path / "out"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert json.loads((folder / output.REPORT).read_text(encoding="utf-8"))["model"]["name"] == "tiny-blobs"


@pytest.mark.parametrize(("failure", "error"), [(breaks, OutputError), (stops, KeyboardInterrupt)])
def test_the_old_result_is_back_when_the_new_one_cannot_take_its_place(result, tmp_path, monkeypatch, failure, error):
    folder = result.save(tmp_path / "out")
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    rename, moved = Path.rename, []

    def fails_at_the_second(self, target):
        moved.append(target)
        return failure() if len(moved) == 2 else rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_second)
    with pytest.raises(error):
        result.save(tmp_path / "out", overwrite=True)
    assert len(moved) == 3
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "pair"]


def test_an_input_is_not_replaced_by_its_result(result, pair, tmp_path):
    folder = result.save(tmp_path / "out")
    again = register(pair["fixed"], folder / "warped.nii.gz", "tiny-blobs")
    with pytest.raises(OutputError, match="holds the input"):
        again.save(folder, overwrite=True)
    assert (folder / "warped.nii.gz").is_file()


def test_linked_folders(result, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(OutputError, match=r"link: is a link to .*real, which does not exist"):
        output.check_free(link)
    real.mkdir()
    for overwrite in (False, True):
        assert result.save(link, overwrite) == real
        assert link.is_symlink() and (link / "report.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pair", "real"]
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(OutputError, match="circle: "):
        output.check_free(circle)


def test_the_working_folder_itself(result, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result.save(".")
    assert (tmp_path / "here" / "report.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "pair"]


def test_what_a_killed_process_left_is_put_right(tmp_path):
    for name in (".out.abcdefgh", ".out.ijklmnop.old", ".output.abcdefgh", ".out.short"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.ijklmnop.old" / "report.json").write_text("{}")
    output.remove_partial(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.short", ".output.abcdefgh", "out"]
    assert (tmp_path / "out" / "report.json").is_file()


def test_free_places(tmp_path):
    assert output.check_free(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for overwrite in (False, True):  # nobody is told of an option that would not help
        with pytest.raises(OutputError, match=r"holds 'thesis\.txt', and will not be replaced"):
            output.check_free(tmp_path / "mine", overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"):
        output.check_free(tmp_path / "file" / "out")
