"""Operators that move, cut, join and look up."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import dtype_of
from engine.formats.onnx.importer.names import is_readable
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Flow, Value


def transpose(op: Op, build: Builder) -> Value:
    """Transpose; a constant matrix remembers that it is the transpose of its initializer."""
    rank = op.rank(0)
    order = op.ints("perm") or list(range(rank))[::-1]
    source = op.value(0)
    if order == list(range(rank)):
        return source
    if isinstance(source, Constant) and order == [1, 0]:
        return Constant(source.tensor.t(), source.source, not source.transposed)
    return build.call("permute", source, order)


def squeeze(op: Op, build: Builder) -> Value:
    """Squeeze of given axes, or of all that have size one."""
    axes = op.ints("axes", 1)
    if axes is None:
        axes = [dim for dim in range(op.rank(0)) if build.size(op.value(0), dim) == 1]
    return build.call(torch.squeeze, op.value(0), axes) if axes else op.value(0)


def unsqueeze(op: Op, build: Builder) -> Value:
    """Unsqueeze at axes of the result."""
    axes = op.ints("axes", 1) or []
    rank = op.rank(0) + len(axes)
    value = op.value(0)
    for axis in sorted(axis % rank for axis in axes):
        value = build.call(torch.unsqueeze, value, axis)
    return value


def concat(op: Op, build: Builder) -> Value:
    """Concat; a constant made for the exported batch is spread over the running one."""
    axis = int(op.attribute("axis", 0))
    values = [op.value(index) for index in range(len(op.inputs))]
    if axis % max(1, op.rank(0)) != 0:
        values = build.same_batch(values, spread=True)
    return build.call(torch.cat, values, axis)


def split(op: Op, build: Builder) -> list[Value]:
    """Split into given parts, or into equal ones of whatever size the dimension has after pruning."""
    axis = int(op.attribute("axis", 0))
    parts = op.ints("split", 1)
    count = len(op.node.output)
    if parts is None:
        length = build.size(op.value(0), axis)
        if not isinstance(length, int):
            op.fail("it splits an open dimension")
        step = -(-length // count)
        parts = [min(step, length - step * index) for index in range(count)]
    if len(set(parts)) == 1 and build.size(op.value(0), axis) == parts[0] * len(parts):
        return build.call_many(torch.chunk, len(parts), op.value(0), len(parts), axis)
    return build.call_many(torch.split, len(parts), op.value(0), parts, axis)


def slice_(op: Op, build: Builder) -> Value:
    """Slice with positive steps; a step of -1 over a whole axis is a flip, another negative one a choice of places."""
    rank = op.rank(0)
    starts = op.ints("starts") if "starts" in op.attributes else op.sizes(1)
    ends = op.ints("ends") if "ends" in op.attributes else op.sizes(2)
    if starts is None or ends is None:
        op.fail("its bounds depend on the data")
    axes = op.ints("axes", 3) or list(range(len(starts)))
    steps = op.ints("steps", 4) or [1] * len(starts)
    index: list[Any] = [slice(None)] * rank
    flips, chosen = [], {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            length = build.size(op.value(0), axis)
            if step == -1 and (start == -1 or _is_last(start, length)) and not _is_inside(end, length):
                flips.append(axis)
            elif all(isinstance(size, int) for size in (start, end, length)):
                chosen[axis] = list(range(length))[slice(start, None if end < -length else end, step)]
            else:
                op.fail("a negative step over a part of an open axis")
            continue
        open_end = isinstance(end, int) and end >= 2**31 - 1
        index[axis] = slice(
            start if not (isinstance(start, int) and start == 0) else None, None if open_end else end, step if step != 1 else None
        )
    value = op.value(0)
    if any(part != slice(None) for part in index):
        while index and index[-1] == slice(None):
            index.pop()
        value = build.call(operator.getitem, value, tuple(index))
    for axis, places in chosen.items():
        value = build.call(torch.index_select, value, axis, Constant(torch.tensor(places, dtype=torch.int64)))
    return build.call(torch.flip, value, flips) if flips else value


def _is_last(start: Any, length: Any) -> bool:
    return isinstance(start, int) and (start >= 2**31 - 1 or (isinstance(length, int) and start >= length - 1))


def _is_inside(end: Any, length: Any) -> bool:
    """Whether a backward slice stops before it reaches the first element; ONNX writes "to the start" as a very negative end."""
    return not (isinstance(end, int) and (end <= -(2**31) + 1 or (isinstance(length, int) and end < -length)))


def gather(op: Op, build: Builder) -> Value:
    """Gather: an Embedding for a constant table, selection of one place for a constant number, a lookup otherwise."""
    axis = int(op.attribute("axis", 0)) % max(1, op.rank(0))
    table, index = op.value(0), op.value(1)
    if isinstance(table, Constant) and axis == 0 and table.tensor.dim() == 2 and table.tensor.is_floating_point():
        if isinstance(index, Flow):
            return embedding(op, build, table, index)
        if isinstance(index, Constant) and index.tensor.dim() and table.source and is_readable(table.source):
            # Positions, and what attention adds for them: known places of a table that is trained.
            return embedding(op, build, table, index)
    if isinstance(index, Constant) and index.tensor.dim() == 0:
        return build.call("select", table, axis, int(index.tensor))
    if isinstance(index, Constant) and index.tensor.dim() == 1:
        places = index.tensor.tolist()
        length = build.size(table, axis)
        if isinstance(length, int) and all(-length <= place < length for place in places):
            index = Constant(torch.tensor([place % length for place in places], dtype=torch.int64))
            return build.call(torch.index_select, table, axis, index)
    index = whole(build, index)
    return build.call(operator.getitem, table, (*[slice(None)] * axis, index))


def embedding(op: Op, build: Builder, table: Constant, index: Value) -> Value:
    """Rows of a stored matrix, which is a layer's weight, at places that are computed or known."""
    if isinstance(index, Constant):
        index = build.flowing(Constant(index.tensor.long() % len(table.tensor)))
    weight = table if not table.transposed else Constant(table.tensor)
    with torch.device("meta"):
        layer = nn.Embedding(*weight.tensor.shape)
    layer.weight = build.parameters.of(weight)
    build.parameters.embeddings.append(layer.weight)
    key = ("Embedding", weight.source) if weight.source else None
    return build.layer(layer, op.path([op.node.input[0]]), index, key=key)


