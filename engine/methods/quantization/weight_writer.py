"""Writes a graph whose weights are stored in few bits and widened where they are used; all else is left as it is.

Longer than others, as one pass over a graph is: what becomes of a node hangs on what became of the weights that it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.flat import NodeAttributes
from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.graph import all_nodes, graph_attributes
from engine.methods.quantization.groups import Grouped, grouped, packed_blocks
from engine.methods.quantization.integers import RUNTIME_DOMAIN
from engine.methods.quantization.plan import LOOPS
from engine.methods.quantization.rounding import rounded_weight, weight_scales
from engine.methods.quantization.spec_weights import WeightOnlyQuantization

DEFAULT_GROUP = 32
_SMALLEST_GROUP = 16
"""The runtime's kernels know no smaller block."""
_HALF_MAX = 65504.0
_WEIGHTS = {"MatMul": (1,), "Gemm": (1,), "Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Gather": (0,)}
_WORTH = 64
"""Weights below which a scale costs what the integers save."""
Moments = Mapping[str, NDArray[np.float64]]


@dataclass
class Written:
    """What became of the weights."""

    forms: dict[str, str] = field(default_factory=dict)
    """By weight, how it is stored: `int8 DequantizeLinear`, `int4 MatMulNBits` …"""
    wide: dict[str, str] = field(default_factory=dict)
    """Weights that stayed as they were, and why."""


