"""Operations that move elements and change none: the numbers are moved the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from engine.structure.following.follower import CROSSED, FIXED_SIZE, Follower, Rule
from engine.structure.following.records import Call, Families, Resized
from engine.structure.following.ties import FIXED, simplified, varying

_LOOKED_UP = "they are looked up at places that depend on the data"


def moved(follower: Follower, call: Call) -> None:
    """The same operation on the numbers. In a traced network the node is noted, as its sizes may have to follow."""
    source, families = call.first, follower.families(call.first)
    if any(
        follower.families(item)
        for item in tree_leaves((call.args[1:], dict(call.kwargs)))
        if isinstance(item, Tensor) and item is not source
    ):
        follower.fix((call.args, dict(call.kwargs)), f"{call.name} looks them up")
        return
    run = _on_numbers(call)
    parts = [run(numbers) for numbers in families]
    if isinstance(call.result, Tensor):
        found = tuple(simplified(part) for part in parts)
        follower.give(call.result, found)
        results: tuple[tuple[torch.Size, Families], ...] = ((call.result.shape, found),)
    else:
        split = [tuple(simplified(part[place]) for part in parts) for place in range(len(call.result))]
        for item, found in zip(call.result, split, strict=True):
            follower.give(item, found)
        results = tuple((item.shape, found) for item, found in zip(call.result, split, strict=True))
    note(follower, call, results)


def made(follower: Follower, call: Call) -> None:
    """One number repeated: in a traced network the sizes that stand there follow those of what it is combined with."""
    if follower.node is not None and isinstance(call.result, Tensor):
        _repeated(follower, follower.node, call, (), set(range(call.result.dim())))


def _repeated(follower: Follower, node: Any, call: Call, families: Families, over: set[int]) -> None:
    """Numbers for the dimensions `over` which something is repeated as often as is written down."""
    sizes = _literal_sizes(node, call)
    found = list(families)
    for dimension, size in enumerate(call.result.shape):
        if dimension in over and size > 1 and sizes[dimension] == size:
            shape = [size if place == dimension else 1 for place in range(call.result.dim())]
            found.append(follower.repeats(*shape).expand(call.result.shape))
    follower.give(call.result, found)
    source = call.result if call.name in _FACTORIES.split() else call.first
    follower.resized.append(Resized(node, call.name, follower.families(source), source.shape, ((call.result.shape, tuple(found)),)))


def _literal_sizes(node: Any, call: Call) -> list[Any]:
    """The sizes of a node that makes a tensor, as far as numbers stand there; None for the others."""
    place = 0 if call.name in _FACTORIES.split() else 1
    given = node.args[place:]
    if given and isinstance(given[0], list | tuple):
        given = given[0]
    rank = call.result.dim()
    sizes = [item if isinstance(item, int) else None for item in given][:rank]
    return [*sizes, *[None] * (rank - len(sizes))]


def expanded(follower: Follower, call: Call) -> None:
    """A spread of what has the size one."""
    families = tuple(numbers.expand(call.result.shape) for numbers in follower.families(call.first))
    missing = call.result.dim() - call.first.dim()
    over = {place for place in range(call.result.dim()) if place < missing or call.first.shape[place - missing] == 1}
    if follower.node is not None:
        _repeated(follower, follower.node, call, families, over)
    else:
        follower.give(call.result, families)


def note(follower: Follower, call: Call, results: tuple[tuple[torch.Size, Families], ...]) -> None:
    """Remember a node whose arguments may hold sizes."""
    if follower.node is not None:
        follower.resized.append(Resized(follower.node, call.name, follower.families(call.first), call.first.shape, results))


def _on_numbers(call: Call) -> Callable[[Tensor], Any]:
    rest, kwargs = call.args[1:], dict(call.kwargs)
    if not call.args:
        kwargs.pop(next(iter(call.kwargs)))
    if call.name in ("view", "reshape", "view_as", "reshape_as", "expand", "expand_as", "broadcast_to"):
        shape = call.result.shape
        return lambda numbers: numbers.expand(shape) if call.name.startswith(("expand", "broadcast")) else numbers.reshape(shape)
    if call.name in ("T", "mT", "H", "mH"):
        return lambda numbers: numbers.mT if call.name in ("mT", "mH") else numbers.T
    return lambda numbers: call.function(numbers, *rest, **kwargs)


def joined(follower: Follower, call: Call) -> None:
    """Concatenation and stacking. What stands beside channels and has a fixed size stays there."""
    parts = list(call.first)
    along = int(call.argument(1, "dim", 0))
    families = [follower.families(part) for part in parts]
    rank = call.result.dim() - (call.name == "stack")
    if call.name != "stack":
        along %= max(1, rank)
        kept = [(part, found) for part, found in zip(parts, families, strict=True) if part.dim() == rank and part.numel()]
        parts, families = [part for part, _ in kept], [found for _, found in kept]
    columns: list[list[Tensor]] = []
    for place, found in enumerate(families):
        for numbers in found:
            key = varying(numbers) - {along}
            match = next((column for column in columns if not column[place].any() and _matches(column, key, along)), None)
            if match is None:
                match = [torch.zeros((), dtype=torch.int64).expand(part.shape) for part in parts]
                columns.append(match)
            match[place] = numbers
    follower.give(call.result, [_join(call, column, along) for column in columns])


def _matches(column: list[Tensor], key: set[int], along: int) -> bool:
    known = [varying(numbers) - {along} for numbers in column if numbers.any()]
    return all(other == key or not other or not key for other in known)


def _join(call: Call, column: list[Tensor], along: int) -> Tensor:
    rank = column[0].dim()
    small = column
    for dimension in range(rank):
        if all(item.stride(dimension) == 0 or item.shape[dimension] == 1 for item in column) and (
            dimension != along or call.name == "stack"
        ):
            small = [item.narrow(dimension, 0, 1) for item in small]
    whole: Tensor = torch.stack(small, along) if call.name == "stack" else torch.cat(small, along)
    return whole.expand(call.result.shape)


def padded(follower: Follower, call: Call) -> None:
    """Padding repeats a channel along positions; beside channels it adds some of a fixed size."""
    found = []
    for given in follower.families(call.first):
        numbers = given
        amounts: Any = call.argument(1, "pad")
        for place in range(len(amounts) // 2):
            dimension = call.first.dim() - 1 - place
            beside = [0, 0] * place + list(amounts[2 * place : 2 * place + 2])
            if dimension not in varying(given):
                numbers = _first_along(numbers, dimension, call.result.shape[dimension])
            elif call.argument(2, "mode", "constant") == "constant":
                numbers = functional.pad(numbers, beside, value=FIXED)
            elif any(beside):
                follower.ties.fix(given, CROSSED)
                numbers = _first_along(numbers, dimension, call.result.shape[dimension])
        found.append(numbers)
    follower.give(call.result, found)


def _first_along(numbers: Tensor, dimension: int, size: int) -> Tensor:
    shape = list(numbers.shape)
    shape[dimension] = size
    return numbers.narrow(dimension, 0, 1).expand(shape)


def windowed(follower: Follower, call: Call) -> None:
    """Pooling, resizing and sampling: channels stay in their dimension, positions are mixed. What says where to sample stays whole."""
    follower.fix((call.args[1:], dict(call.kwargs)), f"{call.name} reads them as places")
    value, result = call.first, call.result[0] if isinstance(call.result, tuple) else call.result
    rank = _SPATIAL.get(call.name[-2:], value.dim() - 2)
    along = value.dim() - rank - 1
    found = []
    for numbers in follower.families(value):
        if varying(numbers) == {0} and along > 0:
            found.append(numbers[(slice(None), *[slice(0, 1)] * (value.dim() - 1))].expand(result.shape))
            continue
        vector = follower.aligned(numbers, along)
        found.append(vector.reshape([-1 if dimension == along else 1 for dimension in range(result.dim())]).expand(result.shape))
    follower.give(result, found)


def unfolded(follower: Follower, call: Call) -> None:
    """Windows laid beside one another (im2col): each channel becomes as many rows as a window has places."""
    if call.function is not functional.unfold:
        moved(follower, call)
        return
    found = []
    for numbers in follower.families(call.first):
        vector = follower.aligned(numbers, 1)
        rows = vector.repeat_interleave(call.result.shape[1] // len(vector))
        found.append(rows[None, :, None].expand(call.result.shape))
    follower.give(call.result, found)


def looked_up(follower: Follower, call: Call) -> None:
    """Elements at places that are data; channels must not be what is chosen among."""
    dimension = int(call.argument(1, "dim")) % max(1, call.first.dim())
    if call.name == "index_select" and _by_constants(follower):
        moved(follower, call)
        return
    found = []
    for numbers in follower.families(call.first):
        if dimension in varying(numbers):
            follower.ties.fix(numbers, _LOOKED_UP)
        else:
            run = _on_numbers(call)
            found.append(run(numbers))
    follower.give(call.result, found)


def taken(follower: Follower, call: Call) -> None:
    """Indexing: with slices and places, and with tensors of places as far as they do not choose among channels."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    tensors = [item for item in index if isinstance(item, Tensor)]
    if not tensors:
        moved(follower, call)
        return
    places = _dimensions(index, call.first.dim())
    chosen = {place for place, item in zip(places, index, strict=True) if isinstance(item, Tensor) and place is not None}
    found = []
    for numbers in follower.families(call.first):
        if varying(numbers) & chosen and not _by_constants(follower):
            follower.ties.fix(numbers, _LOOKED_UP)
        else:
            found.append(numbers[call.args[1]])
    follower.give(call.result, found)
    note(follower, call, ((call.result.shape, tuple(simplified(numbers) for numbers in found)),))


