"""Shape arithmetic: operators on integer tensors of which some elements are Symbols, done in numpy on object arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import ObjectArray, Symbol, Value, combine, object_array, sizes_or_constant

_INTEGER_TYPES = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}


def evaluate(op: Op) -> Value | None:
    """The result, or None for an operator or operand that is not shape arithmetic."""
    function = _OPERATORS.get(op.type)
    if function is None:
        return None
    arrays: list[ObjectArray] = []
    for value in op.inputs:
        array = None if value is None else object_array(value)
        if array is None and value is not None:
            return None
        arrays.append(array if array is not None else np.empty(0, object))
    result = function(op, arrays)
    return None if result is None else sizes_or_constant(result)


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    vectorized = np.frompyfunc(function, 2, 1)
    return lambda op, arrays: vectorized(arrays[0], arrays[1])


def _compare(function: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    """A comparison that is decided for all inputs: of numbers, of a size with a number below one, of a size with itself.

    Any other is left to the running network, since the sizes of the probes would not speak for all.
    """

    def run(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
        left, right = np.broadcast_arrays(arrays[0], arrays[1])
        decided = []
        for a, b in zip(left.ravel(), right.ravel(), strict=True):
            symbols = [item for item in (a, b) if isinstance(item, Symbol)]
            number = next((item for item in (a, b) if not isinstance(item, Symbol)), 0)
            same = len(symbols) == 2 and symbols[0].values == symbols[1].values
            if symbols and not same and (len(symbols) == 2 or number >= 1):
                return None
            x, y = (item.values[0] if isinstance(item, Symbol) else item for item in (a, b))
            decided.append(bool(function(x, y)))
        return np.array(decided, dtype=object).reshape(left.shape)

    return run


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    """Min and Max of sizes."""
    vectorized = np.frompyfunc(lambda a, b: combine(function, a, b), 2, 1)
    return lambda op, arrays: functools.reduce(vectorized, arrays)


def _gather(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
    if any(isinstance(item, Symbol) for item in arrays[1].ravel()):
        return None
    return np.asarray(np.take(arrays[0], arrays[1].astype(np.int64), axis=int(op.attribute("axis", 0))), dtype=object)


def _slice(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
    starts = op.ints("starts", 1) or []
    ends = op.ints("ends", 2) or []
    axes = op.ints("axes", 3) or list(range(len(starts)))
    steps = op.ints("steps", 4) or [1] * len(starts)
    index: list[Any] = [slice(None)] * arrays[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -(2**31) + 2 else end, step)
    return np.asarray(arrays[0][tuple(index)], dtype=object)


def _squeeze(op: Op, arrays: list[ObjectArray]) -> ObjectArray:
    axes = op.ints("axes", 1)
    return np.squeeze(arrays[0], tuple(axes) if axes else None)


def _cast(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
    return arrays[0] if int(op.attribute("to")) in _INTEGER_TYPES else None


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
        if arrays[0].ndim != 1:
            return None
        total = np.array(function(arrays[0].tolist()), dtype=object)
        return total.reshape(1) if op.attribute("keepdims", 1) else total

    return run


def _reshape(op: Op, arrays: list[ObjectArray]) -> ObjectArray | None:
    return arrays[0].reshape([int(item) for item in arrays[1]])


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": lambda op, arrays: np.concatenate(arrays, axis=int(op.attribute("axis", 0))),
    "Div": _elementwise(lambda a, b: a // b),
    "Equal": _compare(lambda a, b: a == b),
    "Gather": _gather,
    "Greater": _compare(lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b),
    "Identity": lambda op, arrays: arrays[0],
    "Less": _compare(lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b),
    "Max": _extreme(torch.sym_max),
    "Min": _extreme(torch.sym_min),
    "Mod": _elementwise(lambda a, b: a % b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Neg": lambda op, arrays: -arrays[0],
    "ReduceProd": _reduce(math.prod),
    "ReduceSum": _reduce(sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(lambda a, b: a - b),
    "Unsqueeze": lambda op, arrays: np.expand_dims(arrays[0], tuple(op.ints("axes", 1) or [])),
    "Where": lambda op, arrays: np.where(arrays[0].astype(bool), arrays[1], arrays[2]),
}
