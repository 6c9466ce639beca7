"""A second count of all that a report says of a file, which shares no code with the engine: the protobuf's own tensors, and one run.

What a weight stands for is found by its dequantization, and multiplications by the shapes that ONNX Runtime really computes.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from tests.engine.formats.onnx.elements import elements, every_node, every_tensor

Array = np.ndarray
_POINTS = {"DequantizeLinear": (0, 2), "MatMulInteger": (1, 3), "ConvInteger": (1, 3)}
"""Where a quantized weight and its zero point stand among the inputs of its reader."""
_RECURRENT = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Recount:
    """The figures of one file."""

    params_count: int
    nonzero_params_count: int
    macs_count: int
    file_bytes: int
    gzip_bytes: int

    @classmethod
    def of(cls, path: Path, feed: dict[str, Array]) -> Recount:
        """Count a file; `feed` holds one example."""
        model, data = onnx.load(path), path.read_bytes()
        params = elements(model)
        return cls(params, params - _zeros(model), _macs(model, feed), len(data), len(gzip.compress(data, 6)))


def _zeros(model: onnx.ModelProto) -> int:
    """Elements of weights that stand for zero."""
    nodes = list(every_node(model.graph))
    stored = dict(every_tensor(model.graph))
    statistics = {name for node in nodes if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    points: dict[str, Array] = {}
    for node in nodes:
        if node.op_type in _POINTS:
            weight, point = _POINTS[node.op_type]
            if len(node.input) > point and node.input[point] in stored:
                points[node.input[weight]] = _beside(node, numpy_helper.to_array(stored[node.input[point]]), stored.get(node.input[weight]))
        elif node.op_type == "DynamicQuantizeLSTM":
            for weight, point in ((1, 9), (2, 11)):
                stored_point = numpy_helper.to_array(stored[node.input[point]])
                points[node.input[weight]] = stored_point.reshape(len(stored_point), 1, -1)
    total = 0
    for name, tensor in stored.items():
        # The same tensors are looked at as `elements` counts: alone in a file, a tensor either is a weight as a whole or is none.
        alone = elements(helper.make_model(_with_only(model.graph, name), opset_imports=model.opset_import))
        if name not in statistics and alone:
            total += int(np.count_nonzero(numpy_helper.to_array(tensor).astype(np.float64) == points.get(name, np.zeros(()))))
    return total


def _beside(node: onnx.NodeProto, point: Array, weight: onnx.TensorProto | None) -> Array:
    """A zero point in a form that broadcasts over its weight."""
    if point.ndim == 0 or weight is None:
        return point
    axis = (
        next((item.i for item in node.attribute if item.name == "axis"), 1) if node.op_type == "DequantizeLinear" else len(weight.dims) - 1
    )
    return point.reshape([-1 if dim == axis % len(weight.dims) else 1 for dim in range(len(weight.dims))])


def _with_only(graph: onnx.GraphProto, name: str) -> onnx.GraphProto:
    """The graph with no other stored tensor than one."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    _keep(copy, name)
    return copy


def _keep(graph: onnx.GraphProto, name: str) -> None:
    kept = [item for item in graph.initializer if item.name == name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and node.output[0] != name:
                attribute.ClearField("t")
            if attribute.HasField("g"):
                _keep(attribute.g, name)


def _macs(model: onnx.ModelProto, feed: dict[str, Array]) -> int:
    """Multiplications of one run, from the shapes that ran. A branch that is not at the top counts by the shapes of its weights."""
    top = [node for node in model.graph.node if node.op_type in ("Conv", "ConvInteger", "Gemm", "MatMul", "MatMulInteger", *_RECURRENT)]
    asked = {name for node in top for name in (*node.input[:2], node.output[0]) if name}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {item.name for item in (*model.graph.output, *model.graph.input, *model.graph.initializer)}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(asked - known))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    shapes = {name: np.shape(value) for name, value in zip(names, session.run(names, feed), strict=True)}
    shapes |= {name: np.shape(value) for name, value in feed.items()} | {item.name: tuple(item.dims) for item in model.graph.initializer}
    total = 0
    for node in top:
        left, right, out = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        if node.op_type in _RECURRENT:
            directions, hidden = out[1], out[-1]
            total += left[0] * directions * _RECURRENT[node.op_type] * hidden * (left[2] + hidden)
        elif node.op_type.startswith("Conv"):
            total += math.prod(out) * math.prod(right[1:])
        elif node.op_type == "Gemm":
            across = next((item.i for item in node.attribute if item.name == "transA"), 0)
            total += math.prod(out) * left[0 if across else 1]
        else:
            total += math.prod(out) * left[-1]
    return total
