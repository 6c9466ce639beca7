"""Residual blocks of any network that can be skipped: branches that are added to a shortcut, found in the traced graph.

A block is `shortcut + branch`. Without its branch the shortcut alone goes on, through whatever follows the addition; where that is an
activation that leaves its own outputs alone (ReLU), this is SkipNet's identity, and a projection on the shortcut is always computed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from engine.contract.errors import EngineError
from engine.networks.layers import CONVOLUTIONS, PRUNABLE

Inputs = Sequence[Tensor]
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CHANNELS_FIRST = (*CONVOLUTIONS, _BatchNorm, _InstanceNorm, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
MOST_NAMED = 8
"""Blocks that a message lists."""


@dataclass(frozen=True)
class ResidualBlock:
    """One addition `shortcut + branch` of a traced network, in terms of the graph's nodes."""

    name: str
    """What the names of its layers have in common, such as `layer1.0`."""
    layers: tuple[str, ...]
    """Names of the branch's convolutions and linear layers."""
    addition: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    """The branch's output."""
    nodes: tuple[fx.Node, ...]
    """All that is computed for the branch alone, in order."""
    entry: fx.Node
    """What branch and shortcut start from: the gate reads it."""
    rows: tuple[fx.Node, ...]
    """What the branch reads from outside that has examples in its first dimension."""
    shape: tuple[int, ...]
    """Of one example of the entry."""
    channel_axis: int
    """Of the entry, the batch being 0."""


@dataclass(frozen=True)
class Found:
    """The blocks of a network, and why other residual additions are none."""

    blocks: tuple[ResidualBlock, ...]
    refused: Mapping[str, str]
    """By name of the block: the reason."""


def traced(module: nn.Module) -> fx.GraphModule:
    """A copy of the module as a graph of its own layers. Raises `routing_impossible` where its forward pass depends on the data."""
    module = copy.deepcopy(module)
    if isinstance(module, fx.GraphModule):
        return module
    try:
        return fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise EngineError(
            "routing_impossible",
            f"Residual blocks cannot be found: the forward pass depends on the data ({str(error).splitlines()[0]}).",
            hint="Upload the network as ONNX: its graph is read there.",
        ) from error


