"""A second, plain count of a file's weights: elements of its tensors, straight from the protobuf, at any depth of subgraphs.

It knows nothing of readers or layers. It holds for files whose floating-point constants of more than one element are all weights,
except running statistics, which it finds by the operator that reads them, and for what ONNX Runtime's quantizers make of such files,
whose constants it knows by the endings of their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
BYTES = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
HELPERS = ("_scale", "_zero_point", "_scales")


def elements(source: onnx.ModelProto | Path) -> int:
    """Elements of all weights, each tensor once."""
    proto = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
    nodes = list(every_node(proto.graph))
    statistics = {name for item in nodes if item.op_type == "BatchNormalization" for name in item.input[3:5]}
    masters = {item.input[0]: item for item in nodes if item.op_type == "DequantizeLinear"}
    total = 0
    for name, tensor in every_tensor(proto.graph):
        size = math.prod(tensor.dims)
        if name in statistics or name.endswith(HELPERS):
            continue
        if (
            (tensor.data_type in FLOATS and size > 1)
            or (tensor.data_type in BYTES and (size > 1 or name.endswith("_quantized")))
            or (tensor.data_type == onnx.TensorProto.INT32 and name in masters)
        ):
            total += size
    return total


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for item in graph.node:
        yield item
        for inner in inner_graphs(item):
            yield from every_node(inner)


def every_tensor(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((item.name, item) for item in graph.initializer)
    for item in graph.node:
        yield from ((item.output[0], attribute.t) for attribute in item.attribute if attribute.HasField("t"))
        for inner in inner_graphs(item):
            yield from every_tensor(inner)


def inner_graphs(item: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in item.attribute if attribute.HasField("g")]
