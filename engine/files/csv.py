"""Tables as comma-separated text with a header line; the standard library only."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import IO

from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files.archive import printable
from engine.files.effort import spend

DELIMITERS = ",;\t|"
HINT = "The first line names the columns; every other line is one example, with numbers as features."
_QUOTED = re.compile(r'"[^"]*("|$)')
_HEADER_BYTES = 4 * 2**20
_MOST_COLUMNS = 100_000
_CELL_CHARACTERS = 4096
_CELL_EFFORT = 1


def recognizes(head: bytes) -> bool:
    """Whether the first two lines are text with as many cells each, two at least, and a number in the second."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8-sig") if error.start > len(head) - 4 else ""
    if "\0" in text or text.lstrip()[:1] in ("", "{", "[", "<"):
        return False
    lines = [line for line in text.splitlines() if line.strip()][:2]
    if len(lines) < 2:
        return False
    rows = [next(csv.reader([line], delimiter=delimiter_of(lines[0])), []) for line in lines]
    complete = len(rows[1]) == len(rows[0]) or len(text) == len(head)
    return len(rows[0]) > 1 and complete and any(is_number(cell) for cell in rows[1])


def check(stream: IO[bytes], size: int) -> None:
    """Look at the header and the first row; the others are looked at when they are read. Raises `dataset_invalid`."""
    head = stream.read(_HEADER_BYTES)
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < _HEADER_BYTES else "ignore")
    except UnicodeDecodeError as error:
        raise EngineError("dataset_invalid", f"Byte {error.start} of the table is not UTF-8.", hint="Save the file as UTF-8.") from error
    rows = rows_of(io.StringIO(text, newline=""))
    names = next(rows)
    spend(len(names) * _CELL_EFFORT)
    if next(rows, None) is None:
        raise EngineError("dataset_invalid", "The table has a header and no rows.", hint=HINT)


def rows_of(text: IO[str]) -> Iterator[list[str]]:
    """The header, checked, and then every row with as many cells; empty lines are left out. Raises `dataset_invalid` with the line."""
    try:
        start = next((line for line in iter(lambda: text.readline(_HEADER_BYTES), "") if line.strip()), "")
    except UnicodeDecodeError as error:
        raise EngineError("dataset_invalid", "The table is not UTF-8.", hint="Save the file as UTF-8.") from error
    text.seek(0)
    reader = csv.reader(text, delimiter=delimiter_of(start), strict=True)
    names: list[str] = []
    try:
        for row in reader:
            if not row or not (names or len(row) > 1 or row[0].strip()):
                continue
            if not names:
                names = [cell.strip() for cell in row]
                _check_names(names)
                yield names
                continue
            if len(row) != len(names):
                raise EngineError(
                    "dataset_invalid",
                    f"Line {reader.line_num} of the table has {len(row)} cells, and its header names {len(names)} columns.",
                    hint="Put texts that hold the delimiter into double quotes.",
                )
            yield row
    except csv.Error as error:
        raise EngineError("dataset_invalid", f"Line {reader.line_num} of the table is damaged: {error}.", hint=HINT) from error
    except UnicodeDecodeError as error:
        raise EngineError("dataset_invalid", "The table is not UTF-8 throughout.", hint="Save the file as UTF-8.") from error
    if not names:
        raise EngineError("dataset_invalid", "The table has no header.", hint=HINT)


def delimiter_of(header: str) -> str:
    """The one of the customary delimiters that occurs most often in the header, names in quotes left out."""
    return max(DELIMITERS, key=_QUOTED.sub("", header).count)


def is_number(cell: str) -> bool:
    """Whether a cell is a number as people write it, with a point."""
    if "_" in cell:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_names(names: list[str]) -> None:
    if len(names) > _MOST_COLUMNS:
        raise EngineError("dataset_invalid", f"The table has {len(names)} columns, the limit is {_MOST_COLUMNS}.", hint="Upload npz.")
    if all(is_number(name) for name in names):
        raise EngineError("dataset_invalid", "The first line of the table holds numbers, not names of columns.", hint=HINT)
    seen: set[str] = set()
    for name in names:
        if not name or len(name) > _CELL_CHARACTERS:
            hint = "Row numbers of pandas are no feature: write the file with index=False." if not names[0] else HINT
            raise EngineError("dataset_invalid", "A column of the table has no name, or an endless one.", hint=hint)
        if name in seen:
            raise EngineError("dataset_invalid", f"The table has the column {printable(name)!r} twice.", hint="Name every column once.")
        seen.add(name)


FORMAT = FileFormat("csv", "dataset", (".csv", ".tsv"), recognizes, check, vague=True)
