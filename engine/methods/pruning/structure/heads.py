"""Attention heads: which rows and columns of the layers around an attention belong to one head, and room for fewer heads.

Heads are found by what attention does (Vaswani et al., 2017), not by how it was written: every output of a linear layer gets a number,
the numbers follow the network's own operations on shapes up to the two products of queries, keys and values, and what meets in one
product is one head. Fused or separate projections, grouped queries and heads in any dimension are the same to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

_SHAPING = frozenset(
    [
        "chunk",
        "clone",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "getitem",
        "index_select",
        "movedim",
        "mT",
        "narrow",
        "permute",
        "repeat_interleave",
        "reshape",
        "select",
        "split",
        "squeeze",
        "swapaxes",
        "t",
        "tensor_split",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    ]
)
"""Operations that move numbers and change none."""
_ELEMENTWISE = frozenset(
    ["add", "div", "dropout", "float", "masked_fill", "mul", "neg", "softmax", "sub", "to", "truediv", "type", "where"]
)
_PASSING = (nn.LayerNorm, nn.Dropout, nn.Identity, nn.Softmax, nn.RMSNorm)
_SIZED = {"unflatten": 2, "reshape": 1, "view": 1, "expand": 1}
"""Operations that are told sizes, and the place of the sizes among their arguments."""


@dataclass(frozen=True)
class Heads:
    """The heads of one attention; every layer has the same number of rows or columns in each of them."""

    count: int
    producers: dict[nn.Module, list[list[int]]]
    """Layers that compute queries, keys and values: for each head, its rows."""
    consumers: dict[nn.Module, list[list[int]]]
    """Layers that read the outputs of the attention: for each head, its columns."""


@dataclass(frozen=True)
class _Scores:
    """Products of queries and keys, before or after softmax."""

    query: Tensor
    key: Tensor


class _Meeting:
    """Queries, keys and values that met: their numbers, one row for each product of matrices in the batch."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        lead = torch.broadcast_tensors(*(item[..., 0, 0] for item in (query, key, value)))[0].shape  # type: ignore[no-untyped-call]
        rows = [item.expand(*lead, *item.shape[-2:])[..., 0, :].reshape(-1, item.shape[-1]) for item in (query, key, value)]
        self.rows = torch.cat(rows, 1).tolist()
        self.readers: dict[nn.Module, list[int]] = {}


