"""Writes a graph whose weights are integers and whose activations are rounded while it runs, with a range found for each batch."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.graph import all_nodes, graph_attributes
from engine.methods.quantization.index import exposed
from engine.methods.quantization.lookups import looked_up
from engine.methods.quantization.plan import LOOPS
from engine.methods.quantization.rounding import portable_scales, rounded_weight, weight_scales
from engine.methods.quantization.ties import FLOAT, turned

RUNTIME_DOMAIN = "com.microsoft"
_LEVELS = 127
"""The largest 8-bit weight."""
Convolutions = Literal["stored", "half", "integer"]
Constants = Mapping[str, onnx.TensorProto]


class IntegerWriter:
    """Writes one graph and the branches of its If and Loop nodes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        excluded: Collection[str],
        *,
        by_channel: bool,
        portable: bool = False,
        convolutions: Convolutions = "stored",
    ) -> None:
        """Take a graph.

        Args:
            model: The float graph, all of whose nodes have names; changed in place.
            excluded: Names of nodes that stay in float.
            by_channel: One weight scale for every output channel, instead of one for the tensor.
            portable: Whether weights are kept so small that no kernel saturates.
            convolutions: Whether convolutions compute in integers, or in float with weights that are stored in integers or in float16.
        """
        self._model, self._excluded, self._by_channel, self._portable = model, set(excluded), by_channel, portable
        self._convolutions = convolutions
        self._fresh = FreshNames(model.graph)
        self._added: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._rounded: dict[str, tuple[str, str, str]] = {}
        """By tensor of the graph at hand: its bytes, their scale and their zero point."""
        self._exposed: set[str] = set()
        """Of the graph at hand."""
        self._stored: dict[tuple[Any, ...], tuple[str, str, str]] = {}
        self._readers: dict[str, set[str]] = defaultdict(set)
        for node in all_nodes(model.graph):
            for name in node.input:
                self._readers[name].add(node.op_type)
        self._turned = turned(model, FLOAT)

    def write(self) -> onnx.ModelProto:
        """The model with everything in place."""
        self._graph(self._model.graph, {})
        for graph in _graphs(self._model.graph):
            _drop_unread(graph)
        self._model.graph.initializer.extend(self._added)
        used = any(node.domain == RUNTIME_DOMAIN for node in all_nodes(self._model.graph))
        if used and not any(item.domain == RUNTIME_DOMAIN for item in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        return self._model

    def _graph(self, graph: onnx.GraphProto, around: Constants) -> None:
        constants = {**around, **{item.name: item for item in graph.initializer}}
        outer = self._nodes, self._rounded, self._exposed
        self._nodes, self._rounded, self._exposed = [], {}, exposed(graph.node)
        for node in list(graph.node):
            for attribute in node.attribute:
                for inner in graph_attributes(attribute):
                    self._graph(inner, constants)
            self._node(node, constants)
        del graph.node[:]
        graph.node.extend(self._nodes)
        self._nodes, self._rounded, self._exposed = outer

    def _node(self, node: onnx.NodeProto, constants: Constants) -> None:
        def stored(*positions: int) -> bool:
            names = [node.input[i] if len(node.input) > i else "" for i in positions]
            # What a loop takes along stays in float, and would be stored twice.
            return all(
                name in constants and constants[name].data_type == TensorProto.FLOAT and LOOPS.isdisjoint(self._readers[name])
                for name in names
            )

        kind = node.op_type if node.domain in ("", "ai.onnx") and node.name not in self._excluded else ""
        if kind == "MatMul" and stored(1) and not stored(0) and len(constants[node.input[1]].dims) >= 2:
            self._product(node, constants, "")
        elif kind == "Gemm" and stored(1) and not stored(0) and not int_attribute(node, "transA"):
            self._product(node, constants, node.input[2] if len(node.input) > 2 else "")
        elif kind == "Conv" and stored(1) and not stored(0):
            if self._convolutions == "integer":
                self._convolution(node, constants)
            elif self._convolutions == "stored":
                self._stored_convolution(node, constants)
            else:
                self._half_convolution(node, constants)
        elif kind == "LSTM" and stored(1, 2) and not int_attribute(node, "layout"):
            self._lstm(node, constants)
        elif kind == "Gather" and stored(0) and len(constants[node.input[0]].dims) == 2 and not int_attribute(node, "axis"):
            self._gather(node, constants)
        else:
            self._nodes.append(node)

    def _product(self, node: onnx.NodeProto, constants: Constants, bias: str) -> None:
        """MatMul, or Gemm with what it adds behind it."""
        name, transposed = node.input[1], bool(node.op_type == "Gemm" and int_attribute(node, "transB"))
        alpha, beta = (_factor(node, key) for key in ("alpha", "beta"))
        values = numpy_helper.to_array(constants[name])
        values = np.ascontiguousarray(values.T if transposed else values) * np.float32(alpha)
        axis = 1 if values.ndim == 2 and self._one_way(name) else None
        weight, scale, zero = self._weight((name, transposed, alpha), values, axis)
        data, step, point = self._round(node.input[0])
        product = self._add("MatMulInteger", [data, weight, point, zero], f"{node.output[0]}_int32")
        result = self._widened(product, step, scale, "" if bias else node.output[0], node)
        if bias:
            self._add_scaled(result, bias, beta, node, constants)

    def _add_scaled(self, result: str, bias: str, beta: float, node: onnx.NodeProto, constants: Constants) -> None:
        if beta != 1 and bias in constants:
            bias = self._constant(f"{bias}_scaled", numpy_helper.to_array(constants[bias]) * np.float32(beta))
        elif beta != 1:
            bias = self._add("Mul", [bias, self._constant(f"{node.output[0]}_beta", np.float32(beta))], f"{bias}_scaled")
        self._nodes.append(helper.make_node("Add", [result, bias], [node.output[0]], node.name))

    def _stored_convolution(self, node: onnx.NodeProto, constants: Constants) -> None:
        """In float, with the weight widened in front of it: the range of a whole batch of images would leave little of small values."""
        name = node.input[1]
        values = numpy_helper.to_array(constants[name])
        axis = 0 if self._one_way(name) else None
        scales = weight_scales(values, axis, _LEVELS)
        key = (name, "stored")
        if key not in self._stored:
            integers = self._constant(f"{name}_quantized", rounded_weight(values, scales, axis, _LEVELS))
            self._stored[key] = (integers, self._constant(f"{name}_scale", scales), "")
        attributes = {} if axis is None else {"axis": axis}
        node.input[1] = self._add("DequantizeLinear", list(self._stored[key][:2]), f"{name}_dq", **attributes)
        self._nodes.append(node)

    def _half_convolution(self, node: onnx.NodeProto, constants: Constants) -> None:
        """In float, with the weight widened from float16 in front of it, where it lies in the range of that."""
        name = node.input[1]
        values = numpy_helper.to_array(constants[name])
        if np.abs(values).max(initial=0) <= np.finfo(np.float16).max:
            key = (name, "half")
            if key not in self._stored:
                self._stored[key] = (self._constant(f"{name}_half", values.astype(np.float16)), "", "")
            node.input[1] = self._add("Cast", [self._stored[key][0]], f"{name}_float", to=TensorProto.FLOAT)
        self._nodes.append(node)

    def _convolution(self, node: onnx.NodeProto, constants: Constants) -> None:
        name = node.input[1]
        values = numpy_helper.to_array(constants[name])
        axis = 0 if self._one_way(name) else None
        weight, scale, _ = self._weight((name, "Conv"), values, axis, trailing=values.ndim - 2)
        data, step, point = self._round(node.input[0])
        product = self._fresh.claim(f"{node.output[0]}_int32")
        self._nodes.append(helper.make_node("ConvInteger", [data, weight, point], [product], self._fresh.claim(f"{node.name}_int32")))
        self._nodes[-1].attribute.extend(node.attribute)
        bias = node.input[2] if len(node.input) > 2 else ""
        result = self._widened(product, step, scale, "" if bias else node.output[0], node)
        if bias:
            shape = [1, -1, *(1,) * (values.ndim - 2)]
            if bias in constants:
                bias = self._constant(f"{bias}_channels", numpy_helper.to_array(constants[bias]).reshape(shape))
            else:
                bias = self._add("Reshape", [bias, self._constant("channels", np.array(shape))], f"{bias}_channels")
            self._nodes.append(helper.make_node("Add", [result, bias], [node.output[0]], node.name))

    def _lstm(self, node: onnx.NodeProto, constants: Constants) -> None:
        """The runtime's own operator, which has the weights transposed."""
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        tail: list[str] = []
        for position in (1, 2):
            values = np.ascontiguousarray(numpy_helper.to_array(constants[inputs[position]]).transpose(0, 2, 1))
            scales = np.stack([self._scales(part, 1 if self._by_channel else None) for part in values])
            spread = scales.reshape(len(values), 1, -1)
            integers = np.clip(np.rint(values / spread), -_LEVELS, _LEVELS).astype(np.int8)
            wanted = inputs[position]
            inputs[position] = self._constant(f"{wanted}_quantized", integers)
            tail += [self._constant(f"{wanted}_scale", scales), self._constant(f"{wanted}_zero_point", np.zeros(scales.shape, np.int8))]
        attributes = [item for item in node.attribute if item.name != "layout"]
        self._nodes.append(helper.make_node("DynamicQuantizeLSTM", [*inputs, *tail], node.output, node.name, domain=RUNTIME_DOMAIN))
        self._nodes[-1].attribute.extend(attributes)

    def _gather(self, node: onnx.NodeProto, constants: Constants) -> None:
        """Pick rows of 8-bit numbers, and widen only those."""
        name = node.input[0]
        stored = self._weight((name, False, 1.0), numpy_helper.to_array(constants[name]), None)
        self._nodes += looked_up(node, stored, self._fresh, apart=node.output[0] in self._exposed)

    def _round(self, tensor: str) -> tuple[str, str, str]:
        if tensor not in self._rounded:
            found = tuple(self._fresh.claim(f"{tensor}_{part}") for part in ("q", "scale", "zero_point"))
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [tensor], found, self._fresh.claim(f"{tensor}_rounding")))
            self._rounded[tensor] = (found[0], found[1], found[2])
        return self._rounded[tensor]

    def _widened(self, product: str, step: str, scale: str, output: str, node: onnx.NodeProto) -> str:
        """The int32 `product` in float, times both scales."""
        wide = self._add("Cast", [product], f"{product}_float", to=TensorProto.FLOAT)
        both = self._add("Mul", [step, scale], f"{node.output[0]}_scales")
        if not output:
            return self._add("Mul", [wide, both], f"{node.output[0]}_scaled")
        self._nodes.append(helper.make_node("Mul", [wide, both], [output], node.name))
        return output

    def _weight(self, key: tuple[Any, ...], values: NDArray[Any], axis: int | None, trailing: int = 0) -> tuple[str, str, str]:
        """Names of a weight's integers, scales and zero points; scales of a convolution stand in front of its `trailing` dimensions."""
        if key not in self._stored:
            scales = self._scales(values, axis)
            shape = scales.shape + (1,) * trailing if scales.ndim else ()
            self._stored[key] = (
                self._constant(f"{key[0]}_quantized", rounded_weight(values, scales, axis, _LEVELS)),
                self._constant(f"{key[0]}_scale", scales.reshape(shape)),
                # ConvInteger takes zero to be zero.
                "" if key[1] == "Conv" else self._constant(f"{key[0]}_zero_point", np.zeros(scales.shape, np.int8)),
            )
        return self._stored[key]

    def _scales(self, values: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
        return portable_scales(values, axis) if self._portable else weight_scales(values, axis, _LEVELS)

    def _one_way(self, name: str) -> bool:
        """Whether a weight may have a scale for each channel: rows of an embedding that is picked from have one scale for all, also where the
        embedding stands there turned."""
        return self._by_channel and "Gather" not in self._readers[name] | self._readers[self._turned.get(name, name)]

    def _add(self, kind: str, inputs: list[str], wanted: str, **attributes: Any) -> str:
        output = self._fresh.claim(wanted)
        self._nodes.append(helper.make_node(kind, inputs, [output], self._fresh.claim(f"{output}_{kind}"), **attributes))
        return output

    def _constant(self, wanted: str, array: NDArray[Any] | np.float32) -> str:
        name = self._fresh.claim(wanted)
        self._added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name


def _factor(node: onnx.NodeProto, name: str) -> float:
    """`alpha` or `beta` of a Gemm."""
    return next((float(item.f) for item in node.attribute if item.name == name and node.op_type == "Gemm"), 1.0)


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph and its subgraphs."""
    inner = [item for node in graph.node for attribute in node.attribute for item in graph_attributes(attribute)]
    return [graph, *(found for item in inner for found in _graphs(item))]


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in all_nodes(graph) for name in node.input} | {item.name for part in _graphs(graph) for item in part.output}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
