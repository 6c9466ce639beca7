"""Reads files of weights in few bits: indices into a small table of levels, as plain bits or as a Huffman code.

    network = modelpress.runtime.packed.open("step0-packed.safetensors")
    network.weights()                     # arrays by name; numpy is enough
    network.run({"input": images})        # needs onnxruntime

The file is a safetensors file. Every stored tensor of the network stands under its own name, or as `<name>.indices` (bytes), `<name>.levels` (the
numbers that indices stand for) and, where every channel is scaled, `<name>.scale`. The metadata say for each of the latter its shape, the
number of bits of an index, its encoding and the dimension that the scale belongs to. `network.onnx` is the graph without its weights.

* `bits`: indices of 1, 2, 4 or 8 bits in row-major order, the first one in the highest bits of a byte; the last byte is filled with zeros.
* `huffman`: a canonical Huffman code. `<name>.lengths` has the length of each index's code, 0 where there is none; codes of one length count up
  with the index, shorter codes come first. The code is cut into blocks of `block` indices, the last one shorter; `<name>.starts` has the bit at
  which each starts.
* `gaps`: of a tensor that is mostly zero. `<name>.gaps.*` is a Huffman code of how many zeros stand before each kept weight (255: as many
  zeros and no weight), and `<name>.*` one of the kept weights' indices, which leave out that of zero.
"""

from __future__ import annotations

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelpress.runtime.manifest import ArtifactError

FORMAT = "modelpress.packed/1"
GRAPH = "network.onnx"
MOST_CODE_BITS = 15
"""No code of the Huffman encoding is longer."""
FILLER = 255
"""In `gaps`: so many zeros, and no weight after them."""
_DTYPES = {"F32": "<f4", "U8": "u1", "U32": "<u4"}
_MOST_ELEMENTS = 2**34
Array = NDArray[Any]


def open(path: str | PathLike[str], *, threads: int = 1) -> Packed:
    """The file at `path`, to be run by so many threads. Raises `ArtifactError` where it is no such file, or contradicts itself."""
    path = Path(path)
    try:
        stored, metadata = _safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ArtifactError(f"{path.name} is no file of packed weights: its metadata do not name the format {FORMAT}")
        return Packed(path, stored, json.loads(metadata["tensors"]), threads)
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no file {path.name} in {path.parent}") from error
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise error if isinstance(error, ArtifactError) else ArtifactError(f"{path.name} cannot be read: {error}") from error


class Packed:
    """A network whose weights are stored in few bits."""

    def __init__(self, path: Path, stored: dict[str, Array], packed: dict[str, dict[str, Any]], threads: int) -> None:
        self.path, self._stored, self._packed, self._threads = path, stored, packed, threads
        self._session: Any = None

    @property
    def bits(self) -> dict[str, int]:
        """Bits of an index, by the name of the packed tensor."""
        return {name: int(about["bits"]) for name, about in self._packed.items()}

    def indices(self, name: str) -> NDArray[np.uint8]:
        """The index of every weight of a packed tensor, in its shape."""
        about = self._packed[name]
        return _indices(name, about, self._stored).reshape(about["shape"])

    def levels(self, name: str) -> NDArray[np.float32]:
        """The numbers that the indices of a packed tensor stand for."""
        found: NDArray[np.float32] = self._stored[f"{name}.levels"]
        return found

    def weights(self) -> dict[str, Array]:
        """Every stored tensor of the network as an array, by the name that it has in the ONNX file."""
        parts = {f"{name}." for name in self._packed}
        found = {
            name: value
            for name, value in self._stored.items()
            if name != GRAPH and not any(name.startswith(part) and name.removeprefix(part) in _PARTS for part in parts)
        }
        try:
            return found | {name: self._weight(name) for name in self._packed}
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"{self.path.name} contradicts itself: {error}") from error

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """The outputs of the network, in their order, by ONNX Runtime; the weights are unpacked on the first call."""
        if self._session is None:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.intra_op_num_threads = self._threads
            names, values = [], []
            for name, value in self.weights().items():
                names.append(name)
                values.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
            options.add_external_initializers(names, values)
            self._session = ort.InferenceSession(self._stored[GRAPH].tobytes(), options, providers=["CPUExecutionProvider"])
        found: list[Array] = self._session.run(None, inputs)
        return found

    def _weight(self, name: str) -> NDArray[np.float32]:
        about = self._packed[name]
        values = self.levels(name)[self.indices(name)]
        if about.get("axis") is None:
            return values
        shape = [1] * values.ndim
        shape[int(about["axis"])] = -1
        scaled: NDArray[np.float32] = values * self._stored[f"{name}.scale"].reshape(shape)
        return scaled


