"""Sizes and places that are written into a traced network, once channels are gone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from engine.structure.following.records import Families, Resized
from engine.structure.following.ties import essence, simplified, varying

Kept = Callable[[torch.Size, Families, int], Tensor]
"""Which places of a dimension of a value are left, by its families."""


def kept_by(roots: Tensor, gone: Tensor) -> Kept:
    """`gone` marks the numbers that are cut out, `roots` says which number stands for which."""

    def kept(shape: torch.Size, families: Families, dimension: int) -> Tensor:
        left = torch.ones(shape[dimension], dtype=torch.bool)
        for numbers in families:
            (core,) = essence(numbers)
            known = simplified(roots[core].expand(shape))
            if dimension in varying(known):
                left &= ~gone[known.movedim(dimension, -1).flatten(0, -2)[0] if known.dim() > 1 else known]
        return left

    return kept


def resize(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> bool:
    """Write the new sizes and places into a node, given its arguments as they were. Returns whether anything changed."""
    change = _CHANGES.get(made.name)
    if change is None:
        return False
    new = change(module, node, args, made, kept)
    if new is None or new == node.args:
        return False
    node.args = new
    return True


def _sizes(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    shape, families = made.results[0]
    place = {"unflatten": 2, "full": 0, "zeros": 0, "ones": 0}.get(made.name, 1)
    if node.op == "call_module" or len(args) <= place:
        _unflatten_layer(module, node, made, kept)
        return None
    listed = isinstance(args[place], list | tuple)
    sizes: list[Any] = list(args[place] if listed else args[place:])
    first = 0
    if made.name == "unflatten":
        first = int(args[1])
        first = first + len(shape) - len(sizes) + 1 if first < 0 else first
    for position, size in enumerate(sizes):
        if isinstance(size, int) and size != -1:
            sizes[position] = int(kept(shape, families, first + position).sum())
    return (*args[:place], sizes, *args[place + 1 :]) if listed else (*args[:place], *sizes)


def _unflatten_layer(module: fx.GraphModule, node: fx.Node, made: Resized, kept: Kept) -> None:
    """nn.Unflatten."""
    layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, torch.nn.Unflatten):
        shape, families = made.results[0]
        first = int(layer.dim) % len(made.shape)
        sizes: Sequence[Any] = layer.unflattened_size
        left = [size if size == -1 else int(kept(shape, families, first + place).sum()) for place, size in enumerate(sizes)]
        layer.unflattened_size = tuple(left)


def _split(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    if node.op == "call_module":
        return None
    along: Any = args[2] if len(args) > 2 else node.kwargs.get("dim", 0)
    dimension = int(along) % len(made.shape)
    before = [shape[dimension] for shape, _ in made.results]
    sizes = [int(kept(shape, families, dimension).sum()) for shape, families in made.results]
    if sizes == before:
        return args
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if target == "chunk":
        step = -(-sum(sizes) // len(sizes))
        if sizes == [min(step, max(0, sum(sizes) - step * place)) for place in range(len(sizes))]:
            return args
    node.target = "split" if node.op == "call_method" else torch.split
    node.kwargs = {}
    return (args[0], sizes, dimension)


def _narrow(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    if len(args) < 4 or not all(isinstance(item, int) for item in args[1:4]):
        return None
    dimension, start, length = args[1] % len(made.shape), args[2], args[3]
    left = kept(made.shape, made.source, dimension)
    start = start % made.shape[dimension] if start < 0 else start
    return (args[0], args[1], int(left[:start].sum()), int(left[start : start + length].sum()))


def _select(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    if len(args) < 3 or not all(isinstance(item, int) for item in args[1:3]):
        return None
    dimension = args[1] % len(made.shape)
    return (args[0], args[1], int(kept(made.shape, made.source, dimension)[: args[2] % made.shape[dimension]].sum()))


def _index_select(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    if len(args) < 3 or not isinstance(args[2], fx.Node) or args[2].op != "get_attr":
        return None
    dimension = args[1] % len(made.shape)
    return (args[0], args[1], _places(module, node, args[2], kept(made.shape, made.source, dimension)))


def _getitem(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], made: Resized, kept: Kept) -> tuple[Any, ...] | None:
    given = args[1] if isinstance(args[1], tuple) else (args[1],)
    used = sum(item is not None and item is not Ellipsis for item in given)
    found: list[Any] = []
    place = 0
    for item in given:
        if item is None or item is Ellipsis:
            found.append(item)
            place += 0 if item is None else len(made.shape) - used
            continue
        left = kept(made.shape, made.source, place)
        found.append(item if bool(left.all()) else _part(module, node, item, left))
        place += 1
    return (args[0], tuple(found) if isinstance(args[1], tuple) else found[0])


def _part(module: fx.GraphModule, node: fx.Node, item: Any, left: Tensor) -> Any:
    """An index into a dimension of which some places are left."""
    rank = left.cumsum(0) - 1
    if isinstance(item, int):
        return int(rank[item])
    if isinstance(item, fx.Node):
        return _places(module, node, item, left) if item.op == "get_attr" else item
    if not isinstance(item, slice) or any(isinstance(bound, fx.Node) for bound in (item.start, item.stop, item.step)):
        return item
    chosen = torch.arange(len(left))[item]
    places = rank[chosen[left[chosen]]].tolist()
    if not places:
        return slice(0, 0)
    steps = {after - before for before, after in itertools.pairwise(places)}
    if len(steps) > 1:
        return places
    step = steps.pop() if steps else 1
    open_end = item.stop is None and step == 1
    start = None if item.start is None and places[0] == 0 else places[0]
    return slice(start, None if open_end else places[-1] + 1, None if step == 1 else step)


def _places(module: fx.GraphModule, node: fx.Node, index: fx.Node, left: Tensor) -> fx.Node:
    """A constant with the places that are left of those that another constant holds."""
    old = (
        module.get_parameter(str(index.target))
        if str(index.target) in dict(module.named_parameters())
        else module.get_buffer(str(index.target))
    )
    old = old % len(left)
    new = (left.cumsum(0) - 1).to(old.device)[old[left.to(old.device)[old]]]
    name = f"{node.name}_places"
    module.register_buffer(name, new)
    with module.graph.inserting_before(node):
        return module.graph.get_attr(name)


def as_sum(graph: fx.Graph, node: fx.Node, shape: torch.Size, over: set[int]) -> fx.Node:
    """Write a mean over channels as their sum divided by how many there were: those that go carried zero. Returns the new value."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
    dims = [int(dim) % len(shape) for dim in ([given] if isinstance(given, int) else given or range(len(shape)))]
    others = [dim for dim in dims if dim not in over]
    channels = [dim for dim in dims if dim in over]
    count = 1
    for dim in channels:
        count *= shape[dim]
    with graph.inserting_before(node):
        value: fx.Node = graph.call_function(torch.sum, (node.args[0], channels), {"keepdim": keep or bool(others)})
        value = graph.call_function(torch.div, (value, count))
        if others:
            value = graph.call_function(torch.mean, (value, others), {"keepdim": True})
            if not keep:
                value = graph.call_function(torch.squeeze, (value, dims))
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return value


Change = Callable[[fx.GraphModule, fx.Node, tuple[Any, ...], Resized, Kept], tuple[Any, ...] | None]
_CHANGES: Mapping[str, Change] = {
    **dict.fromkeys(
        ("view", "reshape", "expand", "unflatten", "broadcast_to", "full", "zeros", "ones", "new_full", "new_zeros", "new_ones"), _sizes
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "narrow": _narrow,
    "select": _select,
    "index_select": _index_select,
    "getitem": _getitem,
}