def gather_elements(op: Op, build: Builder) -> Value:
    """GatherElements."""
    axis = int(op.attribute("axis", 0))
    return build.call(torch.gather, op.value(0), axis, places_along(op, build, axis))


def gather_nd(op: Op, build: Builder) -> Value:
    """GatherND: places by all their leading coordinates, each example by its own where there are batch dimensions."""
    return build.call(operator.getitem, op.value(0), tuple(coordinates(op, build, int(op.attribute("batch_dims", 0)))))


def whole(build: Builder, places: Value) -> Value:
    """Places as whole numbers of 64 bits, as torch wants them."""
    return build.call("to", places, torch.int64) if dtype_of(places) != torch.int64 else places


def places_along(op: Op, build: Builder, axis: int) -> Value:
    """Places of an axis of the first input. Known ones that count from its end are counted from its start, as torch wants them."""
    places, length = whole(build, op.value(1)), build.size(op.value(0), axis)
    if not isinstance(places, Constant) or bool((places.tensor >= 0).all()):
        return places
    if not isinstance(length, int):
        op.fail("its places count from the end of an open dimension")
    return Constant(torch.where(places.tensor < 0, places.tensor + length, places.tensor))


def coordinates(op: Op, build: Builder, batch_dims: int) -> list[Value]:
    """The index of each leading dimension: those of the batch count up, the others stand in the last dimension of the indices."""
    indices, rank = op.value(1), op.rank(1)
    depth = build.size(indices, -1)
    if not isinstance(depth, int):
        op.fail("the depth of its indices is open")
    indices = whole(build, indices)
    places = [build.call("select", indices, -1, position) for position in range(depth)]
    counted = []
    for dim in range(batch_dims):
        size = build.size(op.value(1), dim)
        numbers = build.call(torch.arange, size)
        counted.append(build.call("reshape", numbers, [-1 if dim == other else 1 for other in range(rank - 1)]))
    return [*counted, *places]


def pad(op: Op, build: Builder) -> Value:
    """Pad in constant, reflect, edge or wrap mode."""
    rank = op.rank(0)
    pads = op.ints("pads", 1) or [0] * (2 * rank)
    axes = op.ints("axes", 3) or list(range(rank))
    mode = op.attribute("mode", "constant")
    fill = op.number("value", 2, 0.0)
    amounts = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        amounts[axis] = (pads[position], pads[len(axes) + position])
    while amounts and amounts[0] == (0, 0):
        amounts.pop(0)
    if not amounts:
        return op.value(0)
    if mode == "constant":
        flat = [amount for pair in reversed(amounts) for amount in pair]
        value = float(fill or 0.0)
        return build.call(functional.pad, op.value(0), flat, "constant", value if dtype_of(op.value(0)).is_floating_point else int(value))
    return _pad_by_its_own(op, build, str(mode), amounts)


def _pad_by_its_own(op: Op, build: Builder, mode: str, amounts: list[tuple[int, int]]) -> Value:
    """Padding with what is inside: torch's own for the last dimensions of a batch, places to copy from for any other."""
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        op.fail(f"mode {mode!r}")
    rank, sizes = op.rank(0), [build.size(op.value(0), dim) for dim in range(-len(amounts), 0)]
    if rank - len(amounts) in (1, 2) and len(amounts) <= 3 and all(before >= 0 and after >= 0 for before, after in amounts):
        flat = [amount for pair in reversed(amounts) for amount in pair]
        return build.call(functional.pad, op.value(0), flat, names[mode])
    value = op.value(0)
    for dim, (size, (before, after)) in enumerate(zip(sizes, amounts, strict=True), rank - len(amounts)):
        if before == after == 0:
            continue
        if not isinstance(size, int):
            op.fail(f"mode {mode!r} on an open dimension")
        places = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]  # a mode of ONNX that NumPy has by the same name
        places = places[max(-before, 0) : len(places) - max(-after, 0)]
        value = build.call(torch.index_select, value, dim, Constant(torch.from_numpy(places)))
    return value


def depth_to_space(op: Op, build: Builder) -> Value:
    """DepthToSpace in both orders."""
    block = int(op.attribute("blocksize"))
    if op.attribute("mode", "DCR") == "CRD":
        return build.activation(op, nn.PixelShuffle(block))
    value = build.call("unflatten", op.value(0), 1, (block, block, -1))
    value = build.call("permute", value, (0, 3, 4, 1, 5, 2))
    return build.call(torch.flatten, build.call(torch.flatten, value, 4, 5), 2, 3)


def space_to_depth(op: Op, build: Builder) -> Value:
    """SpaceToDepth."""
    block = int(op.attribute("blocksize"))
    value = build.call("unflatten", build.call("unflatten", op.value(0), 3, (-1, block)), 2, (-1, block))
    return build.call(torch.flatten, build.call("permute", value, (0, 3, 5, 1, 2, 4)), 1, 3)


OPERATORS = {
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
