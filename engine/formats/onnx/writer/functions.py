"""How functions and methods are written: arithmetic, comparisons, reductions and products. `moving` holds what moves, cuts and joins."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from engine.formats.onnx.writer.graph import Size, Unwritten, Value, Writer, element_type

Args = Sequence[Any]
Kwargs = Mapping[str, Any]
Rule = Callable[[Writer, Args, Kwargs], Any]
"""Writes a call; the name of its result, several names, or a `Size`."""


def given(args: Args, kwargs: Kwargs, place: int, name: str, default: Any = None) -> Any:
    """An argument that may stand in its place or under its name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def tensor(value: Any) -> Value:
    """An argument that has to be a tensor of the file."""
    if not isinstance(value, Value):
        raise Unwritten
    return value


def result_type(writer: Writer) -> torch.dtype:
    """Type of what the call gives."""
    if not isinstance(writer.probes[0], torch.Tensor):
        raise Unwritten
    return writer.probes[0].dtype


def _common(left: Any, right: Any) -> torch.dtype:
    probes = [item.probes[0] if isinstance(item, Value) else item for item in (left, right)]
    return torch.result_type(*probes)


def arithmetic(kind: str, whole: Callable[[int, int], int] | None = None) -> Rule:
    """Of two tensors, a tensor and a number, or two whole numbers that depend on the batch."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> Any:
        if any(isinstance(item, Size) for item in args):
            if whole is None or len(args) != 2:
                raise Unwritten
            left, right = (item.values if isinstance(item, Size) else (int(item),) * len(writer.probes) for item in args)
            values = tuple(whole(a, b) for a, b in zip(left, right, strict=True))
            return Size(str(writer.emit(kind, writer.row(args[0]), writer.row(args[1]))), values)
        dtype = result_type(writer)
        if len(args) != 2 or kwargs or dtype == torch.bool:
            raise Unwritten
        return writer.emit(kind, writer.operand(args[0], dtype), writer.operand(args[1], dtype))

    return rule


def divide(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Division of floats, or of whole numbers towards zero."""
    dtype = result_type(writer)
    if kwargs.get("rounding_mode") not in (None, "trunc") or (kwargs.get("rounding_mode") and dtype.is_floating_point):
        raise Unwritten
    return str(writer.emit("Div", writer.operand(args[0], dtype), writer.operand(args[1], dtype)))


