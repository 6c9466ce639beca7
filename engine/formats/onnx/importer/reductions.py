"""Reductions over axes, and Einsum."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import dtype_of
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Value

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda build, x, axes, keep: build.call(torch.sum, build.call(torch.abs, x), axes, keepdim=keep),
    "ReduceL2": lambda build, x, axes, keep: build.call(torch.linalg.vector_norm, x, 2, axes, keepdim=keep),
    "ReduceLogSum": lambda build, x, axes, keep: build.call(torch.log, build.call(torch.sum, x, axes, keepdim=keep)),
    "ReduceLogSumExp": lambda build, x, axes, keep: build.call(torch.logsumexp, x, axes, keepdim=keep),
    "ReduceMax": lambda build, x, axes, keep: build.call(torch.amax, x, axes, keepdim=keep),
    "ReduceMean": lambda build, x, axes, keep: build.call(torch.mean, x, axes, keepdim=keep),
    "ReduceMin": lambda build, x, axes, keep: build.call(torch.amin, x, axes, keepdim=keep),
    "ReduceSum": lambda build, x, axes, keep: build.call(torch.sum, x, axes, keepdim=keep),
    "ReduceSumSquare": lambda build, x, axes, keep: build.call(torch.sum, build.call(torch.mul, x, x), axes, keepdim=keep),
}


def reduce(op: Op, build: Builder) -> Value:
    """A reduction; without axes over everything, or over nothing where the node says so."""
    axes = op.ints("axes", 1)
    if not axes:
        if op.attribute("noop_with_empty_axes", 0):
            return op.value(0)
        axes = list(range(op.rank(0)))
    result: Value = _REDUCTIONS[op.type](build, op.value(0), axes, bool(op.attribute("keepdims", 1)))
    return result


def reduce_product(op: Op, build: Builder) -> Value:
    """ReduceProd, one axis after the other."""
    keep = bool(op.attribute("keepdims", 1))
    rank = op.rank(0)
    value = op.value(0)
    for axis in sorted((axis % rank for axis in op.ints("axes", 1) or range(rank)), reverse=True):
        value = build.call(torch.prod, value, axis, keepdim=keep)
    return value


def extreme_index(op: Op, build: Builder) -> Value:
    """ArgMax and ArgMin, first place wins."""
    op.only(select_last_index=0)
    function = torch.argmax if op.type == "ArgMax" else torch.argmin
    return build.call(function, op.value(0), int(op.attribute("axis", 0)), keepdim=bool(op.attribute("keepdims", 1)))


def cumulative_sum(op: Op, build: Builder) -> Value:
    """CumSum; exclusive and reverse forms by shifting and flipping."""
    axis = int(op.number("axis", 1, 0) or 0)
    value = op.value(0)
    reverse = bool(op.attribute("reverse", 0))
    value = build.call(torch.flip, value, [axis]) if reverse else value
    total = build.call(torch.cumsum, value, axis, dtype=dtype_of(value))
    total = build.call(torch.sub, total, value) if op.attribute("exclusive", 0) else total
    return build.call(torch.flip, total, [axis]) if reverse else total


def top_k(op: Op, build: Builder) -> list[Value]:
    """TopK with a constant k."""
    k = int(op.number("k", 1, 1) or 1)
    largest, ordered = bool(op.attribute("largest", 1)), bool(op.attribute("sorted", 1))
    return build.call_many(torch.topk, 2, op.value(0), k, int(op.attribute("axis", -1)), largest, ordered)


def einsum(op: Op, build: Builder) -> Value:
    """Einsum."""
    equation = str(op.attribute("equation")).replace(" ", "")
    if not re.fullmatch(r"[A-Za-z.,]*(->[A-Za-z.]*)?", equation):
        op.fail("its equation is not understood")
    return build.call(torch.einsum, equation, *[op.value(index) for index in range(len(op.inputs))])


OPERATORS = {
    **dict.fromkeys(_REDUCTIONS, reduce),
    "ArgMax": extreme_index,
    "ArgMin": extreme_index,
    "CumSum": cumulative_sum,
    "Einsum": einsum,
    "ReduceProd": reduce_product,
    "TopK": top_k,
}
