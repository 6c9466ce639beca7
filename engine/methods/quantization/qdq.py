"""Writes a graph with QuantizeLinear and DequantizeLinear pairs, which ONNX Runtime turns into integer kernels.

No operator is taken out or changed: without those kernels the file computes what the float file does, up to rounding.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.index import Index, exposed
from engine.methods.quantization.lookups import looked_up
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.rounding import Scaling, bias_fits, portable_scales, rounded, rounded_weight, scaling, weight_scales
from engine.methods.quantization.ties import FLOAT, turned


class QdqWriter:
    """Writes one graph; a copy with noise in place of rounding is written by a class that derives from it."""

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: Plan,
        scalings: Mapping[str, Scaling],
        *,
        by_channel: bool,
        levels: int = 127,
        portable: bool = False,
        refined: Mapping[str, tuple[NDArray[np.float32], NDArray[np.int8]]] | None = None,
        shifts: Mapping[str, NDArray[np.float64]] | None = None,
        kept: dict[Hashable, NDArray[Any]] | None = None,
    ) -> None:
        """Take a graph.

        Args:
            model: The float graph; changed in place.
            plan: What is rounded.
            scalings: How each tensor that the plan rounds is stored.
            by_channel: One weight scale for every output channel, instead of one for the tensor.
            levels: The largest 8-bit weight.
            portable: Whether weights are kept so small that no kernel saturates.
            refined: Scales and integers of weights that are not rounded to the nearest, by name.
            shifts: What rounding a weight adds to the mean of each channel; taken out of the bias.
            kept: Scales and integers of weights that other writers of the same graph and settings computed; takes this one's.
        """
        self._model, self._plan, self._scalings = model, plan, scalings
        self._by_channel, self._levels, self._portable = by_channel, levels, portable
        self._refined, self._shifts = refined or {}, shifts or {}
        self._kept = {} if kept is None else kept
        self._index = Index(model)
        self._fresh = FreshNames(model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._added: list[onnx.TensorProto] = []
        self._read: dict[str, str] = {}
        """What a quantized operator reads in place of a tensor."""
        self._axes = self._weight_axes()
        self._exposed = exposed(self._index.nodes)
        self._stored: dict[tuple[Any, ...], tuple[str, str, str]] = {}
        self._widened: dict[str, str] = {}
        self._parameters: dict[Any, tuple[str, str]] = {}

    def write(self) -> onnx.ModelProto:
        """The model with everything in place."""
        roundings = set(self._plan.rounded(self._index))
        graph = self._model.graph
        for name in sorted(self._index.inputs & roundings):
            self._read[name] = self._fresh.claim(f"{name}_dq")
            self.round(name, name, self._read[name])
        for node in list(graph.node):
            results = [name for name in node.output if name in roundings]
            written = {name: self._fresh.claim(f"{name}_float") for name in results if name in self._plan.owners}
            for position, name in enumerate(node.output):
                node.output[position] = written.get(name, name)
            self._quantize(node)
            for name in results:
                # A tensor that is rounded for everybody keeps its name behind the pair; else the pair stands beside it.
                self._read[name] = name if name in written else self._fresh.claim(f"{name}_dq")
                self.round(name, written.get(name, name), self._read[name])
        del graph.node[:]
        graph.node.extend(self._nodes)
        still_read = {name for node in graph.node for name in node.input} | self._index.read_inside | self._index.outputs
        kept = [item for item in graph.initializer if item.name in still_read]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._added])
        return self._model

    def round(self, tensor: str, before: str, after: str) -> None:
        """Write `before` to `after`, rounded as `tensor` is."""
        scale, zero = self.parameters(tensor)
        stored = self._fresh.claim(f"{tensor}_q")
        self.add("QuantizeLinear", [before, scale, zero], stored)
        self.add("DequantizeLinear", [stored, scale, zero], after)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append a node."""
        self._nodes.append(helper.make_node(kind, inputs, [output], self._fresh.claim(f"{output}_{kind}"), **attributes))

    def constant(self, wanted: str, array: NDArray[Any] | np.float32) -> str:
        """Store a constant under a name like `wanted`; returns the name."""
        name = self._fresh.claim(wanted)
        self._added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def parameters(self, tensor: str) -> tuple[str, str]:
        """Names of the scale and the zero point of a tensor; those that are rounded alike share them."""
        source = self._plan.source(tensor)
        if source not in self._parameters:
            how = self._scalings[source]
            self._parameters[source] = (self.constant(f"{source}_scale", how.scale), self.constant(f"{source}_zero_point", how.zero_point))
        return self._parameters[source]

    def weight_scales(self, name: str, values: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
        """The scales of a weight: a scalar, or one for each index of dimension `axis`."""
        return portable_scales(values, axis) if self._portable else weight_scales(values, axis, self._levels)

    def scales_of(self, name: str) -> tuple[NDArray[np.float32], int | None]:
        """The scales of a weight, and the dimension that they count."""
        axis = self._axes[name]
        return self.weight_scales(name, numpy_helper.to_array(self._index.constants[name]), axis), axis

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Let a node read what was rounded, with its weight and bias stored in integers."""
        position = self._plan.weights.get(node.name)
        if position is not None and node.op_type == "Gather":
            self._gather(node)
            return
        if position is not None:
            self._weigh(node, position)
        for place in self._plan.inputs.get(node.name, ()):
            node.input[place] = self._read[node.input[place]]
        for place in self._plan.constants.get(node.name, ()):
            node.input[place] = self._operand(node.input[place])
        self._nodes.append(node)

    def _weigh(self, node: onnx.NodeProto, position: int) -> None:
        name, factor = node.input[position], _taken(node, "alpha")
        values = numpy_helper.to_array(self._index.constants[name])
        values = values if factor == 1 else values * np.float32(factor)
        axis = self._axes[name]
        scales = self._once(("scales", name, factor, axis), lambda: self.weight_scales(name, values, axis))
        key: tuple[Any, ...] = (name, factor)
        bias = self._bias(node, values)
        if factor == 1 and name in self._shifts:
            bias = self._corrected(node, bias, self._shifts[name])
        if bias is not None:
            step = self._scalings[self._plan.source(node.input[0])].scale
            fitting = bias_fits(bias, scales, step)
            if not np.array_equal(fitting, scales):
                scales, key = fitting, (name, factor, node.name)
            units = np.asarray(scales * step, np.float32)
            integers = np.rint(bias.astype(np.float64) / units).astype(np.int32)
            parts = [self.constant(f"{node.input[2]}_quantized", integers), self.constant(f"{node.input[2]}_scale", units)]
            node.input[2] = self._fresh.claim(f"{node.input[2]}_dq")
            self.add("DequantizeLinear", parts, node.input[2], **({"axis": 0} if units.ndim else {}))
        stored = self._store(key, values, scales, axis)
        if stored[0] not in self._widened:
            self._widened[stored[0]] = self._fresh.claim(f"{name}_dq")
            self.add("DequantizeLinear", list(stored), self._widened[stored[0]], **({} if axis is None else {"axis": axis}))
        node.input[position] = self._widened[stored[0]]

    def _store(self, key: tuple[Any, ...], values: NDArray[Any], scales: NDArray[np.float32], axis: int | None) -> tuple[str, str, str]:
        """Names of a weight's integers, scales and zero points; the runtime wants to see the latter where it transposes weights."""
        if key not in self._stored:
            name = key[0]
            known = self._refined.get(name)
            same = known is not None and key == (name, 1.0) and np.array_equal(known[0], scales)
            if same and known is not None:
                integers = known[1]
            else:
                made_by = ("integers", *key, axis, scales.tobytes())
                integers = self._once(made_by, lambda: rounded_weight(values, scales, axis, self._levels))
            self._stored[key] = (
                self.constant(f"{name}_quantized", integers),
                self.constant(f"{name}_scale", scales),
                self.constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8)),
            )
        return self._stored[key]

    def _once(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What some writer made before."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _bias(self, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
        """The constant bias of a convolution or Gemm that multiplies rounded numbers, one number a channel, `beta` included."""
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in self._index.constants or node.name not in self._plan.inputs:
            return None
        channels = weight.shape[1 if node.op_type == "Gemm" and not int_attribute(node, "transB") else 0]
        values = numpy_helper.to_array(self._index.constants[name]) * np.float32(_taken(node, "beta"))
        return np.ascontiguousarray(np.broadcast_to(values.reshape(-1), (channels,)))

    def _corrected(self, node: onnx.NodeProto, bias: NDArray[Any] | None, shift: NDArray[np.float64]) -> NDArray[Any] | None:
        """The bias less what rounding adds; a convolution or Gemm without one gets it."""
        if bias is None:
            if node.op_type == "MatMul" or node.name not in self._plan.inputs or (len(node.input) > 2 and node.input[2]):
                return None
            del node.input[2:]
            node.input.append(f"{node.input[1]}_correction")
            bias = np.zeros(len(shift), np.float32)
        return np.asarray(bias - shift, np.float32)

    def _gather(self, node: onnx.NodeProto) -> None:
        """Pick rows of 8-bit numbers, and widen only those."""
        name = node.input[0]
        values = numpy_helper.to_array(self._index.constants[name])
        stored = self._store((name, 1.0), values, self.weight_scales(name, values, None), None)
        self._nodes += looked_up(node, stored, self._fresh, apart=node.output[0] in self._exposed)

    def _operand(self, name: str) -> str:
        """A constant that is added or multiplied, rounded like an activation."""
        key = ("operand", name)
        if key not in self._parameters:
            values = numpy_helper.to_array(self._index.constants[name])
            symmetric = any(how.zero_point.dtype == np.int8 for how in self._scalings.values())
            how = scaling(float(values.min(initial=0)), float(values.max(initial=0)), symmetric=symmetric)
            parts = [self.constant(f"{name}_quantized", rounded(values, how))]
            parts += [self.constant(f"{name}_scale", how.scale), self.constant(f"{name}_zero_point", how.zero_point)]
            after = self._fresh.claim(f"{name}_dq")
            self.add("DequantizeLinear", parts, after)
            self._parameters[key] = (after, "")
        return self._parameters[key][0]

    def _weight_axes(self) -> dict[str, int | None]:
        """The dimension of each weight that has a scale for each of its indices: None where readers want different ones."""
        axes: dict[str, set[int | None]] = {}
        ties = turned(self._model, FLOAT)
        picked = {node.input[0] for node in self._index.nodes if node.name in self._plan.weights and node.op_type == "Gather"}
        for node in self._index.nodes:
            if node.name in self._plan.weights:
                name = node.input[self._plan.weights[node.name]]
                if ties.get(name) in picked:
                    axes.setdefault(name, set()).add(None)
                axes.setdefault(name, set()).add(_channel_axis(node, list(self._index.constants[name].dims)) if self._by_channel else None)
        return {name: next(iter(found)) if len(found) == 1 else None for name, found in axes.items()}


def _channel_axis(node: onnx.NodeProto, dims: list[int]) -> int | None:
    """The dimension of a weight that counts output channels; None where there is one scale for all."""
    if node.op_type == "Gemm":
        return 0 if int_attribute(node, "transB") else 1
    if node.op_type == "MatMul":
        # A stack of matrices has one scale: the kernel knows none for each column of them.
        return 1 if len(dims) == 2 else None
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def _taken(node: onnx.NodeProto, name: str) -> float:
    """The factor `alpha` or `beta` of a Gemm, taken out of the node; 1 for other operators."""
    if node.op_type != "Gemm":
        return 1.0
    for position, attribute in enumerate(node.attribute):
        if attribute.name == name:
            value = float(attribute.f)
            del node.attribute[position]
            return value
    return 1.0
