"""One ONNX file that holds a network with several settings (widths, say): the largest runs as it is, the others are cut out of it.

The graph of the file is the first setting's, which any runtime loads. Two entries of `metadata_props` hold the rest: `modelpress.settings`,
and `modelpress.tensors`, the values that a setting has for itself, in base64. The first is base64 of zlib of a JSON document, a zero
byte, and the graphs of all other settings one behind the other, each a ModelProto without initializers:

    {"version": 1, "places": [[[0, 8], [12, 16]], …], "settings": [{"name": "width 1", "values": {"width": 1.0}}, {"name": "width 0.5",
     "values": {"width": 0.5}, "graph_bytes": 2745, "tensors": [["w", "w", {"0": 3}], ["b", 128, [8], 1], ["s", 160, 64]]}]}

A tensor `[name, source, keep]` is the part of the file's initializer `source` that keeps of each dimension named the places whose number
in `places` is given, as ranges; `[name, start, shape, type]` are raw values in `modelpress.tensors`, and `[name, start, length]` is a
TensorProto there, of types that are not whole bytes. Nothing but numpy is needed, and a file is only read where a tensor is.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelpress.runtime.manifest import ArtifactError

SETTINGS_KEY, TENSORS_KEY = "modelpress.settings", "modelpress.tensors"
VERSION = 1
MOST_DOCUMENT_BYTES = 64 * 2**20
"""Of the JSON document and the graphs: what a file claims is not believed beyond this."""
_MOST_TIMES = 2
"""A setting is a part of the file; weights that two layers share may be written twice."""
Bytes = bytes | memoryview
_GRAPH, _METADATA, _INITIALIZER = 7, 14, 5
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2, 17: 1, 18: 1, 19: 1, 20: 1}
"""Size of one element by ONNX's number of the type, where it is whole bytes."""


@dataclass(frozen=True)
class Entry:
    """One setting of the file."""

    name: str
    values: dict[str, float | str]
    model: Bytes | None
    """The ModelProto without initializers; None for the setting that the file runs as it is."""
    tensors: list[list[Any]]


