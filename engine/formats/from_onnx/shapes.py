"""Operators that move, cut, join, repeat or look up, and the ones that make tensors of a given shape."""

from __future__ import annotations

import operator
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from engine.formats.from_onnx.builder import Builder
from engine.formats.from_onnx.elementwise import dtype_of, plain
from engine.formats.from_onnx.reader import Op
from engine.formats.from_onnx.values import Constant, Flow, Symbol, Value, sizes_or_constant


def shape(op: Op, build: Builder) -> Value:
    """Shape, whole or a part of it."""
    rank = op.rank(0)
    dims = range(rank)[int(op.attribute("start", 0)) : op.attribute("end", rank)]
    return sizes_or_constant([build.size(op.value(0), dim) for dim in dims])


def size(op: Op, build: Builder) -> Value:
    """Size: the number of elements."""
    total: Any = 1
    for dim in range(op.rank(0)):
        total = total * build.size(op.value(0), dim)
    return sizes_or_constant(total)


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
    """Slice with positive steps; a step of -1 over a whole axis is a flip."""
    rank = op.rank(0)
    starts = op.ints("starts") if "starts" in op.attributes else op.sizes(1)
    ends = op.ints("ends") if "ends" in op.attributes else op.sizes(2)
    if starts is None or ends is None:
        op.fail("its bounds depend on the data")
    axes = op.ints("axes", 3) or list(range(len(starts)))
    steps = op.ints("steps", 4) or [1] * len(starts)
    index: list[Any] = [slice(None)] * rank
    flips = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            if step != -1 or (isinstance(start, int) and 0 <= start < 2**31 - 1 and start != _last(build, op, axis)) or _is_inside(end):
                op.fail("a negative step over a part of an axis")
            flips.append(axis)
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
    return build.call(torch.flip, value, flips) if flips else value


def _last(build: Builder, op: Op, axis: int) -> Any:
    length = build.size(op.value(0), axis)
    return length - 1 if isinstance(length, int) else None


def _is_inside(end: Any) -> bool:
    """Whether a backward slice stops before it reaches the first element; ONNX writes "to the start" as a very negative end."""
    return not isinstance(end, int) or end > -(2**31) + 1


def gather(op: Op, build: Builder) -> Value:
    """Gather: an Embedding for a constant table, selection of one place for a constant number, a lookup otherwise."""
    axis = int(op.attribute("axis", 0)) % max(1, op.rank(0))
    table, index = op.value(0), op.value(1)
    if (
        isinstance(table, Constant)
        and isinstance(index, Flow)
        and axis == 0
        and table.tensor.dim() == 2
        and table.tensor.is_floating_point()
    ):
        weight = table if not table.transposed else Constant(table.tensor)
        with torch.device("meta"):
            layer = nn.Embedding(*weight.tensor.shape)
        layer.weight = build.parameter(weight)
        build.embeddings.append(layer.weight)
        key = ("Embedding", weight.source) if weight.source else None
        return build.layer(layer, op.path([op.node.input[0]]), index, key=key)
    if isinstance(index, Constant) and index.tensor.dim() == 0:
        return build.call("select", table, axis, int(index.tensor))
    if isinstance(index, Constant) and index.tensor.dim() == 1:
        places = index.tensor.tolist()
        length = build.size(table, axis)
        if isinstance(length, int) and all(-length <= place < length for place in places):
            index = Constant(torch.tensor([place % length for place in places], dtype=torch.int64))
            return build.call(torch.index_select, table, axis, index)
    index = build.call("to", index, torch.int64) if dtype_of(index) != torch.int64 else index
    return build.call(operator.getitem, table, (*[slice(None)] * axis, index))


def gather_elements(op: Op, build: Builder) -> Value:
    """GatherElements."""
    return build.call(torch.gather, op.value(0), int(op.attribute("axis", 0)), build.call("to", op.value(1), torch.int64))


