"""Channels between two layers are made alike in size: what one layer gives is divided by a factor, and the next one multiplies by it.

What stands between them must not mind: Relu, LeakyRelu and pooling give the same for a scaled input, scaled. So the network computes what it
did, and one range for all channels loses less. Source: Nagel et al., Data-Free Quantization, ICCV 2019, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.index import Index

Array = NDArray[np.float64]
_BETWEEN = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Relu"})
_SWEEPS = 10
_SETTLED = 1.01
_SMALLEST = 1e-8


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads what the first gives."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalize(graph: Path, excluded: set[str]) -> int:
    """Equalize every pair of layers of a float graph, which is written anew; returns how many pairs there are."""
    model = onnx.load(graph)
    index = Index(model)
    found = [pair for node in index.nodes if (pair := _pair(index, node, excluded)) is not None]
    if not found:
        return 0
    weights = {name: numpy_helper.to_array(index.constants[name]).astype(np.float64) for name in _tensors(found)}
    for _ in range(_SWEEPS):
        largest = max(_balance(pair, weights) for pair in found)
        if largest < _SETTLED:
            break
    for name, values in weights.items():
        index.constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, graph)
    return len(found)


def _tensors(pairs: list[Pair]) -> set[str]:
    names = {node.input[1] for pair in pairs for node in (pair.first, pair.second)}
    return names | {pair.first.input[2] for pair in pairs if len(pair.first.input) > 2 and pair.first.input[2]}


def _pair(index: Index, node: onnx.NodeProto, excluded: set[str]) -> Pair | None:
    if not _is_layer(index, node, excluded):
        return None
    reader = index.only_reader(node.output[0])
    while reader is not None and reader.op_type in _BETWEEN and reader.domain in ("", "ai.onnx"):
        reader = index.only_reader(reader.output[0])
    if reader is None or not _is_layer(index, reader, excluded) or (node.op_type == "Conv") != (reader.op_type == "Conv"):
        return None
    outputs, inputs = _outputs(index, node), _inputs(index, reader)
    return Pair(node, reader) if inputs is not None and outputs == inputs else None


def _is_layer(index: Index, node: onnx.NodeProto, excluded: set[str]) -> bool:
    """Whether a node is a convolution or a Gemm whose weight and bias are its own."""
    if node.op_type not in ("Conv", "Gemm") or node.domain not in ("", "ai.onnx") or node.name in excluded:
        return False
    names = [name for name in node.input[1:] if name]
    if any(name not in index.constants or index.only_reader(name) is None or not index.is_float(name) for name in names):
        return False
    if node.input[0] in index.constants or int_attribute(node, "transA"):
        return False
    biases = [index.constants[name] for name in names[1:]]
    return all(list(item.dims) == [_outputs(index, node)] for item in biases)


def _outputs(index: Index, node: onnx.NodeProto) -> int:
    dims = list(index.constants[node.input[1]].dims)
    return int(dims[1] if node.op_type == "Gemm" and not int_attribute(node, "transB") else dims[0])


def _inputs(index: Index, node: onnx.NodeProto) -> int | None:
    """Channels that a layer reads; None of convolutions in groups of several channels."""
    dims, groups = list(index.constants[node.input[1]].dims), int_attribute(node, "group", 1)
    if node.op_type == "Gemm":
        return int(dims[1] if int_attribute(node, "transB") else dims[0])
    if groups == 1:
        return int(dims[1])
    return int(dims[0]) if dims[1] == 1 and dims[0] == groups else None


def _by_output(node: onnx.NodeProto, weight: Array) -> Array:
    """A view whose first dimension counts what the layer gives."""
    return weight.T if node.op_type == "Gemm" and not int_attribute(node, "transB") else weight


def _by_input(node: onnx.NodeProto, weight: Array) -> Array:
    """A view whose first dimension counts what the layer reads."""
    if node.op_type == "Gemm":
        return weight.T if int_attribute(node, "transB") else weight
    return weight if int_attribute(node, "group", 1) > 1 else np.moveaxis(weight, 1, 0)


def _balance(pair: Pair, weights: dict[str, Array]) -> float:
    """Give both sides of every channel the same range; returns the largest factor."""
    left, right = _by_output(pair.first, weights[pair.first.input[1]]), _by_input(pair.second, weights[pair.second.input[1]])
    given, read = (np.abs(side.reshape(len(side), -1)).max(1) for side in (left, right))
    silent = (given < _SMALLEST) | (read < _SMALLEST)
    factors = np.where(silent, 1.0, np.sqrt(np.where(silent, 1.0, given) / np.where(silent, 1.0, read)))
    left /= factors.reshape(-1, *(1,) * (left.ndim - 1))
    right *= factors.reshape(-1, *(1,) * (right.ndim - 1))
    if len(pair.first.input) > 2 and pair.first.input[2]:
        weights[pair.first.input[2]] /= factors
    return float(np.maximum(factors, 1 / factors).max())
