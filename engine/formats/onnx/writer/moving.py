"""How functions and methods that move, cut, join and look up are written."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnx import numpy_helper
from torch.nn import functional

from engine.formats.onnx.writer.functions import Args, Kwargs, Rule, given, result_type, tensor
from engine.formats.onnx.writer.graph import Size, Unwritten, Value, Writer, shapes

_FAR = 2**63 - 1
_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def reshape(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Whatever gives the same values another shape."""
    value = tensor(args[0])
    return writer.reshaped(value.name, shapes(value), [tuple(probe.shape) for probe in writer.probes])


def same(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Nothing is computed."""
    return tensor(args[0]).name


def permute(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Dimensions in another order."""
    value = tensor(args[0])
    order = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else kwargs.get("dims", args[1:])
    return _transposed(writer, value, [value.along(int(dim)) for dim in order])


def transpose(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Two dimensions exchanged."""
    value = tensor(args[0])
    first, second = (value.along(int(given(args, kwargs, place, f"dim{place - 1}"))) for place in (1, 2))
    order = list(range(value.rank))
    order[first], order[second] = order[second], order[first]
    return _transposed(writer, value, order)


def turned(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """A matrix transposed."""
    value = tensor(args[0])
    return _transposed(writer, value, list(range(value.rank))[::-1])


def movedim(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """One dimension in another place."""
    value, source, target = tensor(args[0]), args[1], args[2]
    if not isinstance(source, int) or not isinstance(target, int):
        raise Unwritten
    order = [dim for dim in range(value.rank) if dim != value.along(source)]
    order.insert(value.along(target), value.along(source))
    return _transposed(writer, value, order)


def _transposed(writer: Writer, value: Value, order: list[int]) -> str:
    return value.name if order == sorted(order) else str(writer.emit("Transpose", value.name, perm=order))


def squeeze(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Without dimensions of one place."""
    value, dims = tensor(args[0]), given(args, kwargs, 1, "dim")
    dims = range(value.rank) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted(value.along(int(dim)) for dim in dims if value.size(int(dim)) == 1)
    return str(writer.emit("Squeeze", value.name, writer.integers(*axes))) if axes else value.name


def unsqueeze(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """One more dimension, of one place."""
    value, dim = tensor(args[0]), int(given(args, kwargs, 1, "dim"))
    return str(writer.emit("Unsqueeze", value.name, writer.integers(dim + value.rank + 1 if dim < 0 else dim)))


def cat(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Joined along a dimension."""
    dtype = result_type(writer)
    return str(writer.emit("Concat", *(writer.operand(item, dtype) for item in args[0]), axis=int(given(args, kwargs, 1, "dim", 0))))


def stack(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Joined along a new dimension."""
    dim, rank = int(given(args, kwargs, 1, "dim", 0)), writer.probes[0].dim()
    axis = dim + rank if dim < 0 else dim
    parts = [str(writer.emit("Unsqueeze", writer.operand(item, result_type(writer)), writer.integers(axis))) for item in args[0]]
    return str(writer.emit("Concat", *parts, axis=axis))


def split(writer: Writer, args: Args, kwargs: Kwargs) -> list[str]:
    """Cut into parts along a dimension, of whatever sizes they come out."""
    value, dim = tensor(args[0]), int(given(args, kwargs, 2, "dim", 0))
    sizes = [{part[place].shape[dim] for part in writer.probes} for place in range(len(writer.probes[0]))]
    if any(len(found) > 1 for found in sizes):
        raise Unwritten
    lengths = [found.pop() for found in sizes]
    if len(lengths) == 1:
        return [value.name]
    return list(writer.emit("Split", value.name, writer.integers(*lengths), outputs=len(lengths), axis=value.along(dim)))


def select(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """One place of a dimension."""
    value, dim, place = tensor(args[0]), args[1], args[2]
    if not isinstance(place, int):
        raise Unwritten
    return str(writer.emit("Gather", value.name, writer.constant(place, torch.int64), axis=value.along(int(dim))))


def index_select(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Some places of a dimension."""
    value = tensor(args[0])
    return str(writer.emit("Gather", value.name, tensor(args[2]).name, axis=value.along(int(args[1]))))


def gather(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Of each line the places that another tensor says."""
    value = tensor(args[0])
    return str(writer.emit("GatherElements", value.name, tensor(args[2]).name, axis=value.along(int(args[1]))))


def scatter(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Other values in places of each line, or reduced with what stands there."""
    value, dtype = tensor(args[0]), result_type(writer)
    source, reduce = args[3], given(args, kwargs, 4, "reduce")
    if kwargs or not isinstance(source, Value) or reduce not in (None, *_REDUCTIONS) or shapes(tensor(args[2])) != shapes(source):
        raise Unwritten
    names = value.name, tensor(args[2]).name, writer.operand(source, dtype)
    return str(writer.emit("ScatterElements", *names, axis=value.along(int(args[1])), reduction=_REDUCTIONS.get(reduce, "none")))


def index_put(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Other values in places that are given by all their leading coordinates."""
    value, places = tensor(args[0]), [tensor(item) for item in args[1]]
    if any(item.dtype != torch.int64 or shapes(item) != shapes(places[0]) for item in places):
        raise Unwritten
    last = places[0].rank
    columns = [str(writer.emit("Unsqueeze", item.name, writer.integers(last))) for item in places]
    index = columns[0] if len(columns) == 1 else str(writer.emit("Concat", *columns, axis=last))
    reduction = "add" if given(args, kwargs, 3, "accumulate", False) else "none"
    return str(writer.emit("ScatterND", value.name, index, writer.operand(args[2], result_type(writer)), reduction=reduction))


def getitem(writer: Writer, args: Args, kwargs: Kwargs) -> Any:
    """A part of a tuple, or of a tensor by slices, places and one tensor of places."""
    source, index = args
    if isinstance(source, list | tuple):
        part = source[index]
        return [item.name for item in part] if isinstance(part, list) else part.name
    value = tensor(source)
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(item is not None and item is not Ellipsis for item in items)
    if items.count(Ellipsis) > 1:
        raise Unwritten
    found, dim, name = [], 0, value.name
    for item in items:
        if item is Ellipsis:
            dim += value.rank - used
        elif item is None:
            raise Unwritten
        else:
            found.append((dim, item))
            dim += 1
    name = _sliced(writer, name, [(dim, item) for dim, item in found if isinstance(item, slice) and item != slice(None)])
    lookups = [(dim, item) for dim, item in found if not isinstance(item, slice)]
    if sum(not isinstance(item, int) for _, item in lookups) > 1 or (
        len(lookups) > 1 and any(not isinstance(item, int) for _, item in lookups)
    ):
        raise Unwritten  # several tensors of places meet one another
    for dim, item in reversed(lookups):
        if isinstance(item, bool) or not isinstance(item, int | Value):
            raise Unwritten
        if isinstance(item, Value) and item.dtype not in (torch.int64, torch.int32):
            raise Unwritten
        places = writer.constant(item, torch.int64) if isinstance(item, int) else item.name
        name = str(writer.emit("Gather", name, places, axis=dim))
    return name


def _sliced(writer: Writer, name: str, parts: Sequence[tuple[int, slice]]) -> str:
    if not parts:
        return name
    rows: list[list[str]] = [[], [], []]
    for _, part in parts:
        for row, bound, default in zip(rows, (part.start, part.stop, part.step), (0, _FAR, 1), strict=True):
            row.append(writer.row(default if bound is None else bound))
    starts, stops, steps = (row[0] if len(row) == 1 else str(writer.emit("Concat", *row, axis=0)) for row in rows)
    return str(writer.emit("Slice", name, starts, stops, writer.integers(*(dim for dim, _ in parts)), steps))


def expand(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Repeated along dimensions of one place."""
    value = tensor(args[0])
    wanted = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    new = len(wanted) - value.rank
    rows: list[Any] = []
    for dim, size in enumerate(wanted):
        own = value.size(dim - new) if dim >= new else 1
        rows.append(1 if size == -1 or (isinstance(size, int) and size == own) else size)
    if all(isinstance(size, int) for size in rows):
        if not new and all(size == 1 for size in rows):
            return value.name
        return str(writer.emit("Expand", value.name, writer.integers(*rows)))
    return str(writer.emit("Expand", value.name, str(writer.emit("Concat", *(writer.row(size) for size in rows), axis=0))))


def repeat(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Laid side by side."""
    value = tensor(args[0])
    times = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    if len(times) != value.rank or not all(isinstance(item, int) for item in times):
        raise Unwritten
    return str(writer.emit("Tile", value.name, writer.integers(*times)))


def size(writer: Writer, args: Args, kwargs: Kwargs) -> Any:
    """The size of one dimension, where it depends on the batch."""
    value, dim = tensor(args[0]), given(args, kwargs, 1, "dim")
    if not isinstance(dim, int):
        raise Unwritten
    place = value.along(dim)
    return Size(str(writer.emit("Shape", value.name, start=place, end=place + 1)), tuple(writer.probes))


def pad(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """More places around, or fewer."""
    value, flat = tensor(args[0]), list(given(args, kwargs, 1, "pad"))
    mode, fill = given(args, kwargs, 2, "mode", "constant"), given(args, kwargs, 3, "value") or 0
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in names or not all(isinstance(item, int) for item in flat):
        raise Unwritten
    before, after = [0] * value.rank, [0] * value.rank
    for place in range(len(flat) // 2):
        before[value.rank - 1 - place], after[value.rank - 1 - place] = flat[2 * place], flat[2 * place + 1]
    inputs = [value.name, writer.integers(*before, *after)]
    if mode == "constant":
        inputs.append(writer.operand(fill, value.dtype))
    return str(writer.emit("Pad", *inputs, mode=names[mode]))


def full(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """One number everywhere."""
    sizes, value = args[0], torch.tensor([given(args, kwargs, 1, "fill_value")], dtype=result_type(writer)).numpy()
    shape = str(writer.emit("Concat", *map(writer.row, sizes), axis=0))
    return str(writer.emit("ConstantOfShape", shape, value=numpy_helper.from_array(value)))


def flip(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Dimensions backwards."""
    value, dims = tensor(args[0]), given(args, kwargs, 1, "dims")
    count = len(dims)
    ends = (writer.integers(*[place] * count) for place in (-1, -_FAR))
    return str(writer.emit("Slice", value.name, *ends, writer.integers(*map(value.along, dims)), writer.integers(*[-1] * count)))


FUNCTIONS: Mapping[Any, Rule] = {
    torch.flip: flip,
    torch.full: full,
    **dict.fromkeys((torch.flatten, torch.reshape), reshape),
    torch.squeeze: squeeze,
    torch.unsqueeze: unsqueeze,
    torch.cat: cat,
    torch.stack: stack,
    **dict.fromkeys((torch.chunk, torch.split), split),
    torch.index_select: index_select,
    torch.gather: gather,
    **dict.fromkeys((torch.scatter, torch.scatter_reduce), scatter),
    torch.index_put: index_put,
    torch.movedim: movedim,
    torch.transpose: transpose,
    operator.getitem: getitem,
    functional.pad: pad,
}
METHODS: Mapping[str, Rule] = {
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten"), reshape),
    "contiguous": same,
    "permute": permute,
    "transpose": transpose,
    "t": turned,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    **dict.fromkeys(("chunk", "split"), split),
    "select": select,
    "expand": expand,
    "repeat": repeat,
    "size": size,
}
