"""Which operators of a graph compute in 8 bits, and which tensors are rounded for them.

`weighted` quantizes convolutions and matrix products with stored weights, and what stands between two of them without harm: operators
that move values (MaxPool, Reshape), that the integer kernels absorb (Relu, Clip) or that average and add what was rounded anyway. All
inputs of such an operator come from quantized ones, and all its readers are quantized. So the stretches that rounding
destroys stay in float: attention scores, masks and softmax, normalizations spelled out, and the last operators before an output.
`all` quantizes whatever ONNX Runtime has an integer kernel for.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx

from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.index import MOVING, Index, exposed, is_apart

Operators = Literal["weighted", "all"]

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators with integer kernels for stored weights."""
STORED = frozenset({"ConvTranspose", "Gather"})
"""Operators without such a kernel: their weights are stored in 8 bits and widened where they are used."""
ABSORBED = frozenset({"Relu", "Clip"})
"""Activations that the runtime leaves to the rounding that follows, where its range is the same."""
_MIXING = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Resize", "Sigmoid"})
_ANYWHERE = MOVING | _MIXING | ABSORBED | {"MatMul", "Pad", "Softmax", "Sub", "Tanh", "Where"}
_OPERANDS = frozenset({"Add", "Concat", "MatMul", "Mul", "Sub"})
"""Operators whose constants are read in 8 bits, with `all`."""
MASKED = -5000.0
"""What lies below, on its way to a softmax, is a mask that was added: exporters write -1e4, -1e9, the lowest float or -infinity."""
LOOPS = frozenset({"Loop", "Scan"})
"""Operators that take tensors along from step to step."""
_FIRST_ONLY = ABSORBED | {"Pad", "Resize"}
"""Operators whose further floats are settings."""


@dataclass(frozen=True)
class Plan:
    """What the writer of a QDQ graph has to do."""

    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions of the computed inputs that a node reads in 8 bits, by its name."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Position of the weight that a node reads in 8 bits."""
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions of other constants that a node reads in 8 bits: what is added or multiplied, with `all`."""
    owners: frozenset[str] = frozenset()
    """Tensors that are rounded where they are computed, for every reader."""
    same_range: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are rounded like another one."""
    upper: Mapping[str, float] = field(default_factory=dict)
    """Upper bounds of the Clip in front of a tensor."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that compute in 8 bits or store a weight in 8 bits."""
        return tuple(dict.fromkeys((*self.inputs, *self.weights)))

    def rounded(self, index: Index) -> list[str]:
        """Every tensor that is rounded, in the order of the graph's inputs and nodes."""
        read = {node.input[i] for node in index.nodes for i in self.inputs.get(node.name, ())}
        order = [*sorted(index.inputs), *(name for node in index.nodes for name in node.output)]
        return [name for name in order if name in read or name in self.owners]

    def source(self, tensor: str) -> str:
        """The tensor whose range decides how `tensor` is rounded."""
        while tensor in self.same_range:
            tensor = self.same_range[tensor]
        return tensor


def plan(index: Index, operators: Operators, excluded: Collection[str], *, symmetric: bool) -> Plan:
    """Choose what is quantized.

    Args:
        index: The prepared graph, all of whose nodes have names of their own.
        operators: What is quantized besides weights.
        excluded: Names of nodes that stay in float.
        symmetric: Whether activations are signed, so that rounding does not cut at zero as Relu does.
    """
    weights = {
        node.name: place for node in index.nodes if node.name not in excluded and (place := weight_position(index, node)) is not None
    }
    products = {node.name for node in index.nodes if node.name in weights and node.op_type in PRODUCTS}
    kept_whole = exposed(index.nodes)
    others = _others(index, operators, excluded, products, kept_whole)
    draft = _Draft(
        {node.name: (0,) if node.name in products else tuple(index.flowing(node)) for node in index.nodes if node.name in products | others}
    )
    for node in index.nodes:
        if node.op_type in ABSORBED and node.name in others:
            draft.absorb(index, node, symmetric=symmetric)
        elif node.name in others or (node.name in products and node.op_type == "Conv"):
            draft.owners.update(name for name in node.output if name and index.is_float(name))
            if node.op_type in MOVING and node.name in others:
                draft.same.update(dict.fromkeys(node.output, node.input[0]))
    constants = {
        node.name: tuple(i for i, name in enumerate(node.input) if name in index.constants and index.is_float(name))
        for node in index.nodes
        if node.name in others and node.op_type in _OPERANDS
    }
    constants = {name: found for name, found in constants.items() if found}
    return Plan(draft.inputs, weights, constants, frozenset(draft.owners - kept_whole), draft.same, draft.upper)