def sliced(follower: Follower, call: Call) -> None:
    """A slice as exported programs write it: dimension, start, end and step. Channels of which it takes a part stay."""
    dimension = int(call.argument(1, "dim", 0)) % call.first.dim()
    if call.result.shape != call.first.shape:
        for numbers in follower.families(call.first):
            if dimension in varying(numbers):
                follower.ties.fix(numbers, FIXED_SIZE)
    moved(follower, call)


def _by_constants(follower: Follower) -> bool:
    """Whether the places that a traced network looks up are written down in it."""
    return follower.node is not None and all(item.op == "get_attr" for item in follower.node.all_input_nodes[1:])


def _dimensions(index: tuple[Any, ...], rank: int) -> list[int | None]:
    """The dimension that each part of an index speaks of; None for new ones and the ellipsis."""
    used = sum(item is not None and item is not Ellipsis for item in index)
    found: list[int | None] = []
    place = 0
    for item in index:
        if item is None:
            found.append(None)
        elif item is Ellipsis:
            found.append(None)
            place += rank - used
        else:
            found.append(place)
            place += 1
    return found


def rolled(follower: Follower, call: Call) -> None:
    """A roll of positions; of channels it would have to roll by another amount afterwards."""
    dims = call.argument(2, "dims", ())
    dims = [dims] if isinstance(dims, int) else list(dims or range(call.first.dim()))
    for numbers in follower.families(call.first):
        if varying(numbers) & {dim % call.first.dim() for dim in dims}:
            follower.ties.fix(numbers, FIXED_SIZE)
    moved(follower, call)


