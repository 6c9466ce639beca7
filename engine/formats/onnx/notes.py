"""What exporters write beside a graph for people who debug them: stack traces, file names, scopes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from engine.formats.onnx.flat import subgraphs


def remove_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, without notes on its nodes, values and graphs, those of subgraphs and functions too.

    They hold paths of the machine that exported the network, and can be a third of a small file. What stands on the model itself stays:
    people and tools keep class names there.
    """
    for item in (*_parts(model.graph), *model.functions, *(part for function in model.functions for part in _nodes(function.node))):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    return model


def has_notes(model: onnx.ModelProto) -> bool:
    """Whether there is anything to remove."""
    items: Iterator[Any] = iter((*_parts(model.graph), *model.functions, *(part for f in model.functions for part in _nodes(f.node))))
    return any(item.doc_string or item.metadata_props for item in items)


def _parts(graph: onnx.GraphProto) -> Iterator[Any]:
    yield graph
    yield from (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
    yield from _nodes(graph.node)


def _nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from (item.t for item in node.attribute if item.HasField("t"))
        for inner in subgraphs(node):
            yield from _parts(inner)
