"""A second, plain count of a file's weights: elements of its tensors, straight from the protobuf, at any depth of subgraphs.

It knows nothing of who reads what. It holds for files whose floating-point constants of more than one element are all weights, except
running statistics and factors of a Resize, which it finds by the operator that reads them, and masks, which it knows by their size;
and for what ONNX Runtime's quantizers make of such files, whose constants it knows by the endings of their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
BYTES = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
QUANTIZED = {"DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}
LAYERS = {
    *("BatchNormalization", "Conv", "ConvTranspose", "GRU", "Gemm", "GroupNormalization", "InstanceNormalization", "LSTM"),
    *("LayerNormalization", "MatMul", "PRelu", "RMSNormalization", "RNN"),
}
"""Operators whose single numbers are weights: elsewhere they are factors and bounds."""
MASKED = 1e4
HELPERS = ("_scale", "_zero_point", "_scales")


def elements(source: onnx.ModelProto | Path) -> int:
    """Elements of all weights, each tensor once."""
    proto = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
    nodes = list(every_node(proto.graph))
    settings = {name for item in nodes for name in item.input[3:5] if item.op_type == "BatchNormalization"}
    settings |= {name for item in nodes for name in item.input[1:3] if item.op_type in ("Resize", "Upsample")}
    tensors = dict(every_tensor(proto.graph))
    settings |= {name for item in nodes if item.op_type == "InstanceNormalization" for name in plain_scale(item, tensors)}
    multiplied = {name for item in nodes if item.op_type in LAYERS for name in item.input}
    is_quantized = any(item.op_type in QUANTIZED for item in nodes)
    dequantized = {item.input[0] for item in nodes if item.op_type == "DequantizeLinear"}
    total = 0
    for name, tensor in every_tensor(proto.graph):
        size = math.prod(tensor.dims)
        if name in settings or (is_quantized and name.endswith(HELPERS)):
            continue
        if tensor.data_type in FLOATS:
            is_mask = size > 1 and float(np.abs(onnx.numpy_helper.to_array(tensor)).max()) >= MASKED
            total += size if (size > 1 and not is_mask) or name in multiplied else 0
        elif is_quantized and (tensor.data_type in BYTES or (tensor.data_type == onnx.TensorProto.INT32 and name in dequantized)):
            total += size if size > 1 or name.endswith("_quantized") else 0
    return total


def plain_scale(item: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> list[str]:
    """The ones and zeros of a normalization that scales nothing, as an exporter spells group normalization."""
    values = [onnx.numpy_helper.to_array(tensors[name]) for name in item.input[1:3] if name in tensors]
    return list(item.input[1:3]) if len(values) == 2 and (values[0] == 1).all() and not values[1].any() else []


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for item in graph.node:
        yield item
        for inner in inner_graphs(item):
            yield from every_node(inner)


def every_tensor(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((item.name, item) for item in graph.initializer)
    for item in graph.node:
        if item.op_type == "Constant":
            yield from ((item.output[0], attribute.t) for attribute in item.attribute if attribute.HasField("t"))
        for inner in inner_graphs(item):
            yield from every_tensor(inner)


def inner_graphs(item: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in item.attribute if attribute.HasField("g")]
