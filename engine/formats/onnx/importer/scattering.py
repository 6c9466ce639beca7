"""Operators that put values into places of a tensor, and that read a part of each sequence backwards."""

from __future__ import annotations

import torch

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.shapes import coordinates, places_along, whole
from engine.formats.onnx.importer.values import Constant, Flow, Value

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(op: Op, build: Builder) -> Value:
    """ScatterElements, and Scatter as it was called: a copy with the updates in, or reduced with, the places of one axis."""
    axis, reduction = int(op.attribute("axis", 0)), op.attribute("reduction", "none")
    index = places_along(op, build, axis)
    if reduction == "none":
        return build.call(torch.scatter, op.value(0), axis, index, op.value(2))
    if reduction not in _REDUCTIONS:
        op.fail(f"reduction {reduction!r}")
    return build.call(torch.scatter_reduce, op.value(0), axis, index, op.value(2), _REDUCTIONS[str(reduction)])


def scatter_nd(op: Op, build: Builder) -> Value:
    """ScatterND: a copy with the updates in, or added to, their places."""
    reduction = op.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        op.fail(f"reduction {reduction!r}")
    places = tuple(coordinates(op, build, 0))
    return build.call(torch.index_put, op.value(0), places, op.value(2), **({"accumulate": True} if reduction == "add" else {}))


def reverse_sequence(op: Op, build: Builder) -> Value:
    """ReverseSequence: of each example as many steps backwards as its length says, the others as they are."""
    time, batch = int(op.attribute("time_axis", 0)), int(op.attribute("batch_axis", 1))
    source, lengths = op.value(0), whole(build, op.value(1))
    rank, steps = op.rank(0), build.size(source, time)
    line = Constant(torch.arange(steps)) if isinstance(steps, int) else build.call(torch.arange, steps)
    line = build.call("reshape", line, [-1 if dim == time else 1 for dim in range(rank)])
    lengths = build.call("reshape", lengths, [-1 if dim == batch else 1 for dim in range(rank)])
    back = build.call(torch.sub, build.call(torch.sub, lengths, 1), line)
    places = build.call(torch.where, build.call(torch.lt, line, lengths), back, line)
    places = build.call("expand", places, [build.size(source, dim) for dim in range(rank)])
    if not isinstance(source, Flow | Constant):
        op.fail("it reverses sizes")
    return build.call(torch.gather, source, time, places)


OPERATORS = {
    "ReverseSequence": reverse_sequence,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