def find_blocks(graph: fx.GraphModule, pairs: tuple[Inputs, Inputs]) -> Found:
    """Every residual block, in the order of the forward pass.

    Args:
        graph: The traced network.
        pairs: Its inputs for two different numbers of examples, which tell rows of examples from other dimensions.
    """
    seen = [_Observed(graph).of(inputs) for inputs in pairs]
    sizes = (len(pairs[0][0]), len(pairs[1][0]))
    ancestry = _Ancestry(graph)
    candidates = [item for node in graph.graph.nodes if (item := _candidate(graph, node, ancestry)) and _same_shapes(item, seen[0])]
    obstacles = {item: _obstacle(item, seen, sizes, ancestry) for item in candidates}
    free = {item.addition for item, why in obstacles.items() if why is None}
    blocks: list[ResidualBlock] = []
    refused: dict[str, str] = {}
    names: set[str] = set()
    for item, why in obstacles.items():
        if free & set(item.nodes):
            continue  # it holds other blocks, which are skipped one by one
        name = item.name if item.name not in names else item.layers[-1]
        names.add(name)
        if why is not None:
            refused[name] = why
            continue
        entry = _entry(item, seen[0], sizes[0], ancestry)
        if entry is None:
            refused[name] = "no floating-point value that branch and shortcut share has examples in its first dimension"
            continue
        shape = tuple(seen[0][entry].shape[1:])
        axis = _channel_axis(graph, item.nodes, len(shape))
        rows = tuple(node for node in _outer(item) if _is_rows([values[node] for values in seen], sizes))
        parts = (item.layers, item.addition, item.shortcut, item.branch, item.nodes)
        blocks.append(ResidualBlock(name, *parts, entry, rows, shape, axis))
    blocks.sort(key=lambda block: (ancestry.place[block.entry], ancestry.place[block.addition]))
    return Found(tuple(blocks), refused)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A residual addition, which may be skippable."""

    name: str
    layers: tuple[str, ...]
    addition: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    nodes: tuple[fx.Node, ...]


def _candidate(graph: fx.GraphModule, addition: fx.Node, ancestry: _Ancestry) -> _Candidate | None:
    """The addition as a block; None where it is no residual one."""
    if addition.op not in ("call_function", "call_method") or addition.target not in _ADDITIONS or addition.kwargs:
        return None
    operands = [operand for operand in addition.args if isinstance(operand, fx.Node)]
    if len(operands) != 2 or operands[0] is operands[1] or not ancestry.meet(*operands):
        return None
    layers = [_layers(graph, ancestry.only(one, other)) for one, other in (operands, operands[::-1])]
    if len(layers[0]) == len(layers[1]):
        return None
    side = 0 if len(layers[0]) > len(layers[1]) else 1
    branch = operands[side]
    own = _only_for(graph, branch, addition)
    return _Candidate(_common_name(layers[side]), layers[side], addition, operands[1 - side], branch, own)


def _same_shapes(item: _Candidate, values: Mapping[fx.Node, Any]) -> bool:
    """Whether nothing is broadcast, as the mask of an attention is."""
    parts = [values[node] for node in (item.shortcut, item.branch, item.addition)]
    return all(isinstance(part, Tensor) for part in parts) and len({tuple(part.shape) for part in parts}) == 1


def _obstacle(item: _Candidate, seen: Sequence[Mapping[fx.Node, Any]], sizes: tuple[int, int], ancestry: _Ancestry) -> str | None:
    """Why the branch cannot be left out for some examples and computed for others; None where it can."""
    if set(item.branch.users) != {item.addition}:
        return "something else reads what its branch gives"
    if not {str(node.target) for node in item.nodes if node.op == "call_module"}.issuperset(item.layers):
        return "something else reads a value inside of its branch"
    for values, size in zip(seen, sizes, strict=True):
        parts = [values[node] for node in (item.shortcut, item.branch, item.addition)]
        if not all(part.is_floating_point() for part in parts):
            return "it adds other things than floating-point numbers"
        if parts[0].ndim < 2 or len(parts[0]) != size:
            return "its first dimension does not count examples"
    for node in _outer(item):
        given = [values[node] for values in seen]
        if not (_is_rows(given, sizes) or _is_constant(node, given, ancestry)):
            return f"its branch reads {node.name}, which has no examples in its first dimension"
    return None


def _entry(item: _Candidate, values: Mapping[fx.Node, Any], size: int, ancestry: _Ancestry) -> fx.Node | None:
    """The latest value that the branch reads and the shortcut is, or is made of."""
    outer = _outer(item)
    shared = [node for node in values if node in outer and ancestry.holds(item.shortcut, node)]
    fit = [node for node in shared if isinstance(values[node], Tensor) and values[node].is_floating_point() and len(values[node]) == size]
    return fit[-1] if fit else None


def _outer(item: _Candidate) -> tuple[fx.Node, ...]:
    """What the branch reads that is computed outside of it."""
    own = set(item.nodes)
    return tuple(dict.fromkeys(node for inner in item.nodes for node in inner.all_input_nodes if node not in own))


def _is_rows(given: Sequence[Any], sizes: tuple[int, int]) -> bool:
    return all(isinstance(value, Tensor) and value.ndim > 0 and len(value) == size for value, size in zip(given, sizes, strict=True))


def _is_constant(node: fx.Node, given: Sequence[Any], ancestry: _Ancestry) -> bool:
    """Whether a value is the same whatever the examples are."""
    if isinstance(given[0], Tensor):
        return node.op == "get_attr" or (given[0].shape == given[1].shape and not ancestry.from_input(node))
    return bool(given[0] == given[1])


def _channel_axis(graph: fx.GraphModule, nodes: Sequence[fx.Node], dimensions: int) -> int:
    """Where the first layer of the branch that says so has its channels; without one, behind the batch."""
    for node in nodes:
        layer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, _CHANNELS_FIRST):
            return 1
        if isinstance(layer, _CHANNELS_LAST):
            return dimensions
    return 1


class _Observed(fx.Interpreter):
    """Runs the graph and keeps the value of every node."""

    def of(self, inputs: Inputs) -> dict[fx.Node, Any]:
        self._values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(*(item.clone() for item in inputs))
        return self._values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._values[n] = value
        return value


class _Ancestry:
    """What every node is computed from, itself included, as sets of bits."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.nodes = list(graph.graph.nodes)
        self.place = {node: number for number, node in enumerate(self.nodes)}
        self._bits: list[int] = []
        for number, node in enumerate(self.nodes):
            bits = 1 << number
            for parent in node.all_input_nodes:
                bits |= self._bits[self.place[parent]]
            self._bits.append(bits)
        self._inputs = sum(1 << number for number, node in enumerate(self.nodes) if node.op == "placeholder")

    def meet(self, one: fx.Node, other: fx.Node) -> bool:
        """Whether the two have anything in common."""
        return bool(self._of(one) & self._of(other))

    def only(self, one: fx.Node, other: fx.Node) -> list[fx.Node]:
        """What the first is computed from and the other is not."""
        bits = self._of(one) & ~self._of(other)
        return [node for number, node in enumerate(self.nodes) if bits >> number & 1]

    def holds(self, node: fx.Node, part: fx.Node) -> bool:
        """Whether `node` is `part`, or is computed from it."""
        return bool(self._of(node) >> self.place[part] & 1)

    def from_input(self, node: fx.Node) -> bool:
        """Whether it depends on any input."""
        return bool(self._of(node) & self._inputs)

    def _of(self, node: fx.Node) -> int:
        return self._bits[self.place[node]]


def _only_for(graph: fx.GraphModule, branch: fx.Node, addition: fx.Node) -> tuple[fx.Node, ...]:
    """What is computed for the branch and for nothing else, in order."""
    own: set[fx.Node] = set()
    nodes = list(graph.graph.nodes)
    for node in reversed(nodes):
        users = set(node.users)
        if node is branch or (users and users <= own and node.op != "placeholder"):
            if node is branch and users != {addition}:
                break
            own.add(node)
    return tuple(node for node in nodes if node in own)


def _layers(graph: fx.GraphModule, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    names = {str(node.target) for node in nodes if node.op == "call_module"}
    return tuple(name for name, layer in graph.named_modules() if name in names and isinstance(layer, PRUNABLE))


def _common_name(layers: Sequence[str]) -> str:
    """The path that all names share; the last name where they share none."""
    common: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in layers), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or layers[-1]


def listed(names: Sequence[str]) -> str:
    """Names as a message has them."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
