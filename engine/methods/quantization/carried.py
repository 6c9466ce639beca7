"""Signed bytes of values that flow become unsigned ones where the runtime cannot carry them: the same numbers, 128 higher.

ONNX Runtime carries a DequantizeLinear through operators that move values (Transpose, Reshape). From operator set 21 on it writes a
QuantizeLinear for it that names the wrong zero point where the bytes are signed, and then refuses the file that it made.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from engine.formats.onnx.flat import subgraphs
from engine.formats.onnx.naming import FreshNames

FIRST_OPSET = 21


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place: activations and looked-up rows in signed bytes are stored in unsigned ones. Weights stay signed."""
    version = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if version >= FIRST_OPSET:
        _Unsigned(model).write()
    return model


class _Unsigned:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._stored = {item.name: item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8}
        self._fresh = FreshNames(model.graph)
        self._moved: dict[str, str] = {}

    def write(self) -> None:
        self._graph(self._model.graph, {})
        read = {name for graph in _graphs(self._model.graph) for node in graph.node for name in node.input}
        read |= {item.name for graph in _graphs(self._model.graph) for item in graph.output}
        kept = [item for item in self._model.graph.initializer if item.name in read]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(kept)

    def _graph(self, graph: onnx.GraphProto, around: dict[str, onnx.NodeProto]) -> None:
        makers = {**around, **{name: node for node in graph.node for name in node.output}}
        for node in graph.node:
            for inner in subgraphs(node):
                self._graph(inner, makers)
            if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[2] not in self._stored:
                continue
            source = makers.get(node.input[0])
            if source is not None and source.op_type == "QuantizeLinear" and len(source.input) > 2:
                source.input[2] = self._shifted(source.input[2])
                node.input[2] = self._shifted(node.input[2])
            elif source is not None and source.op_type == "Gather" and source.input[0] in {*self._stored, *self._moved.values()}:
                source.input[0] = self._shifted(source.input[0])
                node.input[2] = self._shifted(node.input[2])

    def _shifted(self, name: str) -> str:
        """The constant with every number 128 higher, stored once."""
        if name not in self._stored:
            return name
        if name not in self._moved:
            self._moved[name] = self._fresh.claim(f"{name}_unsigned")
            values = numpy_helper.to_array(self._stored[name]).astype(np.int16) + 128
            self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(values.astype(np.uint8)), self._moved[name]))
        return self._moved[name]


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [graph, *(found for node in graph.node for inner in subgraphs(node) for found in _graphs(inner))]