class _Numbering(fx.Interpreter):
    """Runs a network and follows the numbers of its linear layers' outputs through it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.starts: dict[nn.Module, int] = {}
        self.calls: Counter[nn.Module] = Counter()
        self.meetings: list[_Meeting] = []
        self.numbers: dict[fx.Node, Any] = {}
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        self.total = 0
        for layer in dict.fromkeys(layers):
            self.starts[layer] = self.total
            self.total += layer.out_features

    def run_node(self, n: fx.Node) -> Any:
        """One node, first as it is, then on numbers."""
        value = super().run_node(n)
        found = self._follow(n, value)
        if found is not None:
            self.numbers[n] = found
        return value

    def _follow(self, node: fx.Node, value: Any) -> Any:
        given = [item for item in node.all_input_nodes if item in self.numbers]
        if node.op == "call_module":
            return self._through_layer(self.module.get_submodule(str(node.target)), node, value)
        if node.op not in ("call_function", "call_method") or not given:
            return None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attend(node, value)
        if name in ("matmul", "bmm"):
            return self._product(node, value)
        if name == "cat":
            joined: Any = node.args[0]
            parts = [self.numbers.get(item) for item in joined]
            whole = all(isinstance(item, Tensor) for item in parts)
            return torch.cat(parts, *node.args[1:], **node.kwargs) if whole else None  # type: ignore[arg-type]
        first = self.numbers[given[0]]
        if isinstance(first, _Scores):
            return first if name in _SHAPING | _ELEMENTWISE else None
        if name in _SHAPING and len(given) == 1 and given[0] is node.args[0]:
            args: Any = map_aggregate(node.args, self._number)
            kwargs: Any = map_aggregate(node.kwargs, self._number)
            run: Any = getattr(args[0], name) if node.op == "call_method" else node.target
            return run(*(args[1:] if node.op == "call_method" else args), **kwargs)
        return self._same_shape(given, value) if name in _ELEMENTWISE else None

    def _through_layer(self, layer: nn.Module, node: fx.Node, value: Any) -> Any:
        source = node.args[0]
        before = self.numbers.get(source) if isinstance(source, fx.Node) else None
        if isinstance(layer, nn.Linear):
            self.calls[layer] += 1
            if isinstance(before, Tensor):
                columns = before.reshape(-1, before.shape[-1])[0]
                meeting = int(columns.min()) // self.total - 1
                if meeting >= 0 and meeting == int(columns.max()) // self.total - 1:
                    self.meetings[meeting].readers[layer] = (columns % self.total).tolist()
            return torch.arange(layer.out_features, device=value.device).add(self.starts[layer]).expand(value.shape)
        if isinstance(layer, nn.Flatten) and isinstance(before, Tensor):
            return layer(before)
        if isinstance(before, _Scores):
            return before if isinstance(layer, _PASSING) else None
        return before if isinstance(layer, _PASSING) and isinstance(before, Tensor) else None

    def _attend(self, node: fx.Node, value: Tensor) -> Tensor | None:
        given: Any = [*node.args[:3], *(node.kwargs.get(name) for name in ("query", "key", "value")[len(node.args) :])]
        query, key, values = (self.numbers.get(item) for item in given)
        if not (isinstance(query, Tensor) and isinstance(key, Tensor) and isinstance(values, Tensor)):
            return None
        if node.kwargs.get("enable_gqa"):
            key, values = (item.repeat_interleave(query.shape[-3] // item.shape[-3], -3) for item in (key, values))
        return self._meet(query, key, values, value)

    def _product(self, node: fx.Node, value: Tensor) -> Any:
        left, right = (self.numbers.get(item) if isinstance(item, fx.Node) else None for item in node.args[:2])
        if not isinstance(right, Tensor) or right.dim() < 3:
            return None
        if isinstance(left, _Scores):
            return self._meet(left.query, left.key, right, value)
        return _Scores(left, right.transpose(-1, -2)) if isinstance(left, Tensor) else None

    def _meet(self, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        self.meetings.append(_Meeting(query, key, value))
        # Outputs of an attention have the numbers of their values, moved to a range that tells where they met.
        return (value % self.total + len(self.meetings) * self.total)[..., :1, :].expand(output.shape)

    def _same_shape(self, given: Sequence[fx.Node], value: Any) -> Any:
        for node in given:
            item = self.numbers[node]
            if isinstance(item, _Scores) or item.shape == getattr(value, "shape", None):
                return item
        return None

    def _number(self, item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return item
        return self.numbers.get(item, self.env.get(item))

    def heads(self) -> list[tuple[Heads, dict[int, int]]]:
        """The heads of every attention whose parts can be told apart, and the head of each number."""
        owners = [(start, layer) for layer, start in self.starts.items()]
        found = []
        for meeting in self.meetings:
            head_of = _components(meeting.rows)
            count = len(set(head_of.values()))
            producers: dict[nn.Module, list[list[int]]] = {}
            for number in sorted(head_of):
                start, layer = max((pair for pair in owners if pair[0] <= number % self.total), key=lambda pair: pair[0])
                producers.setdefault(layer, [[] for _ in range(count)])[head_of[number]].append(number % self.total - start)
            consumers: dict[nn.Module, list[list[int]]] = {}
            for layer, columns in meeting.readers.items():
                lists = consumers.setdefault(layer, [[] for _ in range(count)])
                for column, number in enumerate(columns):
                    if number in head_of:
                        lists[head_of[number]].append(column)
            layers = [*producers, *consumers]
            even = all(len({len(rows) for rows in lists}) == 1 for lists in (*producers.values(), *consumers.values()))
            plain = max(head_of, default=0) < self.total and len(set(layers)) == len(layers)
            if count > 1 and consumers and even and plain and all(self.calls[layer] == 1 for layer in layers):
                found.append((Heads(count, producers, consumers), head_of))
        return found


def find(module: nn.Module, inputs: Sequence[Tensor]) -> list[Heads]:
    """The heads of every attention of the network; nothing where the network cannot be traced.

    Sizes that an imported graph has for its number of heads are left open, so that they follow the weights.
    """
    graph = _traced(module)
    if graph is None or not any(_is_product(node) for node in graph.graph.nodes):
        return []
    numbering = _Numbering(graph)
    with torch.no_grad():
        numbering.run(*inputs)
    found = numbering.heads()
    if graph is module and found:
        _leave_open(graph, numbering, [head_of for _, head_of in found])
    return [heads for heads, _ in found]


def _traced(module: nn.Module) -> fx.GraphModule | None:
    if isinstance(module, fx.GraphModule):
        return module
    try:
        return fx.symbolic_trace(module)
    except Exception:  # Tracing runs the network's own code on stand-ins: whatever it fails with, its heads stay.
        return None


def _is_product(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in ("matmul", "bmm", "scaled_dot_product_attention")


def _components(rows: Sequence[Sequence[int]]) -> dict[int, int]:
    """Number → its set, where all numbers of a row are in one set; sets count in the order of their smallest number."""
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while parent.setdefault(number, number) != number:
            number = parent[number]
        return number

    for row in rows:
        first = root(row[0])
        for number in row:
            low, high = sorted((first, root(number)))
            parent[high] = first = low
    order = {number: place for place, number in enumerate(sorted({root(number) for number in parent}))}
    return {number: order[root(number)] for number in parent}


def _leave_open(module: fx.GraphModule, numbering: _Numbering, known: Sequence[dict[int, int]]) -> None:
    head_of = torch.full((numbering.total,), -1)
    for heads in known:
        head_of[torch.tensor(list(heads))] = torch.tensor(list(heads.values()))
    for node in module.graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        numbers = numbering.numbers.get(node)
        if name in _SIZED and isinstance(numbers, Tensor):
            heads_here = head_of.to(numbers.device)[numbers % numbering.total]
            for dimension in _varying(heads_here):
                _open(module.graph, node, name, dimension, numbers.shape)
    module.recompile()


def _varying(values: Tensor) -> Iterator[int]:
    for dimension in range(values.dim()):
        if bool((values != values.narrow(dimension, 0, 1)).any()):
            yield dimension


def _open(graph: fx.Graph, node: fx.Node, name: str, dimension: int, shape: Sequence[int]) -> None:
    """Let one size of a node follow from the others."""
    place = _SIZED[name]
    listed = len(node.args) > place and isinstance(node.args[place], list | tuple)
    sizes: list[Any] = list(node.args[place] if listed else node.args[place:])  # type: ignore[arg-type]
    first = 0
    if name == "unflatten":
        first = int(node.args[1])  # type: ignore[arg-type]
        first = first if first >= 0 else len(shape) - len(sizes) + first + 1
    position = dimension - first
    if not 0 <= position < len(sizes) or not isinstance(sizes[position], int) or sizes[position] == -1:
        return
    for other, size in enumerate(sizes):
        if isinstance(size, int) and size == -1:
            sizes[other] = shape[first + other]
            if first + other == 0:
                with graph.inserting_before(node):
                    sizes[other] = graph.call_method("size", (next(iter(graph.nodes)), 0))
    sizes[position] = -1
    node.args = (*node.args[:place], sizes) if listed else (*node.args[:place], *sizes)
