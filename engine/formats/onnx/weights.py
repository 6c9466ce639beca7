"""Which constants of an ONNX graph are weights, quantized or not, in the graph itself and in its subgraphs. Imports no torch.

What a constant is follows from what reads it, never from its name: exporters and quantizers fold, move and rename constants.
Longer than others, as one question is asked here: every kind of reader says what its inputs are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from engine.formats.onnx.flat import FlatGraph, FlatNode, subgraphs
from engine.formats.onnx.grouped import nonzero_in_groups

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Attention": (1, 2),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "DynamicQuantizeLSTM": (1, 2, 3, 7),
    "DynamicQuantizeMatMul": (1, 4),
    "Einsum": (0, 1, 2),
    "FusedConv": (1, 2),
    "FusedGemm": (1, 2),
    "FusedMatMul": (0, 1),
    "GRU": (1, 2, 3),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1, 6),
    "MatMulNBits": (1,),
    "PRelu": (1,),
    "QAttention": (1, 2),
    "QGemm": (3, 6),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Inputs that are weights wherever they are constant, of whatever type and size."""

_SETTINGS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "DynamicQuantizeLSTM": (4, *range(8, 12)),
    "DynamicQuantizeMatMul": (2, 3),
    "GatherBlockQuantized": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3, 4),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "QAttention": tuple(range(3, 9)),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
"""Inputs that say how an operator works: scales, zero points, running statistics, bounds. No constant is a weight there."""