def power(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """A power; of floats only, as whole numbers follow other rules."""
    dtype = result_type(writer)
    if not dtype.is_floating_point:
        raise Unwritten
    return str(writer.emit("Pow", writer.operand(args[0], dtype), writer.operand(args[1], dtype)))


def comparison(kind: str) -> Rule:
    """Of two tensors, or a tensor and a number."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        dtype = _common(args[0], args[1])
        if dtype == torch.bool:
            raise Unwritten
        return str(writer.emit(kind, writer.operand(args[0], dtype), writer.operand(args[1], dtype)))

    return rule


def logical(kind: str) -> Rule:
    """Of two tensors of booleans."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        return str(writer.emit(kind, writer.operand(args[0], torch.bool), writer.operand(args[1], torch.bool)))

    return rule


def unary(kind: str) -> Rule:
    """Of one tensor, whose type stays."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        value = tensor(args[0])
        if len(args) > 1 or kwargs or (value.dtype != result_type(writer) and kind not in ("IsNaN", "IsInf")):
            raise Unwritten
        return str(writer.emit(kind, value.name))

    return rule


def not_(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """The opposite."""
    return str(writer.emit("Not", writer.operand(args[0], torch.bool)))


def clamp(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Bounds on one side or both."""
    dtype = result_type(writer)
    low, high = given(args, kwargs, 1, "min"), given(args, kwargs, 2, "max")
    if any(isinstance(bound, Value | Size) for bound in (low, high)):
        raise Unwritten
    bounds = ["" if bound is None else writer.operand(bound, dtype) for bound in (low, high)]
    while bounds and not bounds[-1]:
        bounds.pop()
    return str(writer.emit("Clip", writer.operand(args[0], dtype), *bounds))


def where(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """One of two, place by place."""
    dtype = result_type(writer)
    condition, left, right = args
    return str(writer.emit("Where", writer.operand(condition, torch.bool), writer.operand(left, dtype), writer.operand(right, dtype)))


def reduction(kind: str) -> Rule:
    """Over some dimensions or all."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        value = tensor(args[0])
        dims, keep = given(args, kwargs, 1, "dim"), bool(given(args, kwargs, 2, "keepdim", False))
        if value.dtype != result_type(writer) or not value.dtype.is_floating_point or "dtype" in kwargs or len(args) > 3:
            raise Unwritten
        dims = list(range(value.rank)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
        if not dims:
            raise Unwritten
        return str(writer.emit(kind, value.name, writer.integers(*sorted(value.along(dim) for dim in dims)), keepdims=int(keep)))

    return rule


def softmax(kind: str) -> Rule:
    """Along one dimension."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        dim, value = given(args, kwargs, 1, "dim"), tensor(args[0])
        if dim is None or kwargs.get("dtype") is not None or value.dtype != result_type(writer):
            raise Unwritten
        return str(writer.emit(kind, value.name, axis=int(dim)))

    return rule


def matmul(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """A product of matrices."""
    dtype = result_type(writer)
    return str(writer.emit("MatMul", writer.operand(args[0], dtype), writer.operand(args[1], dtype)))


def einsum(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """A sum of products by its equation."""
    operands = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    if not isinstance(args[0], str):
        raise Unwritten
    return str(writer.emit("Einsum", *(writer.operand(item, result_type(writer)) for item in operands), equation=args[0]))


def layer_norm(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Layer normalization without weights of its own."""
    value, shape = tensor(args[0]), given(args, kwargs, 1, "normalized_shape")
    if any(given(args, kwargs, place, name) is not None for place, name in ((2, "weight"), (3, "bias"))):
        raise Unwritten
    ones = writer.constant(torch.ones(list(shape), dtype=value.dtype).numpy())
    epsilon = float(given(args, kwargs, 4, "eps", 1e-5))
    return str(writer.emit("LayerNormalization", value.name, ones, axis=-len(shape), epsilon=epsilon))


def to(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Another type."""
    value, dtype = tensor(args[0]), given(args, kwargs, 1, "dtype")
    if not isinstance(dtype, torch.dtype) or len(args) > 2:
        raise Unwritten
    element_type(dtype)
    return writer.cast(value, dtype)


def topk(writer: Writer, args: Args, kwargs: Kwargs) -> list[str]:
    """The largest or smallest of a dimension, and their places."""
    value, count = tensor(args[0]), given(args, kwargs, 1, "k")
    if not isinstance(count, int):
        raise Unwritten
    axis, largest, ordered = (
        given(args, kwargs, 2, "dim", -1),
        given(args, kwargs, 3, "largest", True),
        given(args, kwargs, 4, "sorted", True),
    )
    settings = {"axis": value.along(int(axis)), "largest": int(bool(largest)), "sorted": int(bool(ordered))}
    return list(writer.emit("TopK", value.name, writer.integers(count), outputs=2, **settings))


def triangle(upper: int) -> Rule:
    """The upper or lower triangle of matrices."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        offset = given(args, kwargs, 1, "diagonal", 0)
        return str(writer.emit("Trilu", tensor(args[0]).name, writer.constant(int(offset), torch.int64), upper=upper))

    return rule


FUNCTIONS: Mapping[Any, Rule] = {
    torch.add: arithmetic("Add"),
    torch.sub: arithmetic("Sub"),
    torch.mul: arithmetic("Mul"),
    operator.add: arithmetic("Add", operator.add),
    operator.sub: arithmetic("Sub", operator.sub),
    operator.mul: arithmetic("Mul", operator.mul),
    torch.div: divide,
    operator.truediv: divide,
    torch.pow: power,
    operator.pow: power,
    torch.maximum: arithmetic("Max"),
    torch.minimum: arithmetic("Min"),
    torch.eq: comparison("Equal"),
    torch.gt: comparison("Greater"),
    torch.ge: comparison("GreaterOrEqual"),
    torch.lt: comparison("Less"),
    torch.le: comparison("LessOrEqual"),
    torch.logical_and: logical("And"),
    torch.logical_or: logical("Or"),
    torch.logical_xor: logical("Xor"),
    torch.logical_not: not_,
    **{
        getattr(torch, name): unary(kind)
        for name, kind in {
            **{item.lower(): item for item in ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf")},
            **{item.lower(): item for item in ("Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh")},
            **{item.lower(): item for item in ("Sqrt", "Tan", "Tanh", "IsNaN", "IsInf", "Relu")},
        }.items()
    },
    torch.clamp: clamp,
    torch.where: where,
    torch.mean: reduction("ReduceMean"),
    torch.sum: reduction("ReduceSum"),
    torch.prod: reduction("ReduceProd"),
    torch.amax: reduction("ReduceMax"),
    torch.amin: reduction("ReduceMin"),
    torch.logsumexp: reduction("ReduceLogSumExp"),
    functional.softmax: softmax("Softmax"),
    functional.log_softmax: softmax("LogSoftmax"),
    torch.matmul: matmul,
    torch.einsum: einsum,
    functional.layer_norm: layer_norm,
    torch.topk: topk,
    torch.triu: triangle(1),
    torch.tril: triangle(0),
}
METHODS: Mapping[str, Rule] = {
    "to": to,
    **{
        name: FUNCTIONS[getattr(torch, name)]
        for name in ("abs", "add", "amax", "amin", "clamp", "div", "exp", "log", "logsumexp", "matmul", "mean", "mul", "neg", "pow", "prod")
    },
    **{name: FUNCTIONS[getattr(torch, name)] for name in ("relu", "sigmoid", "sqrt", "sub", "sum", "tanh")},
    "softmax": softmax("Softmax"),
}
