"""Parquet tables: magic numbers, the length of the footer, and the headers of pages; the standard library only.

What a page becomes in memory stands in its own header alone, and no total of the footer bounds it; `pages` reads these headers
(Thrift's compact protocol, as in the format's specification: github.com/apache/parquet-format, `parquet.thrift`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat

MAGIC = b"PAR1"
HINT = "Write it with pandas.DataFrame.to_parquet or pyarrow.parquet.write_table, one column for each feature."
_SMALLEST = 12
_HEADER_BYTES = 1 << 20
_DEPTH = 16
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, (9, 10), 11, 12
_INTEGERS = (4, 5, 6)
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
"""Fields of a page header that hold the number of values, by kind of page."""


def recognizes(head: bytes) -> bool:
    """Whether a file that begins so is Parquet."""
    return head.startswith(MAGIC)


def check(stream: IO[bytes], size: int) -> None:
    """Whether the file ends with a footer of a size that may be read.

    Raises `truncated_upload`, `dataset_invalid`, `tensor_limit_exceeded`.
    """
    if size < _SMALLEST:
        raise EngineError("truncated_upload", "The file is shorter than the smallest Parquet file.", hint="Upload the file again.")
    stream.seek(size - 8)
    tail = stream.read(8)
    if tail[4:] == b"PARE":
        raise EngineError("dataset_invalid", "The Parquet file is encrypted.", hint="Write it without encryption.")
    if tail[4:] != MAGIC:
        raise EngineError("truncated_upload", "The file does not end as a Parquet file does.", hint="Upload the file again.")
    length = int.from_bytes(tail[:4], "little")
    if length > limits.MAX_HEADER_BYTES:
        raise EngineError("tensor_limit_exceeded", f"The Parquet footer has {length} bytes, the limit is {limits.MAX_HEADER_BYTES}.")
    if length == 0 or length > size - _SMALLEST:
        raise EngineError("dataset_invalid", "The Parquet footer is longer than the file.", hint=HINT)


@dataclass(frozen=True)
class Page:
    """One page of a column."""

    uncompressed_bytes: int
    values: int
    dictionary: bool


def pages(stream: IO[bytes], offset: int, size: int) -> Iterator[Page]:
    """The pages of a column chunk that begins at `offset` and takes `size` bytes.

    Raises `dataset_invalid` where the headers lead out of the chunk, and `decompression_limit_exceeded` for a page that is too large.
    """
    end = offset + size
    while offset < end:
        stream.seek(offset)
        header = _Compact(stream.read(min(_HEADER_BYTES, end - offset)))
        fields = header.struct()
        inflated, stored = fields.get(2), fields.get(3)
        counts = [(kind, fields[kind]) for kind in (_DATA, _DICTIONARY, _DATA_V2) if isinstance(fields.get(kind), dict)]
        if not isinstance(inflated, int) or not isinstance(stored, int) or min(inflated, stored) < 0:
            raise damaged("a page without sizes")
        if inflated > limits.MAX_PAGE_BYTES:
            raise EngineError(
                "decompression_limit_exceeded",
                f"A page of the Parquet file inflates to {inflated} bytes, the limit is {limits.MAX_PAGE_BYTES}.",
                hint="Write it with pages of the usual size (data_page_size of about 1 MiB).",
            )
        if counts:
            kind, values = counts[0]
            count = values.get(1) if isinstance(values, dict) else None
            if not isinstance(count, int) or count < 0:
                raise damaged("a page without a number of values")
            yield Page(inflated, count, kind == _DICTIONARY)
        offset += header.place + stored
    if offset != end:
        raise damaged("a page that reaches past its column")


def damaged(what: str) -> EngineError:
    """The refusal of a file whose headers contradict each other."""
    return EngineError("dataset_invalid", f"The Parquet file is damaged: {what}.", hint=HINT)


Fields = dict[int, "int | bytes | Fields | None"]


class _Compact:
    """Thrift's compact protocol: integers and structs are kept, all else is skipped."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def struct(self, depth: int = 0) -> Fields:
        """The fields of a struct by number."""
        if depth > _DEPTH:
            raise damaged("structs inside one another without end")
        fields: Fields = {}
        number = 0
        while (head := self._byte()) != _STOP:
            kind, step = head & 15, head >> 4
            number = number + step if step else self._zigzag()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int, *, element: bool = False) -> int | bytes | Fields | None:
        if kind in (_TRUE, _FALSE):
            return self._byte() if element else int(kind == _TRUE)
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _BYTE:
            self._skip(1)
        elif kind == _DOUBLE:
            self._skip(8)
        elif kind == _BINARY:
            self._skip(self._varint())
        elif kind in _LISTS:
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._value(head & 15, depth + 1, element=True)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._value(kinds >> 4, depth + 1, element=True)
                self._value(kinds & 15, depth + 1, element=True)
        else:
            raise damaged("a header of unknown types")
        return None

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise damaged("a header that does not end")
        self.place += 1
        return self._data[self.place - 1]

    def _skip(self, count: int) -> None:
        if count > len(self._data) - self.place:
            raise damaged("a header that does not end")
        self.place += count

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if not byte & 128:
                return value
            shift += 7
            if shift > 63:
                raise damaged("a number without end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


FORMAT = FileFormat("parquet", "dataset", (".parquet",), recognizes, check)
