"""Which constants of an ONNX graph are weights, quantized or not. Imports no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from engine.formats.onnx.checks import constant_tensors, inner_nodes
from engine.formats.onnx.importer.names import is_readable
from engine.formats.onnx.importer.patterns import Patterns

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "Einsum": (0, 1, 2),
    "FusedConv": (1, 2),
    "FusedMatMul": (0, 1),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "PRelu": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Inputs of a layer that are weights wherever they are constant, by operator."""

_ARITHMETIC = {"Add", "Concat", "Div", "Expand", "Mul", "Sub", "Where"}
"""Operators whose constants are weights where a person named them: position embeddings, class tokens, layer scales."""

_TRANSPARENT = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that hand their first input on, so that what reads a weight may stand behind them."""


@dataclass(frozen=True)
class Weight:
    """One constant of a graph that counts as parameters, and the nodes that read it."""

    size: int
    nonzero: int
    shape: tuple[int, ...]
    readers: tuple[str, ...]


def weight_tensors(model: onnx.ModelProto) -> dict[str, Weight]:
    """Every weight of a graph, by the name of its constant."""
    constants = constant_tensors(model)
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    spelled_out = Patterns(model.graph, constants).rewritten()
    inner = [item for node in model.graph.node for item in inner_nodes(node)]
    for node in (*spelled_out, *inner):
        for index, name in enumerate(node.input):
            readers[name].append((node, index))
    found = {}
    for name, tensor in constants.items():
        effective = _effective_readers(name, readers)
        packed = next((node for node, index in effective if node.op_type == "MatMulNBits" and index == 1), None)
        if packed is not None:
            size = int_attribute(packed, "N") * int_attribute(packed, "K")
            found[name] = Weight(size, size, (int_attribute(packed, "N"), int_attribute(packed, "K")), (packed.output[0],))
            continue
        names = tuple(node.output[0] for node, index in effective if _is_weight(name, tensor, node, index))
        if names:
            array = onnx.numpy_helper.to_array(tensor)
            nonzero = _nonzero(array, _zero_point(name, readers, constants))
            copies = len(names) if array.ndim == 1 and nonzero in (0, array.size) and bool((array == array[0]).all()) else 1
            found[name] = Weight(array.size * copies, nonzero * copies, array.shape, names)
    return found


def _is_weight(name: str, tensor: onnx.TensorProto, node: onnx.NodeProto, index: int) -> bool:
    if index in _WEIGHTS.get(node.op_type, ()):
        return node.op_type != "Gather" or (len(tensor.dims) > 1 and tensor.data_type != onnx.TensorProto.INT64)
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    if node.op_type not in _ARITHMETIC or tensor.data_type in integers or math.prod(tensor.dims) < 2:
        return False
    return is_readable(name.removesuffix("_quantized")) or (node.op_type == "Add" and len(tensor.dims) == 1)


def _effective_readers(name: str, readers: Mapping[str, list[tuple[onnx.NodeProto, int]]]) -> list[tuple[onnx.NodeProto, int]]:
    found, waiting, seen = [], [name], {name}
    while waiting:
        for node, index in readers.get(waiting.pop(), ()):
            if node.op_type not in _TRANSPARENT:
                found.append((node, index))
            elif index == 0 and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return found


def _zero_point(name: str, readers: Mapping[str, list[tuple[onnx.NodeProto, int]]], constants: Mapping[str, onnx.TensorProto]) -> Any:
    """The zero point beside a quantized constant, shaped to stand beside it; 0 where there is none."""
    positions = {"DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5), "QLinearMatMul": (3, 5)}
    for node, index in readers.get(name, ()):
        weight, zero = positions.get(node.op_type, (-1, -1))
        if index == weight and len(node.input) > zero and node.input[zero] in constants:
            point = onnx.numpy_helper.to_array(constants[node.input[zero]])
            rank = len(constants[name].dims)
            if point.ndim != 1 or point.size == 1 or rank < 2:
                return point.reshape(()) if point.size == 1 else point
            axis = (
                int_attribute(node, "axis", 1) % rank
                if node.op_type == "DequantizeLinear"
                else (rank - 1 if "MatMul" in node.op_type else 0)
            )
            return point.reshape([-1 if dim == axis else 1 for dim in range(rank)])
    return 0


def _nonzero(array: Any, zero_point: Any) -> int:
    if isinstance(zero_point, int) and zero_point == 0:
        return int(np.count_nonzero(array))
    try:
        return int(np.count_nonzero(array.astype(np.int64) != np.asarray(zero_point).astype(np.int64)))
    except ValueError:
        return int(array.size)


def int_attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node, or `default`."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)
