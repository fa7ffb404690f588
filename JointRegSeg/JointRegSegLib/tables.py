"""Tables that people make: CSV with commas, semicolons or tabs, as spreadsheets of different countries save them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, reading


def cells(text: str) -> tuple[dict[int, list[str]], str]:
    """Lines of a CSV as stripped cells by their numbers, without those that hold nothing, and what separates the cells.

    That is the semicolon or the tab if the first line has one, else the comma: spreadsheets of countries where a comma
    begins the decimals write semicolons.
    """
    first = text.lstrip().partition("\n")[0]
    separator = next((sign for sign in ";\t" if sign in first), ",")
    reader = csv.reader(text.splitlines(), delimiter=separator)
    lines = ((reader.line_num, [cell.strip() for cell in line]) for line in reader)
    return {number: line for number, line in lines if any(line)}, separator


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[int, dict[str, str]]:
    """Rows of a CSV by column; a byte-order mark, capitals in the columns' names and spaces around values do not count.

    Their keys are the numbers of their lines in the file. A row has all columns of the table, empty where it is
    shorter.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column, has one twice or others than these, or a line is longer than the first.
    """
    cure = f"columns are {', '.join(required)}" + (f" and optionally {', '.join(optional)}" if optional else "")
    with reading(path):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a CSV, whose {cure}")
        if not path.exists():
            raise InputError(f"{path}: no such file; give a CSV, whose {cure}")
        try:
            lines, _ = cells(path.read_text(encoding="utf-8-sig"))
        except (csv.Error, UnicodeDecodeError):
            raise InputError(f"{path}: cannot be read as CSV text; save it as CSV in UTF-8") from None
    numbers = list(lines)
    columns = [name.lower() for name in lines[numbers.pop(0)]] if lines else []
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise InputError(f"{path}: the column '{twice[0]}' is there twice; {cure}")
    missing = [name for name in required if name not in columns]
    unknown = [name for name in columns if name not in (*required, *optional)]
    if missing or unknown:
        what = f"lacks the column {', '.join(missing)}" if missing else f"has an unknown column '{unknown[0]}'"
        raise InputError(f"{path}: {what}; {cure}")
    if long := [number for number in numbers if any(lines[number][len(columns) :])]:
        raise InputError(f"{path}: line {long[0]} has more cells than there are columns; are its commas in quotes?")
    return {n: dict.fromkeys(columns, "") | dict(zip(columns, lines[n], strict=False)) for n in numbers}