_MOVING = frozenset(
    [
        "Cast",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that hand elements on unchanged, so that what computes with a weight may stand behind them."""

_RECURRENT = frozenset(["DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"])
_PACKED = frozenset(["MatMulBnb4", "MatMulFpQ4", "MatMulNBits", "QMoE"])
"""Operators whose constants hold several weights in one element; only MatMulNBits says how many."""
_FLOATS = frozenset([onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
_MASKED = 1e4
"""A constant of two values, one of them that large, masks attention."""


_LOOKUPS = frozenset(["Gather", "GatherBlockQuantized", "GatherElements", "GatherND"])
_BYTES = frozenset([onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4])


@dataclass(frozen=True)
class Weight:
    """One constant that counts as parameters, and the outputs of the main graph's nodes that read it.

    Sizes are None where it holds packed weights of a form that is not known here.
    """

    size: int | None
    nonzero: int | None
    shape: tuple[int, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class _Reader:
    """A node that computes with a constant, and the input at which it arrives."""

    node: FlatNode
    index: int
    is_real: bool
    """Whether real numbers arrive, if need be after dequantization."""
    is_carried: bool
    """Whether it is what a loop starts with."""


def weight_tensors(model: onnx.ModelProto) -> dict[str, Weight]:
    """Every weight of a graph, by the unique name of its constant (a name in a subgraph has a prefix)."""
    flat = FlatGraph.of(model)
    stored = flat.stored()
    scales = _scales(flat, stored) | _scaling_nothing(flat)
    weights = ((name, _weight(name, _readers(name, flat, stored), flat)) for name in flat.constants if name not in scales)
    return {name: weight for name, weight in weights if weight is not None}


def _weight(name: str, readers: list[_Reader], flat: FlatGraph) -> Weight | None:
    tensor = flat.constants[name]
    packed = next((reader.node for reader in readers if reader.node.kind in _PACKED and reader.index > 0), None)
    if packed is not None and packed.kind != "MatMulNBits":
        return Weight(None, None, tuple(tensor.dims), (packed.outer,))
    halves = [reader.node for reader in readers if reader.node.kind == "GatherBlockQuantized" and reader.index == 0]
    if halves and tensor.data_type == onnx.TensorProto.UINT8 and int_attribute(halves[0].proto, "bits", 4) != 8:
        return Weight(None, None, tuple(tensor.dims), (halves[0].outer,))
    found = [reader for reader in readers if _is_weight(tensor, reader)]
    if not found:
        return None
    outer = tuple(dict.fromkeys(reader.node.outer for reader in found))
    if packed is not None:
        shape = (int_attribute(packed.proto, "N"), int_attribute(packed.proto, "K"))
        return Weight(math.prod(shape), nonzero_in_groups(packed.proto, packed.inputs, flat.constants), shape, outer)
    array = onnx.numpy_helper.to_array(tensor)
    if halves:
        return Weight(array.size, nonzero_in_groups(halves[0].proto, halves[0].inputs, flat.constants), array.shape, outer)
    if all(reader.index not in _WEIGHTS.get(reader.node.kind, ()) for reader in found):
        if is_mask(array):
            return None
        if all(reader.is_carried or (reader.node.kind in _RECURRENT and reader.index in (5, 6)) for reader in found):
            array = _initial_state(array)
    if array.size == 0:
        return None
    nonzero = _nonzero(array, _zero_point(name, flat))
    repeated = array.ndim == 1 and nonzero in (0, array.size) and bool((array == array[0]).all())
    copies = len({(_layer(reader.node, flat), reader.index) for reader in found}) if repeated else 1
    return Weight(array.size * copies, None if nonzero is None else nonzero * copies, array.shape, outer)


def _layer(node: FlatNode, flat: FlatGraph) -> object:
    """Which layer a node is: products with one stored matrix are one layer, called more than once."""
    matrix = node.inputs[1] if node.kind in ("Conv", "ConvTranspose", "Gemm") else ""
    return matrix if matrix in flat.constants else id(node.proto)


def _is_weight(tensor: onnx.TensorProto, reader: _Reader) -> bool:
    node, index = reader.node, reader.index
    if index in _WEIGHTS.get(node.kind, ()) and (node.kind != "Attention" or node.domain == "com.microsoft"):
        return True
    if index in _SETTINGS.get(node.kind, ()) or _is_quantized_setting(node, index):
        return False
    if node.kind in _LOOKUPS and index == 0 and tensor.data_type in _BYTES:
        return len(tensor.dims) > 1
    return reader.is_real and math.prod(tensor.dims) > 1


def _is_quantized_setting(node: FlatNode, index: int) -> bool:
    """Scales and zero points of QLinear operators that have one tensor (x, scale, zero point) or many of them (QLinearConcat)."""
    if not node.kind.startswith("QLinear") or node.kind in _SETTINGS:
        return False
    return index % 3 != 2 if node.kind == "QLinearConcat" else index > 0


def _readers(name: str, flat: FlatGraph, stored: set[str]) -> list[_Reader]:
    """Nodes that compute with a constant and with something that is none, behind all that merely moves it or folds into it."""
    found: list[_Reader] = []
    waiting = [(name, flat.constants[name].data_type in _FLOATS, False)]
    seen = {name}
    while waiting:
        value, real, carried = waiting.pop()
        for node, index in flat.readers.get(value, ()):
            if subgraphs(node.proto) and not node.carries:
                continue  # What a loop is called with arrives inside of it.
            setting = index in _SETTINGS.get(node.kind, ()) or _is_quantized_setting(node, index)
            moved = node.kind in _MOVING and index == 0
            folded = real and not node.carries and all(output in stored for output in node.outputs if output)
            last = not any(flat.readers.get(output) for output in node.outputs)
            if setting or last or not (node.carries or moved or folded):
                found.append(_Reader(node, index, real, carried))
                continue
            arrives = (real or node.kind == "DequantizeLinear", carried or (node.carries and node.proto.op_type != "If"))
            waiting += [(output, *arrives) for output in node.outputs if output and output not in seen]
            seen.update(node.outputs)
    return found


def _scales(flat: FlatGraph, stored: set[str]) -> set[str]:
    """Constants that multiply an integer product back to real numbers, or the scale that quantized its other operand."""
    scales = {node.outputs[1] for node in flat.nodes if node.kind == "DynamicQuantizeLinear" and len(node.outputs) > 1}
    products = {node.outputs[0] for node in flat.nodes if node.kind in ("ConvInteger", "MatMulInteger")}
    made_from = {output: node.inputs for node in flat.nodes for output in node.outputs}
    found: set[str] = set()
    for node in flat.nodes:
        if node.kind in ("Cast", "Identity", "Reshape", "Transpose") and node.inputs and node.inputs[0] in products:
            products.add(node.outputs[0])
        elif node.kind == "Mul" and len(node.inputs) == 2:
            for one, other in (node.inputs, node.inputs[::-1]):
                if other in stored and (one in scales or one in products):
                    found.add(other)
                    (scales if one in scales else products).add(node.outputs[0])
    waiting = list(found)
    while waiting:
        behind = set(made_from.get(waiting.pop(), ())) - found
        found |= behind
        waiting += behind
    return found


def _scaling_nothing(flat: FlatGraph) -> set[str]:
    """Ones and zeros of instance normalizations whose results are scaled behind them, as group normalization of one channel a group is written."""
    found: set[str] = set()
    for node in flat.nodes:
        if node.kind != "InstanceNormalization" or not all(name in flat.constants for name in node.inputs[1:3]):
            continue
        scale, bias = (onnx.numpy_helper.to_array(flat.constants[name]) for name in node.inputs[1:3])
        behind = [reader for reader, _ in flat.readers[node.outputs[0]]]
        scaled = bool(behind) and all(reader.kind == "Mul" and not flat.constants.keys().isdisjoint(reader.inputs) for reader in behind)
        if scaled and (scale == 1).all() and not bias.any():
            found.update(node.inputs[1:3])
    return {name for name in found if all(reader.kind == "InstanceNormalization" for reader, _ in flat.readers[name])}


def _zero_point(name: str, flat: FlatGraph) -> Any:
    """The zero point beside a quantized constant, shaped to stand beside it; 0 where there is none."""
    positions = {
        "ConvInteger": (1, 3),
        "DequantizeLinear": (0, 2),
        "DynamicQuantizeMatMul": (1, 3),
        "MatMulInteger": (1, 3),
        "MatMulIntegerToFloat": (1, 5),
        "QGemm": (3, 5),
        "QLinearConv": (3, 5),
        "QLinearMatMul": (3, 5),
    }
    if name not in flat.constants:
        return 0
    rank = len(flat.constants[name].dims)
    looked_up = [node.outputs[0] for node, index in flat.readers.get(name, ()) if node.kind in _LOOKUPS and index == 0]
    if looked_up:
        points = [node.inputs[2] for output in looked_up for node, _ in flat.readers.get(output, ()) if len(node.inputs) == 3]
        single = next((flat.constants[point] for point in points if point in flat.constants), None)
        return onnx.numpy_helper.to_array(single).reshape(-1)[0] if single is not None and math.prod(single.dims) == 1 else 0
    for node, index in flat.readers.get(name, ()):
        weight, zero = positions.get(node.kind, (-1, -1))
        if node.kind == "DynamicQuantizeLSTM" and index in (1, 2):
            weight, zero = index, 9 if index == 1 else 11
        if index == weight and len(node.inputs) > zero and node.inputs[zero] in flat.constants:
            point = onnx.numpy_helper.to_array(flat.constants[node.inputs[zero]])
            if node.kind == "DynamicQuantizeLSTM" and point.size > 1:
                return point.reshape(len(point), 1, -1)  # one a direction, or one a direction and column
            if point.ndim != 1 or point.size == 1 or rank < 2:
                return point.reshape(()) if point.size == 1 else point
            if node.kind == "DequantizeLinear":
                axis = int_attribute(node.proto, "axis", 1) % rank
            else:
                axis = 0 if node.kind in ("ConvInteger", "QLinearConv") else rank - 1
            return point.reshape([-1 if dim == axis else 1 for dim in range(rank)])
    return 0


def _nonzero(array: Any, zero_point: Any) -> int | None:
    """Elements that differ from their zero point; None where the two do not go together."""
    if isinstance(zero_point, int) and zero_point == 0:
        return int(np.count_nonzero(array))
    try:
        return int(np.count_nonzero(array.astype(np.int64) != np.asarray(zero_point).astype(np.int64)))
    except ValueError:
        return None


def is_mask(array: Any) -> bool:
    """Whether a constant hides places instead of weighing them: infinities, or two values of which one is huge."""
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        return True
    return bool(values.size) and bool(np.abs(values).max() >= _MASKED) and len(np.unique(values)) <= 2


def _initial_state(array: Any) -> Any:
    """A learned state once, however many examples it was repeated for; nothing of one that is zero."""
    if not array.any():
        return array.reshape(-1)[:0]
    return array[:, :1] if array.ndim == 3 and bool((array == array[:, :1]).all()) else array


def int_attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node, or `default`."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)
