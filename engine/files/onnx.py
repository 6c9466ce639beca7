"""The outline of an ONNX file, read from the protobuf wire format by seeking: nothing is parsed, nothing is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files.effort import spend

_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field number → wire type of onnx.ModelProto."""
_GRAPH, _OPSET_IMPORT, _INITIALIZER, _EXTERNAL_DATA, _DATA_LOCATION = 7, 8, 5, 13, 14
_MAX_PROTOBUF_BYTES = 2**31 - 1
_TRUNCATED = "The file ends in the middle of the model."


def looks_like_model(first: bytes) -> bool:
    """Whether the first bytes can begin a ModelProto: a known field with its wire type, of a plausible value."""
    if len(first) < 2:
        return False
    number, kind = first[0] >> 3, first[0] & 7
    if _MODEL_FIELDS.get(number) != kind:
        return False
    if number == 1:
        return 0 < first[1] < 64 and (len(first) < 3 or _MODEL_FIELDS.get(first[2] >> 3) == first[2] & 7 or first[2] & 0x80 != 0)
    return kind == 0 or first[1] > 0


def check(stream: IO[bytes], size: int) -> None:
    """Walk the file's fields to its very end, and the initializers' for external data.

    Raises `truncated_upload`, `model_invalid`, `external_data_forbidden`, `tensor_limit_exceeded`.
    """
    check_outline(stream, size, external=False)


def check_outline(stream: IO[bytes], size: int, *, external: bool) -> None:
    """The same; with `external`, weights may stand in other files."""
    if size > _MAX_PROTOBUF_BYTES:
        raise EngineError("tensor_limit_exceeded", f"The file has {size} bytes; an ONNX file holds at most {_MAX_PROTOBUF_BYTES}.")
    graphs = opsets = 0
    for number, kind, start, end in _fields(stream, 0, size):
        if _MODEL_FIELDS.get(number) != kind:
            raise EngineError("model_invalid", f"The file is no ONNX model: it has field {number} of wire type {kind}.")
        graphs += number == _GRAPH
        opsets += number == _OPSET_IMPORT
        if number == _GRAPH:
            _check_graph(stream, start, end, external=external)
    if not graphs:
        raise EngineError("truncated_upload" if not opsets else "model_invalid", "The file holds no graph.", hint="Upload the file again.")
    if not opsets:
        raise EngineError(
            "truncated_upload", "The file names no operator set, which stands after the graph.", hint="Upload the file again."
        )


def _check_graph(stream: IO[bytes], start: int, end: int, *, external: bool) -> None:
    tensors = 0
    for number, kind, first, last in _fields(stream, start, end):
        if number != _INITIALIZER or kind != 2:
            continue
        tensors += 1
        if tensors > limits.MAX_TENSORS:
            raise EngineError("tensor_limit_exceeded", f"The graph has more than {limits.MAX_TENSORS} initializers.")
        for inner, inner_kind, _, _ in () if external else _fields(stream, first, last):
            if inner == _EXTERNAL_DATA or (inner == _DATA_LOCATION and inner_kind == 0 and _varint_before(stream)):
                raise external_data_forbidden()


def external_data_forbidden() -> EngineError:
    """The refusal of weights that stand in another file."""
    return EngineError(
        "external_data_forbidden",
        "The model keeps weights in another file (external data).",
        hint="Zip both files and upload the archive; or write one: torch.onnx.export(..., external_data=False); or, beside the .data file: "
        "onnx.save(onnx.load('model.onnx'), 'single.onnx').",
    )


def _varint_before(stream: IO[bytes]) -> bool:
    """Whether the varint that ends where the stream stands is not zero."""
    position = stream.tell()
    stream.seek(position - 1)
    return stream.read(1) != b"\x00"


def _fields(stream: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, first byte, byte past the last) of each field between two offsets."""
    position = start
    while position < end:
        spend()
        stream.seek(position)
        head = stream.read(min(20, end - position))
        tag, after = _varint(head, 0)
        kind = tag & 7
        if kind == 0:
            _, after = _varint(head, after)
            first = last = position + after
        elif kind == 2:
            length, after = _varint(head, after)
            first, last = position + after, position + after + length
        elif kind in (1, 5):
            first, last = position + after, position + after + (8 if kind == 1 else 4)
        else:
            raise EngineError("model_invalid", f"The file is no ONNX model: wire type {kind} at byte {position}.")
        if last > end:
            raise EngineError("truncated_upload", _TRUNCATED, hint="Upload the file again.")
        stream.seek(last if kind == 0 else first)
        yield tag >> 3, kind, first, last
        position = last


def _varint(data: bytes, index: int) -> tuple[int, int]:
    value = shift = 0
    while index < len(data) and shift < 70:
        byte = data[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
        shift += 7
    raise EngineError("truncated_upload", _TRUNCATED, hint="Upload the file again.")


FORMAT = FileFormat("onnx", "model", (".onnx",), looks_like_model, check, vague=True)
