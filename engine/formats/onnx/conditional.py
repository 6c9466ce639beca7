"""Branches that only some examples take, put into an If that computes them for those examples alone. Imports no torch.

Where(c, s + f, s), with one truth c for each example, needs f only where c is true. What is computed for f and for nothing else moves
into the If: it runs on the rows that c chooses, and not at all where c chooses none. The graph gives the same outputs as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from engine.contract.errors import EngineError
from engine.formats.onnx.flat import subgraphs

_MOVING = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})
_SIZES = frozenset(
    {"Shape", "Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Cast", "Add", "Sub", "Mul", "Div", "Reshape", "Constant", "Identity"}
)
"""What sizes are made of shapes with."""


@dataclass(frozen=True)
class _Branch:
    """One Where, and what moves into its If."""

    where: NodeProto
    addition: NodeProto
    shortcut: str
    output: str
    """Of the branch: f."""
    chosen: str
    """One truth an example, shape (N,)."""
    inside: list[NodeProto] = field(default_factory=list)


def conditional(model: ModelProto) -> tuple[ModelProto, int]:
    """The model with every such branch in an If, changed in place, and how many there are.

    Shapes have to be known as far as the exporter writes them: a symbol in the first dimension is the batch. Raises `export_failed`
    where a branch reads something that belongs to no example and is not constant.
    """
    graph = model.graph
    index = _Index(graph)
    branches = [found for node in graph.node if (found := index.branch(node)) is not None]
    for branch in branches:
        _rewrite(graph, index, branch)
    moved = {id(node) for branch in branches for node in (*branch.inside, branch.addition)}
    kept = [node for node in index.nodes if id(node) not in moved]
    ifs = {id(branch.where): branch for branch in branches}
    del graph.node[:]
    for node in kept:
        graph.node.extend(index.made[id(node)] if id(node) in ifs else [node])
    _remove_unread(graph)
    names = {name for node in graph.node for name in (*node.input, *node.output, *_captured(node))}
    names |= {item.name for item in (*graph.input, *graph.output)}
    for items in (graph.value_info, graph.initializer):
        left = [item for item in items if item.name in names]
        del items[:]
        items.extend(left)
    return model, len(branches)


def _remove_unread(graph: GraphProto) -> None:
    """Take out nodes that give nothing to anything, as those are that brought a condition into the shape of its Where."""
    read = {item.name for item in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input, _captured(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))


class _Index:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = list(graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in {*node.input, *_captured(node)}:
                self.readers.setdefault(name, []).append(node)
        self.stored = {item.name: item for item in graph.initializer}
        self.results = {item.name for item in graph.output}
        self.types = {item.name: item.type.tensor_type for item in (*graph.input, *graph.value_info, *graph.output)}
        self.made: dict[int, list[NodeProto]] = {}
        self._taken = {name for node in self.nodes for name in (*node.input, *node.output)} | set(self.stored)

    def fresh(self, wanted: str) -> str:
        """A name that nothing has."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def branch(self, where: NodeProto) -> _Branch | None:
        """The branch that ends in this node, if it is such a Where."""
        if where.op_type != "Where":
            return None
        condition, total, shortcut = list(where.input)
        addition = self.producers.get(total)
        if addition is None or addition.op_type != "Add" or shortcut not in addition.input or self._read_elsewhere(total, where):
            return None
        output = next((name for name in addition.input if name != shortcut), shortcut)
        chosen = self._rows(condition)
        if chosen is None or output not in self.producers or self._read_elsewhere(output, addition):
            return None
        inside = self._only_for(output)
        return _Branch(where, addition, shortcut, output, chosen, inside) if inside else None

    def is_constant(self, name: str) -> bool:
        """Whether a value comes with the graph."""
        return name in self.stored or (name in self.producers and self.producers[name].op_type == "Constant")

    def is_single(self, name: str) -> bool:
        """Whether a value is a stored number without dimensions."""
        return name in self.stored and not self.stored[name].dims

    def has_rows(self, name: str) -> bool:
        """Whether the first dimension of a value is the batch."""
        dims = list(self.types[name].shape.dim) if name in self.types else []
        return bool(dims) and not dims[0].HasField("dim_value")

    def sizes(self, name: str) -> list[NodeProto] | None:
        """The nodes that make a value out of shapes, in order; None where anything else takes part."""
        found: dict[int, NodeProto] = {}
        waiting = [name]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or node.op_type not in _SIZES:
                return None
            found[id(node)] = node
            if node.op_type != "Shape":
                waiting += [item for item in node.input if item and item not in self.stored]
        return [node for node in self.nodes if id(node) in found]

    def _read_elsewhere(self, name: str, reader: NodeProto) -> bool:
        return name in self.results or [id(node) for node in self.readers.get(name, ())] != [id(reader)]

    def _rows(self, condition: str) -> str | None:
        """The truth of each example that a condition of shape (N, 1, …) holds."""
        dims = self.types[condition].shape.dim if condition in self.types else ()
        if not self.has_rows(condition) or any(dim.dim_value != 1 for dim in list(dims)[1:]):
            return None
        name = condition
        while len(self.types[name].shape.dim) != 1:
            node = self.producers.get(name)
            if node is None or node.op_type not in _MOVING or node.input[0] not in self.types:
                return None
            name = node.input[0]
        return name if self.has_rows(name) else None

    def _only_for(self, output: str) -> list[NodeProto]:
        """What is computed for a value and for nothing else, in order."""
        inside: dict[int, NodeProto] = {id(self.producers[output]): self.producers[output]}
        for node in reversed(self.nodes):
            names = [name for name in node.output if name]
            readers = [id(reader) for name in names for reader in self.readers.get(name, ())]
            if readers and set(readers) <= set(inside) and not self.results.intersection(names):
                inside[id(node)] = node
        return [node for node in self.nodes if id(node) in inside]


