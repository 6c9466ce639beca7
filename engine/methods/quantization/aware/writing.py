"""The graphs of quantization-aware training: the float graph whose constants are trained, the graph that is trained, and the QDQ file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engine.formats.onnx.importer.rebuild import OWN_DOMAIN
from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.graph import all_nodes
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.qdq import QdqWriter
from engine.methods.quantization.rounding import Scaling, rounded, scaling

FAKE_QUANTIZE = "FakeQuantize"
"""Operator of the domain `modelpress`: its attribute `tensor` names the tensor whose scaling rounds its input."""


LOOK_UP = "LookUp"
"""Gather, of rows of a trained matrix, which an operator of the standard would fold where it knows the places."""


@dataclass(frozen=True)
class Weighed:
    """A layer with a weight in 8 bits."""

    weight: str
    axis: int | None
    bias: str | None = None
    """The constant that is stored in integers, too."""
    source: str | None = None
    """The tensor whose scaling rounds what the layer multiplies; None where that is not rounded."""
    is_table: bool = False
    """Whether rows of the weight are picked, not multiplied."""


def trainable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with constants of its own for every place that may be trained apart, changed in place.

    Factors of a Gemm go into what they multiply. Biases, and vectors of one repeated number, are not shared: exporters store equal ones once,
    whatever they belong to. Weights that several layers share stay shared.
    """
    fresh = FreshNames(model.graph)
    constants = {item.name: item for item in model.graph.initializer}
    uses = Counter(name for node in all_nodes(model.graph) for name in node.input)
    uses.update(item.name for item in model.graph.output)
    scaled: dict[tuple[str, float], str] = {}

    def own(name: str, factor: float = 1.0, length: int | None = None) -> str:
        """Another name for a constant, times `factor` and as a vector of `length` numbers."""
        dims = list(constants[name].dims)
        if uses[name] == 1 and factor == 1 and (length is None or dims == [length]):
            return name
        uses[name] -= 1
        values = numpy_helper.to_array(constants[name])
        values = values * values.dtype.type(factor)
        copied = fresh.claim(name)
        uses[copied] = 1
        values = values if length is None else np.broadcast_to(values.reshape(-1), (length,))
        constants[copied] = model.graph.initializer.add()
        constants[copied].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), copied))
        return copied

    for node in model.graph.node:
        factors = _factors(node)
        for position, name in enumerate(node.input):
            if name not in constants or constants[name].data_type != onnx.TensorProto.FLOAT:
                continue
            factor = factors.get(position, 1.0)
            if position == 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm"):
                node.input[position] = own(name, factor, _width(node, constants))
            elif factor != 1:
                if (name, factor) not in scaled:
                    scaled[name, factor] = own(name, factor)
                node.input[position] = scaled[name, factor]
            elif len(constants[name].dims) == 1 and uses[name] > 1 and _repeats(constants[name]):
                node.input[position] = own(name)
    read = {name for node in all_nodes(model.graph) for name in node.input} | {item.name for item in model.graph.output}
    kept = [item for item in model.graph.initializer if item.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _factors(node: onnx.NodeProto) -> dict[int, float]:
    """`alpha` and `beta` of a Gemm by the input that takes them, removed from the node; those that are computed keep theirs."""
    found: dict[int, float] = {}
    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx"):
        return found
    for position, name in ((1, "alpha"), (2, "beta")):
        attribute = next((item for item in node.attribute if item.name == name), None)
        if attribute is not None and len(node.input) > position:
            found[position] = float(attribute.f)
            node.attribute.remove(attribute)
    return found


def _width(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """Output channels of a Gemm with a stored matrix, whose bias may be one number or a row of a matrix."""
    if node.op_type != "Gemm" or node.input[1] not in constants:
        return None
    return int(constants[node.input[1]].dims[0 if int_attribute(node, "transB") else 1])


def _repeats(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return bool(values.size and (values == values[0]).all())


@dataclass
class Layout:
    """What the graph that is trained rounds, besides its activations."""

    layers: list[Weighed] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)
    """Constants of it that were rounded already."""


class TrainingWriter(QdqWriter):
    """Writes the graph that is trained: one operator in the place of each pair, weights and biases in float and listed in `layout`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layout = Layout()

    def write(self) -> onnx.ModelProto:
        """The model, with the domain of the operator."""
        model = super().write()
        model.opset_import.append(helper.make_opsetid(OWN_DOMAIN, 1))
        return model

    def round(self, tensor: str, before: str, after: str) -> None:
        """One operator of our own."""
        self.add(FAKE_QUANTIZE, [before], after, domain=OWN_DOMAIN, tensor=self._plan.source(tensor))

    def _weigh(self, node: onnx.NodeProto, position: int) -> None:
        name = node.input[position]
        multiplied = node.input[0] if node.name in self._plan.inputs else None
        source = None if multiplied is None else self._plan.source(multiplied)
        bias = node.input[2] if source is not None and len(node.input) > 2 and node.input[2] in self._index.constants else None
        self.layout.layers.append(Weighed(name, self._axes[name], bias, source))

    def _gather(self, node: onnx.NodeProto) -> None:
        self.layout.layers.append(Weighed(node.input[0], None, is_table=True))
        node.op_type, node.domain = LOOK_UP, OWN_DOMAIN
        self._nodes.append(node)

    def _operand(self, name: str) -> str:
        key = ("operand", name)
        if key not in self._parameters:
            values = numpy_helper.to_array(self._index.constants[name])
            symmetric = any(how.zero_point.dtype == np.int8 for how in self._scalings.values())
            how = scaling(float(values.min(initial=0)), float(values.max(initial=0)), symmetric=symmetric)
            stored = rounded(values, how).astype(np.int32) - int(how.zero_point)
            after = self.constant(f"{name}_rounded", np.asarray(stored.astype(np.float32) * how.scale))
            self.layout.fixed |= {name, after}
            self._parameters[key] = (after, "")
        return self._parameters[key][0]


class TrainedWriter(QdqWriter):
    """Writes the QDQ file with the weights' scales that were learned."""

    def __init__(self, *args: Any, scales: Mapping[tuple[str, int | None], NDArray[np.float32]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scales = scales

    def weight_scales(self, name: str, values: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
        """The learned ones, where the weight has any."""
        return self._scales[name, axis] if (name, axis) in self._scales else super().weight_scales(name, values, axis)


def write_trained(
    model: onnx.ModelProto,
    plan: Plan,
    *,
    values: Mapping[str, NDArray[Any]],
    scalings: Mapping[str, Scaling],
    scales: Mapping[tuple[str, int | None], NDArray[np.float32]],
    **grid: Any,
) -> onnx.ModelProto:
    """The QDQ graph of a trained float graph, changed in place.

    Args:
        model: What `trainable` made.
        plan: What is rounded.
        values: The trained constants.
        scalings: How activations are stored.
        scales: Of weights, by name and dimension; others reach as far as their largest magnitude.
        grid: How the writer rounds weights, see `QdqWriter`.
    """
    for item in model.graph.initializer:
        if item.name in values:
            item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[item.name]).reshape(tuple(item.dims)), item.name))
    return TrainedWriter(model, plan, scalings, scales=scales, **grid).write()