def weight_position(index: Index, node: onnx.NodeProto) -> int | None:
    """Where a node reads a weight that can be stored in 8 bits; None where it reads none."""

    def stored(position: int) -> bool:
        name = node.input[position] if len(node.input) > position else ""
        # What a loop takes along stays in float, and would be stored twice.
        return name in index.constants and index.is_float(name) and LOOPS.isdisjoint(reader.op_type for reader in index.readers[name])

    kind = node.op_type
    if node.domain not in ("", "ai.onnx") or not index.is_float(node.output[0]):
        return None
    if kind in ("Conv", "ConvTranspose"):
        return 1 if stored(1) and not stored(0) and index.is_float(node.input[0]) else None
    if kind == "Gemm":
        return 1 if stored(1) and not stored(0) and index.is_float(node.input[0]) and not int_attribute(node, "transA") else None
    if kind == "MatMul":
        return 1 if stored(1) and not stored(0) and index.is_float(node.input[0]) and (index.rank(node.input[1]) or 0) >= 2 else None
    if kind == "Gather":
        return 0 if stored(0) and index.rank(node.input[0]) == 2 and int_attribute(node, "axis") == 0 else None
    return None


def _others(index: Index, operators: Operators, excluded: Collection[str], products: set[str], kept_whole: set[str]) -> set[str]:
    """Names of the operators without weights that compute in 8 bits."""
    kinds = _ANYWHERE if operators == "all" else MOVING | _MIXING | ABSORBED
    found = {
        node.name
        for node in index.nodes
        if node.op_type in kinds
        and node.domain in ("", "ai.onnx")
        and not is_apart(node)
        and node.name not in excluded
        and node.name not in products
        and kept_whole.isdisjoint(node.output)
        and index.flowing(node)
        and all(index.is_float(name) for name in node.output if name)
        and (node.op_type not in _FIRST_ONLY or index.flowing(node) == [0])
    }
    if operators == "all":
        return {node.name for node in index.nodes if node.name in found and _operands_fit(index, node)}
    convolutions = {node.output[0] for node in index.nodes if node.name in products and node.op_type == "Conv"}
    while True:
        sources = convolutions | index.inputs | {name for node in index.nodes if node.name in found for name in node.output}
        kept = {node.name for node in index.nodes if node.name in found and _stands_between(index, node, sources, found | products)}
        if kept == found:
            return found
        found = kept


def _operands_fit(index: Index, node: onnx.NodeProto) -> bool:
    """Whether the constants that a node adds or multiplies are ordinary numbers: eight bits hold no mask beside anything else."""
    if node.op_type not in _OPERANDS:
        return True
    for name in node.input:
        tensor = index.constants.get(name)
        if tensor is None or not index.is_float(name) or not tensor.raw_data:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if not np.isfinite(values).all() or values.min(initial=0) <= MASKED or values.max(initial=0) >= -MASKED:
            return False
    return True


def _stands_between(index: Index, node: onnx.NodeProto, sources: set[str], quantized: set[str]) -> bool:
    """Whether what a node reads is rounded anyway, and what it writes is read by quantized operators only."""
    floats = [name for name in (node.input[:1] if node.op_type in _FIRST_ONLY else node.input) if name and index.is_float(name)]
    if node.op_type in ABSORBED:
        return node.input[0] in sources and node.input[0] not in index.inputs
    if any(name not in sources for name in floats):
        return False
    return all(
        name not in index.outputs
        and name not in index.read_inside
        and index.readers[name]
        and all(reader.name in quantized and set(_places(reader, name)) <= set(index.flowing(reader)) for reader in index.readers[name])
        for name in node.output
        if name
    )


def _places(node: onnx.NodeProto, name: str) -> list[int]:
    return [i for i, item in enumerate(node.input) if item == name]


@dataclass
class _Draft:
    """The parts of a plan that activations change; see there."""

    inputs: dict[str, tuple[int, ...]]
    owners: set[str] = field(default_factory=set)
    same: dict[str, str] = field(default_factory=dict)
    upper: dict[str, float] = field(default_factory=dict)

    def absorb(self, index: Index, node: onnx.NodeProto, *, symmetric: bool) -> None:
        """Round after a Relu or Clip instead of before it, where nothing else reads what stands between and rounding cuts the same way.

        Where it does not (signed bytes around zero, a Clip above zero), both tensors are rounded alike: what the activation cuts off
        need not be told apart before it.
        """
        before, after = node.input[0], node.output[0]
        low, high = _bounds(index, node)
        owned = before in self.owners
        self.owners.add(after)
        if high is not None and math.isfinite(high):
            self.upper[after] = high
        if not owned or index.only_reader(before) is None or low is None:
            return
        if low <= 0 and not symmetric:
            self.owners.discard(before)
            self.inputs.pop(node.name)
        elif before not in self.same:
            self.same[before] = after


def _bounds(index: Index, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """What a Relu or Clip cuts at, infinity where it does not; None where that is computed."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    found: list[float | None] = []
    for position, attribute, absent in ((1, "min", -math.inf), (2, "max", math.inf)):
        name = node.input[position] if len(node.input) > position else ""
        value: float | None = next((item.f for item in node.attribute if item.name == attribute), absent)
        if name:
            constant = index.constants.get(name)
            value = None if constant is None else float(onnx.numpy_helper.to_array(constant).reshape(-1)[0])
        found.append(value)
    return found[0], found[1]