_PARTS = frozenset(
    ["indices", "levels", "scale", "lengths", "starts", "gaps.indices", "gaps.lengths", "gaps.starts"],
)


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """`count` numbers of 1, 2, 4 or 8 bits each, the first in the highest bits of a byte."""
    if bits not in (1, 2, 4, 8) or len(packed) != -(-count * bits // 8):
        raise ValueError(f"{len(packed)} bytes are not {count} numbers of {bits} bits")
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    numbers: NDArray[np.uint8] = ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count]
    return numbers


def canonical(lengths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The canonical Huffman codes of symbols with the given code lengths (0: none), in the low bits."""
    codes = np.zeros(len(lengths), np.uint32)
    code, before = 0, 0
    for symbol in sorted(np.flatnonzero(lengths).tolist(), key=lambda symbol: (int(lengths[symbol]), symbol)):
        code <<= int(lengths[symbol]) - before
        before = int(lengths[symbol])
        codes[symbol] = code
        code += 1
    return codes


def huffman_decode(
    packed: NDArray[np.uint8], lengths: NDArray[np.uint8], starts: NDArray[np.uint32], block: int, count: int
) -> NDArray[np.uint8]:
    """`count` symbols of a canonical Huffman code in blocks; all blocks are read side by side, one symbol of each at a time.

    Raises ValueError where the code does not fit.
    """
    if count == 0:
        return np.zeros(0, np.uint8)
    if block < 1 or len(starts) != -(-count // block) or lengths.max(initial=0) > MOST_CODE_BITS or not lengths.any():
        raise ValueError("the Huffman code contradicts its own description")
    table, width = _table(lengths)
    bits = np.concatenate([np.asarray(packed, np.uint32), np.zeros(4, np.uint32)])
    places = starts.astype(np.int64)
    result = np.zeros((len(starts), block), np.uint8)
    last = 8 * len(packed)
    for step in range(min(block, count)):
        alive = len(starts) if step < (count - 1) % block + 1 else len(starts) - 1
        byte, shift = places[:alive] >> 3, (places[:alive] & 7).astype(np.uint32)
        if alive and int(places[:alive].max()) >= last:
            raise ValueError("the Huffman code ends too early")
        window = (bits[byte] << np.uint32(16)) | (bits[byte + 1] << np.uint32(8)) | bits[byte + 2]
        window = (window >> (np.uint32(24 - width) - shift)) & np.uint32(2**width - 1)
        symbols = table[window]
        result[:alive, step] = symbols
        places[:alive] += lengths[symbols]
    return result.reshape(-1)[:count]


def _table(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """The symbol by the next `width` bits."""
    width = int(lengths.max())
    table = np.zeros(2**width, np.uint8)
    codes = canonical(lengths)
    for symbol in np.flatnonzero(lengths).tolist():
        free = width - int(lengths[symbol])
        first = int(codes[symbol]) << free
        if first + (1 << free) > 2**width:
            raise ValueError("the code lengths are those of no prefix code")
        table[first : first + (1 << free)] = symbol
    return table, width


def _indices(name: str, about: dict[str, Any], stored: dict[str, Array]) -> NDArray[np.uint8]:
    count = math.prod(int(size) for size in about["shape"])
    if not 0 <= count <= _MOST_ELEMENTS:
        raise ValueError(f"{name} has {count} elements")
    if about["encoding"] == "bits":
        return unpack_bits(stored[f"{name}.indices"], int(about["bits"]), count)
    if about["encoding"] == "huffman":
        return _coded(name, stored, int(about["block"]), count)
    if about["encoding"] != "gaps":
        raise ValueError(f"{name} has the unknown encoding {about['encoding']!r}")
    gaps = _coded(f"{name}.gaps", stored, int(about["block"]), int(about["gaps"]))
    kept = gaps != FILLER
    places = np.cumsum(gaps.astype(np.int64) + kept) - 1
    values = _coded(name, stored, int(about["block"]), int(kept.sum()))
    if kept.any() and int(places[kept][-1]) >= count:
        raise ValueError(f"{name} has weights beyond its shape")
    result = np.full(count, int(about["zero"]), np.uint8)
    result[places[kept]] = values
    return result


def _coded(name: str, stored: dict[str, Array], block: int, count: int) -> NDArray[np.uint8]:
    return huffman_decode(stored[f"{name}.indices"], stored[f"{name}.lengths"], stored[f"{name}.starts"], block, count)


def _safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= len(data) - 8:
        raise ValueError("it is no safetensors file")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = memoryview(data)[8 + length :]
    found = {}
    for name, entry in header.items():
        start, stop = (int(place) for place in entry["data_offsets"])
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(int(size) for size in entry["shape"])
        if not 0 <= start <= stop <= len(body) or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the tensor {name} lies outside of the file")
        found[name] = np.frombuffer(body[start:stop], dtype).reshape(shape)
    return found, metadata