def _rewrite(graph: GraphProto, index: _Index, branch: _Branch) -> None:
    """Make the nodes that stand in the place of the Where."""
    base = branch.where.output[0]
    kind = index.types[branch.shortcut].elem_type
    name = {key: index.fresh(f"{base}.{key}") for key in ("any", "places", "rows", "shortcut", "sum", "then", "else")}
    inner: list[NodeProto] = []
    constants = {
        key: numpy_helper.from_array(np.array(value, dtype=np.int64), index.fresh(f"{base}.{key}"))
        for key, value in (("column", [-1, 1]), ("line", [-1]))
    }
    inner.append(helper.make_node("NonZero", [branch.chosen], [index.fresh(f"{base}.nonzero")]))
    inner.append(helper.make_node("Reshape", [inner[0].output[0], constants["line"].name], [name["rows"]]))
    inner.append(helper.make_node("Reshape", [inner[0].output[0], constants["column"].name], [name["places"]]))
    selected = {branch.shortcut: name["shortcut"]}
    inner.append(helper.make_node("Gather", [branch.shortcut, name["rows"]], [name["shortcut"]], axis=0))
    own = {item for node in branch.inside for item in node.output}
    for item in dict.fromkeys(item for node in branch.inside for item in (*node.input, *_captured(node)) if item and item not in own):
        if item not in selected and not index.is_constant(item):
            inner += _select(index, item, name["rows"], selected)
    inner += [_renamed(node, selected) for node in branch.inside]
    operands = [selected.get(item, item) for item in branch.addition.input]
    inner.append(_copied(branch.addition, operands, [name["sum"]]))
    inner.append(helper.make_node("ScatterND", [branch.shortcut, name["places"], name["sum"]], [name["then"]]))
    then = helper.make_graph(inner, "taken", [], [helper.make_tensor_value_info(name["then"], kind, None)], list(constants.values()))
    then.initializer.extend(index.stored[item] for item in _weights_of(index, branch))
    skip = [helper.make_node("Identity", [branch.shortcut], [name["else"]])]
    otherwise = helper.make_graph(skip, "skipped", [], [helper.make_tensor_value_info(name["else"], kind, None)])
    index.made[id(branch.where)] = [
        *_any(index, branch.chosen, name["any"], base),
        helper.make_node("If", [name["any"]], [base], name=branch.where.name, then_branch=then, else_branch=otherwise),
    ]


def _any(index: _Index, chosen: str, result: str, base: str) -> list[NodeProto]:
    """Nodes that say whether any example is chosen; where the truth is `p > t` with one number t, whether the largest p is."""
    most = index.fresh(f"{base}.most")
    compared = index.producers.get(chosen)
    if compared is not None and compared.op_type == "Greater" and index.is_single(compared.input[1]):
        return [
            helper.make_node("ReduceMax", [compared.input[0]], [most], keepdims=0),
            helper.make_node("Greater", [most, compared.input[1]], [result]),
        ]
    number = index.fresh(f"{base}.number")
    return [
        helper.make_node("Cast", [chosen], [number], to=TensorProto.INT32),
        helper.make_node("ReduceMax", [number], [most], keepdims=0),
        helper.make_node("Cast", [most], [result], to=TensorProto.BOOL),
    ]


def _select(index: _Index, item: str, rows: str, selected: dict[str, str]) -> list[NodeProto]:
    """Nodes that make of an outer value what the branch sees of it, entered in `selected`."""
    if index.has_rows(item):
        selected[item] = index.fresh(f"{item}.taken")
        return [helper.make_node("Gather", [item, rows], [selected[item]], axis=0)]
    sizes = index.sizes(item)
    if sizes is None:
        kind = index.types.get(item)
        if kind is not None and kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            return []  # the same whatever the examples are
        raise EngineError(
            "export_failed",
            f"A branch that may be skipped reads {item!r}, which has no examples in its first dimension.",
            hint="Name the block in ignore.",
        )
    made: list[NodeProto] = []
    for node in sizes:
        if node.op_type == "Shape" and node.input[0] not in selected and index.has_rows(node.input[0]):
            made += _select(index, node.input[0], rows, selected)
        fresh = {name: index.fresh(f"{name}.taken") for name in node.output if name not in selected}
        if fresh:
            selected |= fresh
            made.append(_renamed(node, selected))
    return made


def _weights_of(index: _Index, branch: _Branch) -> list[str]:
    """Stored tensors that nothing outside of the branch reads."""
    inside = {id(node) for node in branch.inside}
    names = dict.fromkeys(item for node in branch.inside for item in node.input if item in index.stored)
    return [item for item in names if all(id(reader) in inside for reader in index.readers[item]) and item not in index.results]


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """A copy of a node that reads and gives values by their other names, also inside of its own subgraphs."""
    copy = _copied(node, [names.get(item, item) for item in node.input], [names.get(item, item) for item in node.output])
    for inner in subgraphs(copy):
        renamed = [_renamed(item, names) for item in inner.node]
        del inner.node[:]
        inner.node.extend(renamed)
        for result in inner.output:
            result.name = names.get(result.name, result.name)
    return copy


def _copied(node: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    del copy.output[:]
    copy.input.extend(inputs)
    copy.output.extend(outputs)
    return copy


def _captured(node: NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node read from around them."""
    for graph in subgraphs(node):
        own = {item.name for item in (*graph.initializer, *graph.input)} | {name for inner in graph.node for name in inner.output}
        read = [name for inner in graph.node for name in (*inner.input, *_captured(inner))]
        yield from (name for name in (*read, *(item.name for item in graph.output)) if name not in own)
