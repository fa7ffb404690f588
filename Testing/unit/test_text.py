"""Numbers as readers expect them, and tables as people save them."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.errors import InputError, lacks_memory
from JointRegSegLib.points import read_points
from JointRegSegLib.tables import read_table
from JointRegSegLib.text import percent, plain, short


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0 %"),
        (1, "100 %"),
        (0.5, "50.0 %"),
        (0.1234, "12.3 %"),
        (0.00123, "0.123 %"),
        (1e-7, "0.00001 %"),
        (0.99999, "> 99.9 %"),
        (np.float32(1), "100 %"),
        (0.01, "1 %"),
        (0.012345, "1.23 %"),
    ],
)
def test_percent(share, text):
    assert percent(share) == text


def test_no_zero_below_zero():
    assert [plain(x, 1) for x in (-0.04, 0.04, -0.06, 12.25, -1e-9)] == ["0.0", "0.0", "-0.1", "12.2", "0.0"]


def test_what_is_not_nothing_does_not_look_so():
    assert [short(x) for x in (0, 0.00234, -0.0004, 0.0123, 1, 13.746)] == [
        *("0.00", "0.0023", "-0.0004", "0.01", "1.00", "13.75")
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_as_spreadsheets_save_it(tmp_path, separator, mark, end):
    lines = (("Fixed", "moving ", "case"), ("a, b; c", "d", ""), ("", "", ""), ("e",))
    text = end.join(separator.join(f'"{cell}"' if separator in cell else cell for cell in line) for line in lines)
    (tmp_path / "t.csv").write_bytes(mark + text.encode())
    rows = read_table(tmp_path / "t.csv", ("fixed", "moving"), ("case",))
    first, second = {"fixed": "a, b; c", "moving": "d", "case": ""}, {"fixed": "e", "moving": "", "case": ""}
    assert rows == {2: first, 4: second}  # as a text editor counts lines


def test_whoever_lacks_memory():
    said = ("Failed to allocate memory for image.", "std::bad_alloc", "can't allocate memory: you tried")
    assert all(lacks_memory(RuntimeError(f"ITK ERROR: {words}")) for words in said)
    assert lacks_memory(MemoryError()) and not lacks_memory(RuntimeError("something else"))


def test_tables_that_are_none(tmp_path):
    (tmp_path / "t.csv").write_text("fixed;age\n")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.csv", "no such file"),
        (tmp_path / "t.csv", "lacks the column moving; columns are fixed, moving"),
    ):
        with pytest.raises(InputError, match=words):
            read_table(path, ("fixed", "moving"))
    with pytest.raises(InputError, match="unknown column 'age'"):
        read_table(tmp_path / "t.csv", ("fixed",))


@pytest.mark.parametrize(
    "text", ["x;y;z\n1,5;2;-3,25\n", "1,5;2;-3,25\n", "# of a spreadsheet; LPS\nX\tY\tZ\n1.5\t2\t-3.25\n"]
)
def test_landmarks_of_countries_where_a_comma_begins_the_decimals(tmp_path, text):
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    np.testing.assert_array_equal(read_points(tmp_path / "p.csv"), [[1.5, 2, -3.25]])
