"""The header of an npy array, read without numpy (format versions 1 to 3), so that the API can look at it."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError

MAGIC = b"\x93NUMPY"
_TYPE = re.compile(r"^[<>|=]?([biufcSUVMmO?])(\d*)(\[[\w/]+\])?$")


@dataclass(frozen=True)
class NpyHeader:
    """Type (numpy's array-interface string), order and shape of an array, and how many bytes stand before its data."""

    descr: str
    fortran_order: bool
    shape: tuple[int, ...]
    header_bytes: int

    @property
    def kind(self) -> str:
        """One letter: b i u f c S U V M m."""
        match = _TYPE.match(self.descr)
        return "b" if match is None or match[1] == "?" else match[1]

    @property
    def data_bytes(self) -> int:
        """Bytes that the array's data takes."""
        match = _TYPE.match(self.descr)
        width = int(match[2] or 1) if match else 1
        return math.prod(self.shape) * width * (4 if self.kind == "U" else 1)


def read_npy_header(stream: IO[bytes], name: str) -> NpyHeader:
    """Read a header from the start of `stream`; `name` is for messages.

    Raises `dataset_invalid` for what is no array or one of a structured type, `unsafe_format` for Python objects, and
    `tensor_limit_exceeded` for headers or ranks past the limits.
    """
    start = stream.read(8)
    if len(start) < 8 or not start.startswith(MAGIC) or start[6] not in (1, 2, 3):
        raise EngineError("dataset_invalid", f"Array {name!r} is not in npy format.", hint="Write the file with numpy.savez.")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > limits.MAX_HEADER_BYTES:
        raise EngineError(
            "tensor_limit_exceeded", f"Array {name!r} has a header of {length} bytes, the limit is {limits.MAX_HEADER_BYTES}."
        )
    raw = stream.read(length)
    damaged = EngineError("dataset_invalid", f"The header of array {name!r} is damaged.", hint="Write the file with numpy.savez.")
    if len(raw) < length or length > 65_536:
        raise damaged
    try:
        stated = ast.literal_eval(raw.decode("utf-8" if start[6] == 3 else "latin1"))
        descr, fortran, shape = stated["descr"], stated["fortran_order"], stated["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise damaged from error
    if not isinstance(descr, str):
        raise EngineError("dataset_invalid", f"Array {name!r} has a structured type.", hint="Store plain numbers, one array an input.")
    if "O" in descr:
        raise EngineError(
            "unsafe_format",
            f"Array {name!r} holds Python objects, which would have to be unpickled.",
            hint="Store numbers: numpy.asarray(values, dtype=numpy.float32), padded to one length.",
        )
    plain = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape) and isinstance(fortran, bool)
    if not plain or _TYPE.match(descr) is None or (_TYPE.match(descr) or "")[1] == "O":
        raise damaged
    if len(shape) > limits.MAX_RANK:
        raise EngineError("tensor_limit_exceeded", f"Array {name!r} has {len(shape)} dimensions, the limit is {limits.MAX_RANK}.")
    return NpyHeader(descr, fortran, shape, 8 + width + length)
