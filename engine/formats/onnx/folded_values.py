"""Small values that ONNX operators compute from others, as far as shapes are made of them. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

Operands = Sequence[Any]
Attributes = Mapping[str, Any]


def _axes(given: Operands, attributes: Attributes) -> tuple[int, ...] | None:
    if "axes" in attributes:
        return tuple(attributes["axes"])
    return tuple(int(axis) for axis in given[1].reshape(-1)) if len(given) > 1 and given[1] is not None else None


def _reduced(reduce: Callable[..., Any]) -> Callable[[Operands, Attributes], Any]:
    return lambda given, attributes: reduce(given[0], axis=_axes(given, attributes), keepdims=bool(attributes.get("keepdims", 1)))


def _divide(given: Operands, _: Attributes) -> Any:
    left, right = given
    if not np.issubdtype(left.dtype, np.integer):
        return left / right
    return np.trunc(left / np.where(right == 0, 1, right)).astype(left.dtype)


def _slice(given: Operands, attributes: Attributes) -> Any:
    data = given[0]
    read = [attributes.get(name) for name in ("starts", "ends", "axes")] + [None]
    for index, value in enumerate(given[1:5]):
        read[index] = None if value is None else [int(number) for number in value.reshape(-1)]
    starts, ends, axes, steps = read
    cut = [slice(None)] * data.ndim
    for index, (start, end) in enumerate(zip(starts or [], ends or [], strict=True)):
        axis, step = axes[index] if axes else index, steps[index] if steps else 1
        cut[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(cut)]


def _unsqueeze(given: Operands, attributes: Attributes) -> Any:
    return np.expand_dims(given[0], _axes(given, attributes) or ())


def _reshape(given: Operands, _: Attributes) -> Any:
    data, wanted = given
    return data.reshape([data.shape[index] if size == 0 else int(size) for index, size in enumerate(wanted)])


VALUES: dict[str, Callable[[Operands, Attributes], Any]] = {
    "Identity": lambda given, _: given[0],
    "Cast": lambda given, attributes: given[0].astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])),
    "Gather": lambda given, attributes: np.take(given[0], given[1].astype(np.int64), axis=attributes.get("axis", 0)),
    "Concat": lambda given, attributes: np.concatenate(given, axis=attributes["axis"]),
    "Squeeze": lambda given, attributes: np.squeeze(given[0], _axes(given, attributes)),
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda given, attributes: np.transpose(given[0], attributes.get("perm")),
    "Add": lambda given, _: given[0] + given[1],
    "Sub": lambda given, _: given[0] - given[1],
    "Mul": lambda given, _: given[0] * given[1],
    "Div": _divide,
    "Mod": lambda given, _: np.mod(given[0], given[1]),
    "Pow": lambda given, _: np.power(given[0].astype(np.float64), given[1]).astype(given[0].dtype),
    "Max": lambda given, _: np.maximum.reduce(np.broadcast_arrays(*given)),
    "Min": lambda given, _: np.minimum.reduce(np.broadcast_arrays(*given)),
    "Neg": lambda given, _: -given[0],
    "Abs": lambda given, _: np.abs(given[0]),
    "Floor": lambda given, _: np.floor(given[0]),
    "Ceil": lambda given, _: np.ceil(given[0]),
    "Round": lambda given, _: np.round(given[0]),
    "Sqrt": lambda given, _: np.sqrt(given[0]),
    "Exp": lambda given, _: np.exp(given[0]),
    "Log": lambda given, _: np.log(given[0]),
    "Equal": lambda given, _: given[0] == given[1],
    "Where": lambda given, _: np.where(*given),
    "Range": lambda given, _: np.arange(*(value.reshape(()) for value in given)),
    "ConstantOfShape": lambda given, attributes: np.full(
        given[0], onnx.numpy_helper.to_array(attributes["value"]).reshape(-1)[0] if "value" in attributes else np.float32(0)
    ),
    "Expand": lambda given, _: given[0] * np.ones(given[1], given[0].dtype),
    "Tile": lambda given, _: np.tile(given[0], given[1]),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}
"""Operator → its first output, from its operands (None where one is left out) and attributes. Raises what numpy raises."""
