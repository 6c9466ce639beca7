"""Arithmetic, comparisons, casts and reductions over many inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx
import torch

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.linear import absorb_bias
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Flow, Value

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}
BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Sub": torch.sub,
}
_FOLDS: dict[str, Callable[..., Any]] = {"Max": torch.maximum, "Mean": torch.add, "Min": torch.minimum, "Sum": torch.add}
LOGICAL: dict[str, Callable[..., Any]] = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float32,
    onnx.TensorProto.BFLOAT16: torch.float32,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}
HALF_TYPES: dict[int, torch.dtype] = {onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BFLOAT16: torch.bfloat16}
"""Half precision is trained in single: the CPU has no fast half arithmetic, and gradients underflow in it."""


def plain(value: Value) -> Any:
    """A constant of no dimensions as a Python number, so that the graph shows `x * 0.125`."""
    if isinstance(value, Constant) and value.tensor.dim() == 0:
        return value.tensor.item()
    return value


def unary(op: Op, build: Builder) -> Value:
    """A function of one tensor."""
    return build.call(UNARY[op.type], op.value(0))


def binary(op: Op, build: Builder) -> Value:
    """Arithmetic or comparison of two tensors with broadcasting."""
    if op.type == "Add":
        absorbed = absorb_bias(op, build)
        if absorbed is not None:
            return absorbed
    left, right = build.same_batch([op.value(0), op.value(1)])
    if isinstance(left, Flow) or isinstance(right, Flow):
        left, right = (left, plain(right)) if isinstance(left, Flow) else (plain(left), right)
    if not isinstance(left, Flow | Constant):
        # torch's exporter takes a number in the second place only.
        left, right = (right, left) if op.type in ("Add", "Mul") else (op.value(0), right)
    return build.call(BINARY[op.type], left, right)


def logical(op: Op, build: Builder) -> Value:
    """And, Or, Xor."""
    return build.call(LOGICAL[op.type], op.value(0), op.value(1))


def divide(op: Op, build: Builder) -> Value:
    """Div: exact for floats, towards zero for integers."""
    left, right = build.same_batch([op.value(0), op.value(1)])
    right = plain(right) if isinstance(left, Flow) else right
    if _is_float(op.value(0)):
        return build.call(torch.div, left, right)
    return build.call(torch.div, left, right, rounding_mode="trunc")


def power(op: Op, build: Builder) -> Value:
    """Pow; the result has the type of the base."""
    base, exponent = op.value(0), op.value(1)
    if isinstance(exponent, Constant) and exponent.tensor.numel() == 1:
        number = exponent.tensor.item()
        return build.call(torch.pow, base, int(number) if float(number).is_integer() else number)
    return build.call(torch.pow, base, exponent)


def modulo(op: Op, build: Builder) -> Value:
    """Mod: sign of the divisor, or of the dividend with fmod=1."""
    return build.call(torch.fmod if op.attribute("fmod", 0) else torch.remainder, op.value(0), plain(op.value(1)))


def many(op: Op, build: Builder) -> Value:
    """Sum, Mean, Min, Max of any number of tensors."""
    values = build.same_batch([op.value(index) for index in range(len(op.inputs))])
    total = functools.reduce(lambda left, right: build.call(_FOLDS[op.type], left, right), values)
    return build.call(torch.div, total, len(values)) if op.type == "Mean" else total


def clip(op: Op, build: Builder) -> Value:
    """Clip as ReLU6 or Hardtanh where the bounds are numbers."""
    low, high = op.number("min", 1, None), op.number("max", 2, None)
    if low is None and high is None:
        return op.value(0)
    if (low, high) == (0.0, 6.0) and _is_float(op.value(0)):
        return build.activation(op, torch.nn.ReLU6())
    if not _is_float(op.value(0)):
        low, high = (None if bound is None else int(bound) for bound in (low, high))
    return build.call(torch.clamp, op.value(0), low, high)


def where(op: Op, build: Builder) -> Value:
    """Where: one tensor or the other, element by element."""
    condition, yes, no = build.same_batch([op.value(0), op.value(1), op.value(2)])
    return build.call(torch.where, condition, yes, no)


def cast(op: Op, build: Builder) -> Value:
    """Cast; half precision becomes single."""
    target = DTYPES.get(int(op.attribute("to")))
    if target is None:
        op.fail(f"type {onnx.TensorProto.DataType.Name(int(op.attribute('to')))}")
    value = op.value(0)
    if isinstance(value, Constant | Flow) and dtype_of(value) == target:
        return value
    return build.call("to", value, target)


def cast_like(op: Op, build: Builder) -> Value:
    """CastLike: the type of the second input."""
    return build.call("to", op.value(0), dtype_of(op.value(1)))


def is_infinite(op: Op, build: Builder) -> Value:
    """IsInf of both signs."""
    op.only(detect_negative=1, detect_positive=1)
    return build.call(torch.isinf, op.value(0))


def bit_shift(op: Op, build: Builder) -> Value:
    """BitShift to either side."""
    function = torch.bitwise_left_shift if op.attribute("direction") == "LEFT" else torch.bitwise_right_shift
    return build.call(function, op.value(0), op.value(1))


def dtype_of(value: Value) -> torch.dtype:
    """Element type of any value."""
    if isinstance(value, Flow):
        found: torch.dtype = value.probes[0].dtype
        return found
    return value.tensor.dtype if isinstance(value, Constant) else torch.int64


def _is_float(value: Value) -> bool:
    return dtype_of(value).is_floating_point


OPERATORS = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(LOGICAL, logical),
    **dict.fromkeys(("Sum", "Mean", "Min", "Max"), many),
    "BitShift": bit_shift,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": clip,
    "Div": divide,
    "IsInf": is_infinite,
    "Mod": modulo,
    "Pow": power,
    "Where": where,
}
