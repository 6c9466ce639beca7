"""How large the constants become that a runtime computes while it loads a graph, found before it does. Imports no torch.

ONNX Runtime folds whatever follows from constants alone, without any bound: `Range(0, 1e12)` is forty bytes in the file. Here the
shapes of such values are followed, and small values computed, since shapes are made of them. What cannot be followed is taken to be as
large as its largest input; the bound on the job's memory holds the rest.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import onnx

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.folded_shapes import BY_VALUE, REFUSED, SHRINKING, Folded, Shape, shape_of
from engine.formats.onnx.folded_values import VALUES, Attributes

_SMALL = 4096
"""Elements up to which a value is computed."""
_ELEMENT_BYTES, _FOLLOWED_BYTES = 4, 144
"""Of a tensor; of a vector, which may be a shape, and which shape inference follows element by element."""
_UNKNOWABLE = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout", "If", "Loop", "Scan"]
)
"""Operators that no runtime computes beforehand."""


def check_folding(model: onnx.ModelProto) -> None:
    """Raises `tensor_limit_exceeded` for a graph whose constants would take more than the limit, beside a few times what it stores."""
    stored = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    budget = _Budget(limits.MAX_FOLDED_BYTES + 4 * stored * _ELEMENT_BYTES)
    known = {
        item.name: dims
        for item in model.graph.input
        if (dims := tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)) and min(dims) > 0
    }
    with np.errstate(all="ignore"):
        _walk(model.graph, {}, known, budget)


@dataclass
class _Budget:
    bytes_left: int

    def take(self, folded: Folded, node: onnx.NodeProto, found: Mapping[str, Folded]) -> None:
        """By as much as a value is larger than what it is computed from: chains of steps over a weight need its place again and again."""
        grown = folded.elements - max((found[name].elements for name in node.input if name in found), default=0)
        self.bytes_left -= max(0, grown) * (_FOLLOWED_BYTES if len(folded.shape) == 1 and folded.exact else _ELEMENT_BYTES)
        if self.bytes_left < 0:
            name = "".join(char if " " <= char <= "~" else "?" for char in (node.name or node.output[0])[:120])
            raise EngineError(
                "tensor_limit_exceeded",
                f"Node {name!r} ({node.op_type}) computes a constant of {folded.elements} elements: with it the constants of the graph take "
                f"more than {limits.MAX_FOLDED_BYTES >> 20} MiB beside what the file stores.",
                hint="Make such values depend on an input, or store what is really needed.",
                details={"node": name},
            )


def _walk(graph: onnx.GraphProto, outer: MutableMapping[str, Folded], inputs: Mapping[str, Shape], budget: _Budget) -> None:
    found = ChainMap[str, Folded]({}, outer)  # copies nothing: there may be as many branches as nodes
    for tensor in graph.initializer:
        found[tensor.name] = _of_tensor(tensor)
    for node in graph.node:
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                _walk(inner, found, inputs, budget)
        folded = _fold(node, found, inputs)
        if folded is None:
            continue
        if node.op_type != "Constant":
            budget.take(folded, node, found)
        for index, name in enumerate(node.output):
            if name:
                found[name] = folded if index == 0 else Folded((folded.elements,), exact=False)


def _fold(node: onnx.NodeProto, found: Mapping[str, Folded], inputs: Mapping[str, Shape]) -> Folded | None:
    """What a node computes from constants alone; None where it does not."""
    if node.op_type == "Constant":
        return _of_constant(node)
    if node.op_type in ("Shape", "Size") and node.input:
        return _measured(node, found, inputs)
    if node.op_type in _UNKNOWABLE or not node.input or any(name and name not in found for name in node.input):
        return None
    given = [found[name] if name else None for name in node.input]
    attributes = _attributes(node)
    shape, bound = shape_of(node.op_type, given, attributes), max((item.elements for item in given if item), default=0)
    small = bound <= _SMALL and node.op_type in SHRINKING if shape is None else math.prod(shape) <= _SMALL
    if small and node.op_type in VALUES and all(item is None or item.value is not None for item in given):
        try:
            value = np.asarray(VALUES[node.op_type]([item and item.value for item in given], attributes))
            return Folded(value.shape, value if value.size <= _SMALL else None)
        except REFUSED:
            pass
    if shape is None:
        return Folded((bound,), exact=False)
    return Folded(shape, exact=node.op_type in BY_VALUE or all(item is None or item.exact for item in given))


def _measured(node: onnx.NodeProto, found: Mapping[str, Folded], inputs: Mapping[str, Shape]) -> Folded | None:
    """The shape of what is known, as a value."""
    known = found.get(node.input[0])
    shape = known.shape if known is not None and known.exact else inputs.get(node.input[0])
    if shape is None:
        return None
    attributes = _attributes(node)
    part = shape[attributes.get("start", 0) : attributes.get("end")]
    value = np.asarray(math.prod(shape) if node.op_type == "Size" else part, np.int64)
    return Folded(value.shape, value)


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _of_tensor(tensor: onnx.TensorProto) -> Folded:
    shape = tuple(tensor.dims)
    if math.prod(shape) > _SMALL or tensor.data_type == onnx.TensorProto.STRING:
        return Folded(shape)
    try:
        return Folded(shape, onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError):
        return Folded(shape)


def _of_constant(node: onnx.NodeProto) -> Folded | None:
    for item in node.attribute:
        if item.HasField("t"):
            return _of_tensor(item.t)
        if item.name.startswith(("value_int", "value_float")):
            value = np.asarray(onnx.helper.get_attribute_value(item))
            return Folded(value.shape, value if value.size <= _SMALL else None)
    return None