class SettingsFile:
    """A file with several settings. Raises `ArtifactError` where it is none, or one that was changed."""

    def __init__(self, data: Bytes) -> None:
        self._data = memoryview(data)
        self._model = list(fields(self._data, 0, len(self._data)))
        entries = {}
        for number, kind, first, last in self._model:
            if number == _METADATA and kind == 2:
                pair = {inner: (start, end) for inner, _, start, end in fields(self._data, first, last)}
                key = bytes(self._data[slice(*pair.get(1, (0, 0)))])
                entries[key.decode(errors="replace")] = pair.get(2, (0, 0))
        if SETTINGS_KEY not in entries or TENSORS_KEY not in entries:
            raise ArtifactError("the file has one setting only: it runs as it is")
        document, graphs = _document(bytes(self._data[slice(*entries[SETTINGS_KEY])]))
        try:
            self.settings = list(_entries(document["settings"], memoryview(graphs)))
            self._places = [self._expanded(ranges) for ranges in document["places"]]
            self._own = base64.b64decode(bytes(self._data[slice(*entries[TENSORS_KEY])]), validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the description of the file's settings is damaged: {error}") from error

    def _expanded(self, ranges: list[list[int]]) -> NDArray[np.int64]:
        """Places from ranges; no dimension is longer than the file."""
        if not all(0 <= start < stop <= len(self._data) for start, stop in ranges) or sum(b - a for a, b in ranges) > len(self._data):
            raise ValueError("a range of places is outside of every tensor")
        return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges])

    def setting(self, name: str | None = None, **values: float | str) -> Entry:
        """The setting with a name, or with the given values, such as `width=0.5`. Raises `ArtifactError` where there is none."""
        for entry in self.settings:
            if (name is None or entry.name == name) and all(_same(entry.values.get(key), value) for key, value in values.items()):
                return entry
        wanted = name or ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())
        raise ArtifactError(f"the file has no setting {wanted}; it has {', '.join(entry.name for entry in self.settings)}")

    def cut(self, entry: Entry) -> Iterator[Bytes]:
        """A plain ONNX file of one setting, in pieces that are to be written one after the other."""
        if entry.model is None:
            for number, kind, first, last in self._model:
                if not (number == _METADATA and self._is_ours(first, last)):
                    yield from _field(number, kind, self._data[first:last])
            return
        model = memoryview(entry.model)
        initializers = self._initializers()
        pieces: list[Bytes] = []
        size = 0
        for tensor in entry.tensors:
            pieces += self._tensor(tensor, initializers)
            size += sum(len(piece) for piece in pieces[-2:])
            if size > _MOST_TIMES * len(self._data):
                raise ArtifactError(f"the setting {entry.name!r} claims to be larger than the file that it is a part of")
        for number, kind, first, last in fields(model, 0, len(model)):
            if number != _GRAPH:
                yield from _field(number, kind, model[first:last])
                continue
            yield tag(_GRAPH, 2) + varint(last - first + size)
            yield model[first:last]
            yield from pieces

    def _is_ours(self, first: int, last: int) -> bool:
        keys = [bytes(self._data[start:end]) for number, _, start, end in fields(self._data, first, last) if number == 1]
        return bool(keys) and keys[0].decode(errors="replace") in (SETTINGS_KEY, TENSORS_KEY)

    def _initializers(self) -> dict[str, tuple[int, int]]:
        """Where each initializer of the file's graph begins and ends, by name."""
        found = {}
        for number, kind, first, last in self._model:
            if number == _GRAPH and kind == 2:
                for inner, inner_kind, start, end in fields(self._data, first, last):
                    if inner == _INITIALIZER and inner_kind == 2:
                        found[tensor_name(self._data, start, end)] = (start, end)
        return found

    def _tensor(self, tensor: list[Any], initializers: dict[str, tuple[int, int]]) -> list[Bytes]:
        name, source, more, *kind = tensor
        if kind:
            if any(size < 0 for size in more):
                raise ArtifactError(f"the shape of the file's own tensor {name!r} is damaged")
            return _written(name, more, kind[0], self._owned(name, source, ITEM_BYTES.get(kind[0], 0) * math.prod(more)))
        if isinstance(source, int):
            return [tag(_INITIALIZER, 2) + varint(more), self._owned(name, source, more)]
        if source not in initializers:
            raise ArtifactError(f"the file has no tensor {source!r} that {name!r} could be cut from")
        dims, type_, raw = read_tensor(self._data, *initializers[source])
        keep = {int(dimension): self._places[number] for dimension, number in more.items()}
        part, shape = sliced(raw, dims, type_, keep, name)
        return _written(name, shape, type_, part)

    def _owned(self, name: str, start: int, length: int) -> memoryview:
        own = memoryview(self._own)[start : start + length]
        if start < 0 or len(own) != length:
            raise ArtifactError(f"the file's own tensor {name!r} is cut off")
        return own


def _entries(listed: list[dict[str, Any]], graphs: memoryview) -> Iterator[Entry]:
    position = 0
    for item in listed:
        model = None
        if "graph_bytes" in item:
            start, position = position, position + item["graph_bytes"]
            model = graphs[start:position]
            if not start <= position <= len(graphs):
                raise ValueError("a graph is cut off")
        yield Entry(item["name"], item["values"], model, item.get("tensors", []))


def _written(name: str, shape: Sequence[int], type_: int, content: Bytes) -> list[Bytes]:
    """A field of a graph that holds a TensorProto: what stands before its raw values, and these."""
    encoded = name.encode()
    head = b"".join(
        (*(tag(_DIMS, 0) + varint(size) for size in shape), tag(_TYPE, 0), varint(type_), tag(_NAME, 2), varint(len(encoded)), encoded)
    )
    head += tag(_RAW, 2) + varint(len(content))
    return [tag(_INITIALIZER, 2) + varint(len(head) + len(content)) + head, content]


