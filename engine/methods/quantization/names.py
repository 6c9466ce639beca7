"""Names for new tensors and nodes of a graph that nothing else in the file has."""

from collections.abc import Iterator

import onnx


class FreshNames:
    """Hands out names that no tensor, node or subgraph of the model has; a number is added where a name is taken."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken = set(_names(model.graph))

    def claim(self, wanted: str) -> str:
        """A free name like `wanted`; it is taken from now on."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield item.name
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _names(inner)
