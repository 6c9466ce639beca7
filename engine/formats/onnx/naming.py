"""Names in a graph that is written: inputs and outputs keep theirs, and nothing inside is called the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from engine.formats.onnx.flat import subgraphs


class FreshNames:
    """Hands out names that no value, node or subgraph of a graph has; a number is added where a name is taken."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = value_names(graph) | {item.name for item in graph.value_info}
        self._add_nodes(graph)

    def claim(self, wanted: str) -> str:
        """A free name like `wanted`; it is taken from now on."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name

    def _add_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            self._taken.add(node.name)
            for inner in subgraphs(node):
                self._add_nodes(inner)


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all values of a graph and of its subgraphs."""
    found = {item.name for item in (*graph.initializer, *graph.input, *graph.output)}
    for node in graph.node:
        found |= {*node.input, *node.output}
        for inner in subgraphs(node):
            found |= value_names(inner)
    return found


def provisional(prefix: str, count: int) -> list[str]:
    """Names that no network has, for inputs or outputs that are named once all the rest is."""
    return [f"modelpress::{prefix}_{index}" for index in range(count)]


def name_ends(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The model, changed in place, with these inputs and outputs; inner values of the same names get other ones."""
    graph = model.graph
    names = FreshNames(graph)
    ends = {
        **{item.name: name for item, name in zip(graph.input, inputs, strict=True)},
        **{item.name: name for item, name in zip(graph.output, outputs, strict=True)},
    }
    wanted = set(ends.values())
    inner = {item.name for item in graph.initializer} | {name for node in graph.node for name in node.output}
    moved = {name: names.claim(f"{name}_inner") for name in sorted((inner & wanted) - set(ends))}
    rename(graph, {**ends, **moved})
    return model


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give the values of a graph, those of its subgraphs too, other names."""
    for item in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
        for inner in subgraphs(node):
            rename(inner, names)