def sliced(raw: Bytes, dims: Sequence[int], type_: int, keep: dict[int, NDArray[np.int64]], name: str) -> tuple[Bytes, tuple[int, ...]]:
    """The kept part of a tensor's bytes, and its shape."""
    if not keep:
        return raw, tuple(dims)
    size = ITEM_BYTES.get(type_)
    if size is None or len(raw) != size * int(np.prod(dims, dtype=np.int64)):
        raise ArtifactError(f"the tensor that {name!r} is cut from is not stored as raw bytes of its shape")
    values = np.frombuffer(raw, dtype=np.dtype((np.void, size))).reshape(dims)
    for dimension, places in keep.items():
        if not 0 <= dimension < len(dims) or not len(places) or int(places.min()) < 0 or int(places.max()) >= dims[dimension]:
            raise ArtifactError(f"the places that {name!r} keeps are outside of the tensor")
        values = values.take(places, axis=dimension)
    return memoryview(values.tobytes()), values.shape


def read_tensor(data: memoryview, first: int, last: int) -> tuple[list[int], int, memoryview]:
    """Shape, type and raw bytes of a TensorProto."""
    dims: list[int] = []
    type_, raw = 0, data[0:0]
    for number, kind, start, end in fields(data, first, last):
        if number == _DIMS and kind == 0:
            dims.append(read_varint(data, start)[0])
        elif number == _DIMS and kind == 2:
            position = start
            while position < end:
                size, position = read_varint(data, position)
                dims.append(size)
        elif number == _TYPE and kind == 0:
            type_ = read_varint(data, start)[0]
        elif number == _RAW and kind == 2:
            raw = data[start:end]
    return dims, type_, raw


def tensor_name(data: memoryview, first: int, last: int) -> str:
    """Name of a TensorProto."""
    return next((bytes(data[start:end]).decode() for number, _, start, end in fields(data, first, last) if number == _NAME), "")


def fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first byte and byte past the last of each field of a protobuf message. Raises `ArtifactError`."""
    while position < end:
        key, position = read_varint(data, position)
        kind, first = key & 7, position
        if kind == 0:
            _, last = read_varint(data, position)
        elif kind == 2:
            length, first = read_varint(data, position)
            last = first + length
        elif kind in (1, 5):
            last = position + (8 if kind == 1 else 4)
        else:
            raise ArtifactError(f"the file is no ONNX model: wire type {kind} at byte {position}")
        if last > end:
            raise ArtifactError("the file ends in the middle of the model")
        yield key >> 3, kind, first, last
        position = last


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A variable-length number, and the byte past it."""
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ArtifactError("the file ends in the middle of the model")


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def tag(number: int, kind: int) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | kind)


def _field(number: int, kind: int, content: memoryview) -> Iterator[Bytes]:
    yield tag(number, kind) + (varint(len(content)) if kind == 2 else b"")
    yield content


def _document(stored: bytes) -> tuple[dict[str, Any], bytes]:
    """What is said of the settings, and their graphs."""
    try:
        inflating = zlib.decompressobj()
        text, _, graphs = inflating.decompress(base64.b64decode(stored, validate=True), MOST_DOCUMENT_BYTES).partition(b"\0")
        if inflating.unconsumed_tail:
            raise ArtifactError("the description of the file's settings is too large")
        document = json.loads(text)
    except (binascii.Error, zlib.error, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the description of the file's settings is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ArtifactError(f"the settings of the file have another version than {VERSION}, which this version of modelpress reads")
    return document, graphs


def _same(found: float | str | None, wanted: float | str) -> bool:
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return abs(found - wanted) <= 1e-9
    return found == wanted


def open_settings(path: Path) -> SettingsFile:
    """The file at `path`, whose tensors are read where they are needed."""
    return SettingsFile(np.memmap(path, dtype=np.uint8, mode="r").data)
