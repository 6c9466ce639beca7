"""Writes the file of weights in few bits that `modelpress.runtime.packed` reads: see there for its form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file

from engine.contract.json import JsonObject
from engine.formats import huffman
from engine.formats.onnx.packed import Indexed, pack_bits
from engine.formats.safetensors.header import sort_metadata
from modelpress.runtime.packed import FILLER, FORMAT, GRAPH

Parts = dict[str, NDArray[Any]]
_SMALL = 16
"""Constants of so few elements stay in the graph."""


def save_packed(path: Path, model: onnx.ModelProto, weights: Mapping[str, Indexed], *, entropy_coded: bool) -> dict[str, int]:
    """Write a float ONNX network, its named weights in few bits; `entropy_coded` takes the shortest of all encodings.

    Returns:
        Bytes of each packed weight, levels and scales included.
    """
    tensors: Parts = {}
    about: dict[str, JsonObject] = {}
    sizes: dict[str, int] = {}
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for item in graph.graph.initializer:
        if item.name in weights:
            parts, stated = _packed(weights[item.name], entropy_coded=entropy_coded)
            sizes[item.name] = sum(part.nbytes for part in parts.values())
            tensors |= {f"{item.name}.{part}": value for part, value in parts.items()}
            about[item.name] = stated
        elif item.data_type == TensorProto.FLOAT and np.prod(item.dims) > _SMALL:
            tensors[item.name] = np.ascontiguousarray(numpy_helper.to_array(item))
        else:
            continue
        _make_external(item)
    tensors[GRAPH] = np.frombuffer(graph.SerializeToString(), np.uint8)
    save_file(tensors, path, metadata={"format": FORMAT, "tensors": json.dumps(about, sort_keys=True)})
    sort_metadata(path)
    return sizes


def _make_external(item: onnx.TensorProto) -> None:
    """Leave name, type and shape; the runtime is given the values by whoever opens the graph."""
    item.ClearField("raw_data")
    item.ClearField("float_data")
    item.data_location = TensorProto.EXTERNAL
    del item.external_data[:]
    item.external_data.add(key="location", value="packed")


def _packed(weight: Indexed, *, entropy_coded: bool) -> tuple[Parts, JsonObject]:
    parts: Parts = {"levels": np.asarray(weight.levels, np.float32)}
    stated: JsonObject = {"shape": list(weight.indices.shape), "bits": weight.bits, "encoding": "bits"}
    if weight.scale is not None:
        parts["scale"] = np.asarray(weight.scale, np.float32).reshape(-1)
        stated["axis"] = weight.axis
    plain: tuple[Parts, JsonObject] = ({"indices": pack_bits(weight.indices, weight.bits)}, {})
    candidates = [plain]
    if entropy_coded and weight.indices.size:
        candidates += [_coded(weight.indices.reshape(-1)), *_gaps(weight)]
    best, more = min(candidates, key=lambda found: sum(part.nbytes for part in found[0].values()))
    return parts | best, stated | more


def _coded(symbols: NDArray[np.uint8]) -> tuple[Parts, JsonObject]:
    code = huffman.encode(symbols)
    parts: Parts = {"indices": code.indices, "lengths": code.lengths, "starts": code.starts}
    return parts, {"encoding": "huffman", "block": huffman.BLOCK}


def _gaps(weight: Indexed) -> list[tuple[Parts, JsonObject]]:
    """A tensor whose zeros are counted instead of stored (Han et al., Deep Compression, ICLR 2016, section 2)."""
    zeros = np.flatnonzero(weight.levels == 0)
    symbols = weight.indices.reshape(-1)
    if len(zeros) != 1 or 2 * int((symbols == zeros[0]).sum()) <= symbols.size:
        return []
    places = np.flatnonzero(symbols != zeros[0])
    gaps = np.diff(places, prepend=-1) - 1
    fillers, rest = np.divmod(gaps, FILLER)
    counts = fillers + 1
    numbers = np.full(int(counts.sum()), FILLER, np.uint8)
    numbers[np.cumsum(counts) - 1] = rest
    before, after = huffman.encode(numbers), huffman.encode(symbols[places])
    parts: Parts = {"indices": after.indices, "lengths": after.lengths, "starts": after.starts}
    parts |= {"gaps.indices": before.indices, "gaps.lengths": before.lengths, "gaps.starts": before.starts}
    return [(parts, {"encoding": "gaps", "block": huffman.BLOCK, "gaps": len(numbers), "zero": int(zeros[0])})]
