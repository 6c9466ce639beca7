"""Operators that make tensors: constants, shapes, ranges, repetitions."""

from __future__ import annotations

import math
from typing import Any

import onnx
import torch
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import plain
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Symbol, Value, sizes_or_constant

_SMALL = 2**16
"""Elements up to which an initializer stays in the graph."""


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


def without_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
    """The graph with large initializers empty, and their values: so the file's own copy can be dropped before layers make theirs."""
    slim, tensors = onnx.ModelProto(), {}
    slim.ir_version = model.ir_version
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for item in model.graph.initializer:
        if math.prod(item.dims) <= _SMALL:
            graph.initializer.append(item)
        else:
            tensors[item.name] = tensor_of(item)
            graph.initializer.add(name=item.name, dims=item.dims, data_type=item.data_type)
    return slim, tensors


OPERATORS = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "OneHot": one_hot,
    "Range": range_,
    "Shape": shape,
    "Size": size,
    "Tile": tile,
    "Trilu": trilu,
}