class WeightWriter:
    """Writes one graph and the branches of its If and Loop nodes."""

    def __init__(self, model: onnx.ModelProto, params: WeightOnlyQuantization, excluded: Collection[str], moments: Moments) -> None:
        """Take a graph.

        Args:
            model: The float graph, all of whose nodes have names; changed in place.
            params: How weights are stored.
            excluded: Names of nodes whose weights stay.
            moments: Of the inputs of weights, where they are known.
        """
        self._model, self._params, self._excluded, self._moments = model, params, set(excluded), moments
        self._fresh = FreshNames(model.graph)
        self._added: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._widened: dict[str, str] = {}
        """By constant of the graph at hand: the tensor that holds its numbers again."""
        self._stored: dict[str, tuple[str, ...]] = {}
        self._readers: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.written = Written()
        held: set[str] = set()
        for node in all_nodes(model.graph):
            for place, name in enumerate(node.input):
                self._readers[name].add((node.op_type, place))
                if node.name in self._excluded or node.op_type in LOOPS:
                    held.add(name)
        self._held = held
        """What an ignored node reads, or a loop takes along."""

    def write(self) -> onnx.ModelProto:
        """The model with everything in place."""
        self._graph(self._model.graph, {})
        for graph in _graphs(self._model.graph):
            read = {name for node in all_nodes(self._model.graph) for name in node.input} | {item.name for item in graph.output}
            kept = [item for item in graph.initializer if item.name in read]
            del graph.initializer[:]
            graph.initializer.extend(kept)
        used = any(node.domain == RUNTIME_DOMAIN for node in all_nodes(self._model.graph))
        if used and not any(item.domain == RUNTIME_DOMAIN for item in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        return self._model

    def _graph(self, graph: onnx.GraphProto, around: Mapping[str, onnx.TensorProto]) -> None:
        constants = {**around, **{item.name: item for item in graph.initializer}}
        outer = self._nodes, self._widened, self._added, self._stored
        self._nodes, self._widened, self._added, self._stored = [], {}, [], {}
        for node in list(graph.node):
            for attribute in node.attribute:
                for inner in graph_attributes(attribute):
                    self._graph(inner, constants)
            for place, name in enumerate(node.input):
                if self._is_shared(name, constants):
                    self._store(node, place, numpy_helper.to_array(constants[name]))
            if node.domain in ("", "ai.onnx") and node.op_type in _WEIGHTS and node.name not in self._excluded:
                self._node(node, constants)
            else:
                self._nodes.append(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        # The runtime fuses a DequantizeLinear with a product only where the integers stand in the same graph, and fails where not.
        graph.initializer.extend(self._added)
        self._nodes, self._widened, self._added, self._stored = outer

    def _node(self, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> None:
        for place in _WEIGHTS[node.op_type]:
            name = node.input[place] if len(node.input) > place else ""
            tensor = constants.get(name)
            if tensor is None or not self._is_weight(name, tensor):
                continue
            values = numpy_helper.to_array(tensor)
            if self._params.weights in ("int8", "int4") and self._replaced(node, name, values):
                return
            self._store(node, place, values)
        self._nodes.append(node)

    def _is_weight(self, name: str, tensor: onnx.TensorProto) -> bool:
        """Whether a constant can be stored in fewer bits and gains by it; what a weight loses by staying is noted."""
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or name in self._held:
            return False
        values = numpy_helper.to_array(tensor)
        if values.size < _WORTH or not np.isfinite(values).all():
            self.written.wide[name] = "too small to gain" if values.size < _WORTH else "not finite"
            return False
        return True

    def _is_shared(self, name: str, constants: Mapping[str, onnx.TensorProto]) -> bool:
        """Whether a weight has readers of several kinds (an embedding that is the last layer too): it is stored once, and widened whole."""
        readers = self._readers[name]
        if name not in constants or len(readers) < 2 or not any(place in _WEIGHTS.get(kind, ()) for kind, place in readers):
            return False
        return self._is_weight(name, constants[name])

    def _store(self, node: onnx.NodeProto, place: int, values: NDArray[np.float32]) -> None:
        """Widen a stored weight in front of the node."""
        if self._params.weights in ("float16", "bfloat16"):
            self._cast(node, place, values)
        else:
            self._dequantize(node, place, values)

    def _replaced(self, node: onnx.NodeProto, name: str, values: NDArray[np.float32]) -> bool:
        """Write the runtime's own operator on packed weights in place of a node; False where there is none for it."""
        params = self._params
        groups = params.weights == "int4" or params.group_size is not None or params.activations == "int8"
        if node.op_type == "Gather" and values.ndim == 2 and not int_attribute(node, "axis") and values.shape[1] >= _SMALLEST_GROUP:
            self._gather(node, name, values)
            return True
        if not groups or node.op_type not in ("MatMul", "Gemm") or values.ndim != 2 or int_attribute(node, "transA"):
            return False
        self._product(node, name, values)
        return True

    def _grouped(self, name: str, rows: NDArray[np.float64], bits: int, size: int) -> Grouped:
        moments = self._moments.get(name)
        return grouped(
            rows,
            bits=bits,
            size=size,
            symmetric=self._params.symmetric,
            refinement=self._params.refinement,
            moments=None if moments is None else moments[0],
        )

    def _product(self, node: onnx.NodeProto, name: str, values: NDArray[np.float32]) -> None:
        """MatMulNBits, and what a Gemm adds behind it."""
        transposed = node.op_type == "Gemm" and bool(int_attribute(node, "transB"))
        alpha, beta = (next((float(item.f) for item in node.attribute if item.name == key), 1.0) for key in ("alpha", "beta"))
        rows = (values if transposed else values.T).astype(np.float64)
        bits = 4 if self._params.weights == "int4" else 8
        key = f"{name} {transposed} {alpha}"
        if key not in self._stored:
            found = self._grouped(name, rows * alpha, bits, self._params.group_size or DEFAULT_GROUP)
            size = max(_SMALLEST_GROUP, 1 << (found.size - 1).bit_length())
            if size != found.size:  # one group of odd size is filled up
                found = Grouped(found.integers, found.scales, found.zeros, size, bits)
            weights, scales, zeros = packed_blocks(found)
            parts = [self._constant(f"{name}_quantized", weights), self._constant(f"{name}_scale", scales.reshape(-1))]
            if not self._params.symmetric:
                parts.append(self._constant(f"{name}_zero_point", zeros.reshape(-1)))
            self._stored[key] = (*parts, str(size))
        *parts, size_text = self._stored[key]
        self.written.forms[name] = f"int{bits} MatMulNBits"
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        output = self._fresh.claim(f"{node.output[0]}_product") if bias else node.output[0]
        attributes: NodeAttributes = {"K": rows.shape[1], "N": rows.shape[0], "bits": bits, "block_size": int(size_text)}
        if self._params.activations == "int8":
            attributes["accuracy_level"] = 4
        name_of_product = self._fresh.claim(f"{node.name}_product") if bias else node.name
        made = helper.make_node("MatMulNBits", [node.input[0], *parts], [output], name_of_product, domain=RUNTIME_DOMAIN, **attributes)
        self._nodes.append(made)
        if bias:
            if beta != 1:
                scaled = self._fresh.claim(f"{bias}_scaled")
                factor = self._constant(f"{bias}_beta", np.float32(beta))
                self._nodes.append(helper.make_node("Mul", [bias, factor], [scaled], self._fresh.claim(f"{node.name}_beta")))
                bias = scaled
            self._nodes.append(helper.make_node("Add", [output, bias], [node.output[0]], node.name))

    def _gather(self, node: onnx.NodeProto, name: str, values: NDArray[np.float32]) -> None:
        """Pick rows of packed numbers, and widen only those."""
        bits = 4 if self._params.weights == "int4" else 8
        width = values.shape[1]
        size = self._params.group_size or (DEFAULT_GROUP if bits == 4 else 1 << (width - 1).bit_length())
        if name not in self._stored:
            found = self._grouped(name, values.astype(np.float64), bits, size)
            if bits == 4:
                stored = self._packed(f"{name}_quantized", found.integers)
                zeros = self._packed(f"{name}_zero_point", found.zeros)
            else:
                stored = self._constant(f"{name}_quantized", found.integers)
                zeros = self._constant(f"{name}_zero_point", found.zeros)
            self._stored[name] = (stored, self._constant(f"{name}_scale", found.scales), zeros)
        stored, scale, zeros = self._stored[name]
        self.written.forms[name] = f"int{bits} GatherBlockQuantized"
        attributes: NodeAttributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": size}
        if bits == 8:
            attributes["bits"] = 8
        inputs = [stored, node.input[1], scale, zeros]
        self._nodes.append(helper.make_node("GatherBlockQuantized", inputs, node.output, node.name, domain=RUNTIME_DOMAIN, **attributes))

    def _dequantize(self, node: onnx.NodeProto, place: int, values: NDArray[np.float32]) -> None:
        """Widen the whole weight in front of the node: one scale for each output channel."""
        name = node.input[place]
        axis = 0 if len(self._readers[name]) > 1 else channel_axis(node, values.ndim)
        key = f"{name} {axis}"
        if key not in self._stored:
            integers, scales = self._channels(node, name, values, axis)
            self._stored[key] = (self._constant(f"{name}_quantized", integers), self._constant(f"{name}_scale", scales))
        if key not in self._widened:
            self._widened[key] = self._fresh.claim(f"{name}_dq")
            attributes: NodeAttributes = {} if axis is None else {"axis": axis}
            made = self._fresh.claim(f"{name}_widened")
            self._nodes.append(helper.make_node("DequantizeLinear", list(self._stored[key]), [self._widened[key]], made, **attributes))
        self.written.forms[name] = "int8 DequantizeLinear"
        node.input[place] = self._widened[key]

    def _channels(
        self, node: onnx.NodeProto, name: str, values: NDArray[np.float32], axis: int | None
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Signed integers with one scale a channel; rounded by the moments of the inputs where they are known."""
        from engine.methods.quantization.moments import Layout
        from engine.methods.quantization.refined import rounded

        scales = weight_scales(values, axis, 127)
        moments = self._moments.get(name)
        if moments is None or axis is None or axis != channel_axis(node, values.ndim):
            return rounded_weight(values, scales, axis, 127), scales
        layout = Layout(node, values.shape)
        return rounded(layout, values, moments, scales, axis, by="gptq", portable=False), scales

    def _cast(self, node: onnx.NodeProto, place: int, values: NDArray[np.float32]) -> None:
        """Store in half the bytes, and widen in front of the node."""
        name, half = node.input[place], self._params.weights == "float16"
        if half and float(np.abs(values).max()) > _HALF_MAX:
            self.written.wide[name] = "out of the range of float16"
            return
        if name not in self._stored:
            kind = TensorProto.FLOAT16 if half else TensorProto.BFLOAT16
            array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
            stored = self._fresh.claim(f"{name}_half")
            self._added.append(numpy_helper.from_array(array, stored))
            self._stored[name] = (stored,)
        if name not in self._widened:
            self._widened[name] = self._fresh.claim(f"{name}_single")
            made = self._fresh.claim(f"{name}_Cast")
            self._nodes.append(helper.make_node("Cast", [self._stored[name][0]], [self._widened[name]], made, to=TensorProto.FLOAT))
        self.written.forms[name] = self._params.weights
        node.input[place] = self._widened[name]

    def _constant(self, wanted: str, array: NDArray[Any] | np.float32) -> str:
        name = self._fresh.claim(wanted)
        self._added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def _packed(self, wanted: str, values: NDArray[np.uint8]) -> str:
        """A constant of four bits a number."""
        name = self._fresh.claim(wanted)
        self._added.append(helper.make_tensor(name, TensorProto.UINT4, values.shape, _bytes(values), raw=True))
        return name


def _bytes(values: NDArray[np.uint8]) -> bytes:
    flat = values.reshape(-1)
    flat = np.concatenate([flat, np.zeros(flat.size % 2, np.uint8)])
    return np.asarray(flat[0::2] | (flat[1::2] << 4), np.uint8).tobytes()


def channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """The dimension of a weight that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if int_attribute(node, "transB") else 1
    if node.op_type == "MatMul":
        return rank - 1
    return {"Conv": 0, "ConvTranspose": 1, "LSTM": 1, "GRU": 1, "RNN": 1}.get(node.op_type)


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [item for node in graph.node for attribute in node.attribute for item in graph_attributes(attribute)]
    return [graph, *(found for item in inner for found in _graphs(item))]