def expand(op: Op, build: Builder) -> Value:
    """Expand: broadcasting to at least the given shape."""
    sizes = op.sizes(1)
    if sizes is None:
        op.fail("its shape depends on the data")
    source = op.value(0)
    rank = op.rank(0)
    wanted: list[Any] = []
    for position, size in enumerate(sizes):
        target = size
        dim = position - (len(sizes) - rank)
        own = build.size(source, dim) if dim >= 0 else 1
        if (
            build.static_batch is not None
            and build.batch is not None
            and position == 0
            and isinstance(own, int)
            and target == build.static_batch != 1
        ):
            target = build.batch
        keep = dim >= 0 and not (isinstance(own, int) and own == 1)
        wanted.append(-1 if keep or (dim >= 0 and isinstance(target, int) and target == 1) else target)
    wanted = [-1] * (rank - len(sizes)) + wanted
    return source if all(isinstance(item, int) and item == -1 for item in wanted) else build.call("expand", source, wanted)


def tile(op: Op, build: Builder) -> Value:
    """Tile."""
    repeats = op.sizes(1)
    if repeats is None:
        op.fail("its repeats depend on the data")
    return build.call("repeat", op.value(0), repeats)


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
    flat = [amount for pair in reversed(amounts) for amount in pair]
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        op.fail(f"mode {mode!r}")
    if mode == "constant":
        value = float(fill or 0.0)
        return build.call(functional.pad, op.value(0), flat, "constant", value if dtype_of(op.value(0)).is_floating_point else int(value))
    return build.call(functional.pad, op.value(0), flat, names[mode])


def constant(op: Op, build: Builder) -> Value:
    """Constant in its dense forms."""
    for name, dtype in (
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        if name in op.attributes:
            return Constant(torch.tensor(op.attribute(name), dtype=dtype))
    if "value" not in op.attributes:
        op.fail("neither a number nor a tensor")
    return Constant(tensor_of(op.attributes["value"]), op.node.output[0])


def constant_of_shape(op: Op, build: Builder) -> Value:
    """ConstantOfShape."""
    sizes = op.sizes(0)
    if sizes is None:
        op.fail("its shape depends on the data")
    fill = tensor_of(op.attributes["value"]) if "value" in op.attributes else torch.zeros(1)
    return build.call(torch.full, sizes, fill.reshape(()).item(), dtype=fill.dtype)


def range_(op: Op, build: Builder) -> Value:
    """Range."""
    bounds: list[Any] = []
    for index in range(3):
        sizes = op.sizes(index)
        bounds.append(sizes[0] if sizes else plain(op.value(index)))
    if not all(isinstance(bound, int | float | Symbol) for bound in bounds):
        op.fail("its bounds depend on the data")
    return build.call(torch.arange, *bounds)


def one_hot(op: Op, build: Builder) -> Value:
    """OneHot with constant depth and values."""
    depth = int(op.known(1, "depth").item())
    low, high = op.known(2, "values").tolist()
    axis = int(op.attribute("axis", -1))
    hot = build.call(functional.one_hot, build.call(torch.remainder, build.call("to", op.value(0), torch.int64), depth), depth)
    hot = build.call("to", hot, op.known(2, "values").dtype)
    hot = hot if (low, high) == (0, 1) else build.call(torch.add, build.call(torch.mul, hot, high - low), low)
    return hot if axis in (-1, op.rank(0)) else build.call(torch.movedim, hot, -1, axis)


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


def trilu(op: Op, build: Builder) -> Value:
    """Trilu: the upper or lower triangle."""
    offset = int(op.number("k", 1, 0) or 0)
    return build.call(torch.triu if op.attribute("upper", 1) else torch.tril, op.value(0), offset)


def tensor_of(proto: onnx.TensorProto) -> torch.Tensor:
    """An ONNX tensor as a torch tensor of its own memory; half precision becomes single."""
    if proto.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        return torch.from_numpy(onnx.numpy_helper.to_array(proto).astype("float32"))
    array = onnx.numpy_helper.to_array(proto)
    if array.dtype.kind not in "fiub":
        return torch.zeros(0)
    return torch.from_numpy(array.copy())


OPERATORS = {
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Gather": gather,
    "GatherElements": gather_elements,
    "OneHot": one_hot,
    "Pad": pad,
    "Range": range_,
    "Shape": shape,
    "Size": size,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
