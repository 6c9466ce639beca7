"""Shapes of the values that operators compute from constants alone: one rule an operator. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.formats.onnx.folded_values import VALUES, Attributes

Shape = tuple[int, ...]
REFUSED = (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError)
"""What numpy raises for operands that do not fit: the runtime refuses them itself."""


@dataclass(frozen=True)
class Folded:
    """A value that follows from constants alone."""

    shape: Shape
    value: NDArray[Any] | None = None
    exact: bool = True
    """Whether the shape is known, and not only how many elements there are at most."""

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.shape)


Inputs = Sequence[Folded | None]


def shape_of(operator: str, given: Inputs, attributes: Attributes) -> Shape | None:
    """The shape of a node's first output, or of something that is at least as large; None where it is not known."""
    rule = _RULES.get(operator)
    if rule is None or (operator not in BY_VALUE and any(item is not None and not item.exact for item in given)):
        return None
    try:
        shape = rule(given, attributes)
    except REFUSED:
        return None
    return None if shape is None else tuple(max(0, int(size)) for size in shape)


def _numbers(given: Inputs, index: int) -> list[float]:
    item = given[index]
    if item is None or item.value is None:
        raise ValueError("not known")
    return [float(number) for number in item.value.reshape(-1)]


def _own(given: Inputs, index: int = 0) -> Shape:
    item = given[index]
    if item is None:
        raise ValueError("not given")
    return item.shape


def _broadcast(given: Inputs, _: Attributes) -> Shape:
    return np.broadcast_shapes(*(item.shape for item in given if item is not None))


def _range(given: Inputs, _: Attributes) -> Shape:
    (start,), (limit,), (delta,) = (_numbers(given, index) for index in range(3))
    return (max(0, math.ceil((limit - start) / delta)),)


def _expand(given: Inputs, _: Attributes) -> Shape:
    wanted = tuple(int(size) for size in _numbers(given, 1))
    data = given[0]
    return np.broadcast_shapes(data.shape, wanted) if data is not None and data.exact else (max(math.prod(_own(given)), math.prod(wanted)),)


def _tile(given: Inputs, _: Attributes) -> Shape:
    if given[0] is not None and not given[0].exact:
        return (int(math.prod(_own(given)) * math.prod(_numbers(given, 1))),)
    return tuple(int(size * times) for size, times in zip(_own(given), _numbers(given, 1), strict=True))


def _pad(given: Inputs, attributes: Attributes) -> Shape:
    return _padded(given, attributes["pads"] if "pads" in attributes else _numbers(given, 1))


def _padded(given: Inputs, pads: Sequence[float]) -> Shape:
    shape, half = _own(given), len(pads) // 2
    if half == len(shape):
        return tuple(int(size + pads[index] + pads[half + index]) for index, size in enumerate(shape))
    return (math.prod(size + max(0, int(max(pads))) * 2 for size in shape),)


def _resize(given: Inputs, attributes: Attributes) -> Shape:
    shape = _own(given)
    if "scales" in attributes:
        factors: Sequence[float] = attributes["scales"]
    elif len(given) > 3 and given[3] is not None:
        sizes = [int(size) for size in _numbers(given, 3)]
        return tuple(sizes) if len(sizes) == len(shape) else (math.prod(shape) * math.prod(sizes),)
    else:
        factors = _numbers(given, len(given) - 1)
    if len(factors) != len(shape):
        return (int(math.prod(shape) * math.prod(max(1.0, factor) for factor in factors)),)
    return tuple(int(size * factor) for size, factor in zip(shape, factors, strict=True))


def _gather(given: Inputs, attributes: Attributes) -> Shape:
    data, axis = _own(given), attributes.get("axis", 0) % len(_own(given))
    return (*data[:axis], *_own(given, 1), *data[axis + 1 :])


def _gather_nd(given: Inputs, attributes: Attributes) -> Shape:
    data, indices = _own(given), _own(given, 1)
    return (*indices[:-1], *data[attributes.get("batch_dims", 0) + indices[-1] :])


def _concat(given: Inputs, attributes: Attributes) -> Shape:
    shapes = [item.shape for item in given if item is not None]
    axis = attributes["axis"] % len(shapes[0])
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _matmul(given: Inputs, _: Attributes) -> Shape:
    left, right = _own(given), _own(given, 1)
    if len(left) < 2 or len(right) < 2:
        return (max(math.prod(left), math.prod(right)),)
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _gemm(given: Inputs, attributes: Attributes) -> Shape:
    left, right = _own(given), _own(given, 1)
    return (left[1] if attributes.get("transA") else left[0], right[0] if attributes.get("transB") else right[1])


