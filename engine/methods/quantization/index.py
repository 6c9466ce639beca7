"""Who writes and who reads each tensor of a graph, and what is known about it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import onnx

from engine.formats.onnx.contents import inner_nodes

FLOAT = onnx.TensorProto.FLOAT


class Index:
    """Looks tensors of the main graph up; subgraphs count as readers that nothing is known about."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.constants = {item.name: item for item in graph.initializer}
        self.inputs = {item.name for item in graph.input} - set(self.constants)
        self.outputs = {item.name for item in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.read_inside: set[str] = set()
        """Tensors that a subgraph reads."""
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            self.read_inside.update(_read_inside(node))
        known = (*graph.value_info, *graph.output, *graph.input)
        self._types = {item.name: item.type.tensor_type.elem_type for item in known} | {i.name: i.data_type for i in graph.initializer}
        self._ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in known if item.type.tensor_type.HasField("shape")}

    def is_float(self, name: str) -> bool:
        """Whether a tensor is known to hold float32."""
        return bool(self._types.get(name) == FLOAT)

    def rank(self, name: str) -> int | None:
        """Number of dimensions, where it is known."""
        return len(self.constants[name].dims) if name in self.constants else self._ranks.get(name)

    def flowing(self, node: onnx.NodeProto) -> list[int]:
        """Positions of the inputs that are float32 and computed."""
        return [i for i, name in enumerate(node.input) if name and name not in self.constants and self.is_float(name)]

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, where nothing else does: no output of the graph, no subgraph."""
        if name in self.outputs or name in self.read_inside or len(self.readers[name]) != 1:
            return None
        return self.readers[name][0]


MOVING = frozenset(
    [
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators whose results are among the numbers that they read, so that both are rounded the same way and nothing is lost."""


def exposed(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Tensors that a subgraph of these nodes reads, and those that reach one through operators that move.

    ONNX Runtime carries a DequantizeLinear through such operators to their readers, and ends the process where a subgraph is one.
    """
    found = {name for node in nodes for name in _read_inside(node)}
    for node in reversed(nodes):
        if node.op_type in MOVING and not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def is_apart(node: onnx.NodeProto) -> bool:
    """Whether an average is of elements that are apart: between integers the runtime makes an operator of it that knows no dilations, and
    then refuses the graph."""
    return node.op_type == "AveragePool" and any(size != 1 for item in node.attribute if item.name == "dilations" for size in item.ints)


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    for item in inner_nodes(node):
        yield from item.input
    for part in (node, *inner_nodes(node)):
        for attribute in part.attribute:
            # A branch may hand on what it did not compute.
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (item.name for item in graph.output)
