"""All nodes of an ONNX graph in one list, those of its subgraphs too, with names that are unique across scopes. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from engine.formats.onnx.contents import constant_tensor, constant_tensors
from engine.formats.onnx.importer.patterns import Patterns

NodeAttributes = dict[str, Any]
"""Attributes of a node that is made, by name: what `onnx.helper.make_node` takes."""
CARRY = "(carry)"
"""A made-up operator: what goes into a subgraph, or comes out of it, under another name."""


@dataclass(frozen=True, eq=False)
class FlatNode:
    """One node; `inputs` and `outputs` are unique names, empty where one is left out."""

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.NodeProto
    outer: str
    """First named output of the main graph's node that holds this one (of the node itself in the main graph)."""

    @property
    def carries(self) -> bool:
        """Whether the node is none of the file's own."""
        return self.kind == CARRY


@dataclass
class FlatGraph:
    """The nodes in an order that computes, the constants, and who reads what."""

    nodes: list[FlatNode] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    readers: dict[str, list[tuple[FlatNode, int]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, model: onnx.ModelProto) -> FlatGraph:
        """The main graph, its spelled-out layers put together, with everything inside of it."""
        flat = cls()
        flat._add(model.graph, {}, "", None, nodes=Patterns(model.graph, constant_tensors(model)).rewritten())
        for node in flat.nodes:
            for index, name in enumerate(node.inputs):
                flat.readers[name].append((node, index))
        return flat

    def stored(self) -> set[str]:
        """Names of all values that follow from constants alone."""
        known = set(self.constants)
        for node in self.nodes:
            if not node.carries and not subgraphs(node.proto) and all(name in known for name in node.inputs if name):
                known.update(node.outputs)
        return known

    def _add(
        self,
        graph: onnx.GraphProto,
        around: Mapping[str, str],
        prefix: str,
        outer: str | None,
        *,
        nodes: Iterable[onnx.NodeProto] | None = None,
    ) -> dict[str, str]:
        names = {**around, **{item.name: prefix + item.name for item in (*graph.input, *graph.initializer)}}
        self.constants.update((prefix + item.name, item) for item in graph.initializer)
        for position, node in enumerate(graph.node if nodes is None else nodes):
            top = outer if outer is not None else first_output(node)
            inputs = tuple(names.get(name, prefix + name) if name else "" for name in node.input)
            outputs = tuple(prefix + name if name else "" for name in node.output)
            names.update((name, prefix + name) for name in node.output if name)
            if node.op_type == "Constant" and outputs and (tensor := constant_tensor(node)) is not None:
                self.constants[outputs[0]] = tensor
            flat = FlatNode(node.op_type, node.domain, inputs, outputs, node, top)
            for number, inner in enumerate(subgraphs(node)):
                inside = f"{prefix}{position}.{number}/"
                given = _given(flat, inner)
                self.nodes += [_carry(flat, source, inside + target) for source, target in given if source]
                scope = self._add(inner, names, inside, top)
                results = [scope.get(item.name, inside + item.name) for item in inner.output]
                if node.op_type in ("Loop", "SequenceMap"):
                    results = results[1:] if node.op_type == "Loop" else results
                self.nodes += [_carry(flat, source, target) for source, target in zip(results, outputs, strict=False) if target]
            self.nodes.append(flat)
        return names


def first_output(node: onnx.NodeProto) -> str:
    """The first output of a node that is not left out: of a recurrent layer whose last state alone is read, that state."""
    return next(filter(None, node.output), "")


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [graph for item in node.attribute for graph in (*([item.g] if item.HasField("g") else []), *item.graphs)]


def _given(node: FlatNode, inner: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Outer value and inner name of what a subgraph is called with."""
    skipped = {"Loop": 2, "Scan": 0, "SequenceMap": 0}.get(node.kind)
    if skipped is None:
        return iter(())
    return zip(node.inputs[skipped:], [item.name for item in inner.input][skipped:], strict=False)


def _carry(node: FlatNode, source: str, target: str) -> FlatNode:
    return FlatNode(CARRY, "", (source,), (target,), node.proto, node.outer)
