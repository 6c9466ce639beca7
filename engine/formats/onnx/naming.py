"""Names in a graph that is written: inputs and outputs keep theirs, and nothing inside is called the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from engine.formats.onnx.flat import subgraphs


class FreeNames:
    """Names that a graph has not taken yet, at any depth."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken: set[str] = set()
        self._add(graph)

    def free(self, wanted: str) -> str:
        """`wanted`, with a line at its end for each time that it is taken."""
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def _add(self, graph: onnx.GraphProto) -> None:
        self._taken |= value_names(graph)
        self._add_nodes(graph)

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
    names = FreeNames(graph)
    ends = {
        **{item.name: name for item, name in zip(graph.input, inputs, strict=True)},
        **{item.name: name for item, name in zip(graph.output, outputs, strict=True)},
    }
    wanted = set(ends.values())
    inner = {item.name for item in graph.initializer} | {name for node in graph.node for name in node.output}
    moved = {name: names.free(f"{name}_inner") for name in sorted((inner & wanted) - set(ends))}
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