def _einsum(given: Inputs, attributes: Attributes) -> Shape:
    terms, arrow, result = attributes["equation"].decode().replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, item in zip(terms.split(","), given, strict=True):
        if item is None or "." in term:
            return (math.prod(max(1, entry.elements) for entry in given if entry),)
        sizes.update(zip(term, item.shape, strict=True))
    return tuple(sizes[label] for label in (result if arrow else sorted(sizes)))


def _transposed_convolution(given: Inputs, attributes: Attributes) -> Shape:
    data, kernel = _own(given), _own(given, 1)
    strides = attributes.get("strides", [1] * (len(data) - 2))
    dilations, more = attributes.get("dilations", [1] * len(strides)), attributes.get("output_padding", [0] * len(strides))
    grown = [
        (size - 1) * stride + dilation * (width - 1) + 1 + extra
        for size, stride, dilation, width, extra in zip(data[2:], strides, dilations, kernel[2:], more, strict=True)
    ]
    return (data[0], kernel[1] * attributes.get("group", 1), *(attributes.get("output_shape") or grown)[-len(grown) :])


def _convolution(given: Inputs, attributes: Attributes) -> Shape:
    data, pads = _own(given), attributes.get("pads", [0] * 2 * (len(_own(given)) - 2))
    half = len(pads) // 2
    return (data[0], _own(given, 1)[0], *(size + pads[index] + pads[half + index] for index, size in enumerate(data[2:])))


def _reshape(given: Inputs, _: Attributes) -> Shape:
    wanted = [int(size) for size in _numbers(given, 1)]
    shape = [_own(given)[index] if size == 0 else size for index, size in enumerate(wanted)]
    rest = math.prod(size for size in shape if size >= 0)
    return tuple(math.prod(_own(given)) // max(1, rest) if size < 0 else size for size in shape)


def _same(given: Inputs, _: Attributes) -> Shape:
    return _own(given)


def _view(operator: str) -> Callable[[Inputs, Attributes], Shape]:
    """The rule of an operator that shows the same elements otherwise: tried on one number that is called an array of that shape."""

    def rule(given: Inputs, attributes: Attributes) -> Shape:
        first = np.broadcast_to(np.zeros((), np.int8), _own(given))
        shape: Shape = VALUES[operator]([first, *(item and item.value for item in given[1:])], attributes).shape
        return shape

    return rule


_BROADCASTING = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
    "Where",
    "Max",
    "Min",
    "Sum",
    "Mean",
    "BitShift",
    "PRelu",
]
_UNARY = [
    "Identity",
    "Cast",
    "CastLike",
    "Abs",
    "Neg",
    "Floor",
    "Ceil",
    "Round",
    "Sqrt",
    "Exp",
    "Log",
    "Not",
    "Sign",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Sin",
    "Cos",
    "Softmax",
    "Clip",
    "EyeLike",
    "Trilu",
    "QuantizeLinear",
    "DequantizeLinear",
    "CumSum",
]
SHRINKING = frozenset(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"])
BY_VALUE = frozenset(["Range", "ConstantOfShape", "Expand", "Tile", "HannWindow", "HammingWindow", "BlackmanWindow", "AffineGrid"])
"""Operators whose values alone say how large the result is."""
_RULES: dict[str, Callable[[Inputs, Attributes], Shape | None]] = {
    **dict.fromkeys((*_BROADCASTING, "BitwiseAnd", "BitwiseOr", "BitwiseXor"), _broadcast),
    **dict.fromkeys(_UNARY, _same),
    **{operator: _view(operator) for operator in ("Squeeze", "Unsqueeze", "Slice", "Transpose")},
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), lambda given, _: (int(_numbers(given, 0)[0]),)),
    "Range": _range,
    "ConstantOfShape": lambda given, _: tuple(int(size) for size in _numbers(given, 0)),
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "OneHot": lambda given, _: (*_own(given), int(_numbers(given, 1)[0])),
    "Gather": _gather,
    "GatherElements": lambda given, _: _own(given, 1),
    "GatherND": _gather_nd,
    "Concat": _concat,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Reshape": _reshape,
    "AffineGrid": lambda given, _: tuple(int(size) for size in _numbers(given, 1)),
    "CenterCropPad": lambda given, _: (_own(given)[0] * math.prod(int(size) for size in _numbers(given, 1)),),
    "Col2Im": lambda given, _: (*_own(given)[:2], *(int(size) for size in _numbers(given, 1))),
}
"""Operators whose result may be larger than what goes in, and those by which shapes are computed."""