_SPATIAL = {"1d": 1, "2d": 2, "3d": 3}
_MOVED = (
    "T mT H mH view reshape view_as reshape_as expand_as flatten unflatten ravel permute transpose swapaxes swapdims t "
    "movedim moveaxis adjoint squeeze unsqueeze select narrow split split_with_sizes chunk tensor_split unbind repeat tile "
    "repeat_interleave flip fliplr flipud rot90 diagonal pixel_shuffle pixel_unshuffle channel_shuffle"
)
_WINDOWED = (
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample grid_sample boolean_dispatch fn"
)
_FACTORIES = "full zeros ones"
MAKING = frozenset((*_FACTORIES.split(), "new_full", "new_zeros", "new_ones", "expand", "broadcast_to"))
"""Operations that make something of nothing, whose sizes may have to follow all the same."""
RULES: dict[str, Rule] = {
    **dict.fromkeys((*_FACTORIES.split(), "new_full", "new_zeros", "new_ones"), made),
    **dict.fromkeys(("expand", "broadcast_to"), expanded),
    **dict.fromkeys(_MOVED.split(), moved),
    **dict.fromkeys(_WINDOWED.split(), windowed),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), joined),
    **dict.fromkeys(("gather", "index_select", "take_along_dim"), looked_up),
    "getitem": taken,
    "pad": padded,
    "roll": rolled,
    "slice": sliced,
    "unfold": unfolded,
}
