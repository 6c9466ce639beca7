"""How large the constants become that a runtime computes while it loads a graph, found before it does. Imports no torch.

ONNX Runtime folds whatever follows from constants alone, without any bound: `Range(0, 1e12)` is forty bytes in the file. Here the
shapes of such values are followed, and small values computed, since shapes are made of them. What cannot be followed is taken to be as
large as its largest input; the bound on the job's memory holds the rest.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.folded_values import VALUES

Shape = tuple[int, ...]
_SMALL = 4096
"""Elements up to which a value is computed."""
_ELEMENT_BYTES, _FOLLOWED_BYTES = 4, 144
"""Of a tensor; of a vector, which may be a shape, and which shape inference follows element by element."""
_REFUSED = (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError)
"""What numpy raises for operands that do not fit: the runtime refuses them itself."""
_UNKNOWABLE = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout", "If", "Loop", "Scan"]
)
"""Operators that no runtime computes beforehand."""


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
Attributes = Mapping[str, Any]


def check_folding(model: onnx.ModelProto) -> None:
    """Raises `tensor_limit_exceeded` for a graph whose constants would take more than the limit, beside a few times what it stores."""
    stored = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    budget = _Budget(limits.MAX_FOLDED_BYTES + 4 * stored * _ELEMENT_BYTES)
    known = {
        item.name: dims
        for item in model.graph.input
        if (dims := tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)) and min(dims) > 0
    }
    with np.errstate(all="ignore"):
        _walk(model.graph, {}, known, budget)


@dataclass
class _Budget:
    bytes_left: int

    def take(self, folded: Folded, node: onnx.NodeProto, found: Mapping[str, Folded]) -> None:
        """By as much as a value is larger than what it is computed from: chains of steps over a weight need its place again and again."""
        grown = folded.elements - max((found[name].elements for name in node.input if name in found), default=0)
        self.bytes_left -= max(0, grown) * (_FOLLOWED_BYTES if len(folded.shape) == 1 and folded.exact else _ELEMENT_BYTES)
        if self.bytes_left < 0:
            name = "".join(char if " " <= char <= "~" else "?" for char in (node.name or node.output[0])[:120])
            raise EngineError(
                "tensor_limit_exceeded",
                f"Node {name!r} ({node.op_type}) computes a constant of {folded.elements} elements: with it the constants of the graph take "
                f"more than {limits.MAX_FOLDED_BYTES >> 20} MiB beside what the file stores.",
                hint="Make such values depend on an input, or store what is really needed.",
                details={"node": name},
            )


def _walk(graph: onnx.GraphProto, outer: MutableMapping[str, Folded], inputs: Mapping[str, Shape], budget: _Budget) -> None:
    found = ChainMap[str, Folded]({}, outer)  # copies nothing: there may be as many branches as nodes
    for tensor in graph.initializer:
        found[tensor.name] = _of_tensor(tensor)
    for node in graph.node:
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                _walk(inner, found, inputs, budget)
        folded = _fold(node, found, inputs)
        if folded is None:
            continue
        if node.op_type != "Constant":
            budget.take(folded, node, found)
        for index, name in enumerate(node.output):
            if name:
                found[name] = folded if index == 0 else Folded((folded.elements,), exact=False)


def _fold(node: onnx.NodeProto, found: Mapping[str, Folded], inputs: Mapping[str, Shape]) -> Folded | None:
    """What a node computes from constants alone; None where it does not."""
    if node.op_type == "Constant":
        return _of_constant(node)
    if node.op_type in ("Shape", "Size") and node.input:
        return _measured(node, found, inputs)
    if node.op_type in _UNKNOWABLE or not node.input or any(name and name not in found for name in node.input):
        return None
    given = [found[name] if name else None for name in node.input]
    attributes = _attributes(node)
    shape, bound = _shape_of(node.op_type, given, attributes), max((item.elements for item in given if item), default=0)
    small = bound <= _SMALL and node.op_type in _SHRINKING if shape is None else math.prod(shape) <= _SMALL
    if small and node.op_type in VALUES and all(item is None or item.value is not None for item in given):
        try:
            value = np.asarray(VALUES[node.op_type]([item and item.value for item in given], attributes))
            return Folded(value.shape, value if value.size <= _SMALL else None)
        except _REFUSED:
            pass
    if shape is None:
        return Folded((bound,), exact=False)
    return Folded(shape, exact=node.op_type in _BY_VALUE or all(item is None or item.exact for item in given))


def _measured(node: onnx.NodeProto, found: Mapping[str, Folded], inputs: Mapping[str, Shape]) -> Folded | None:
    """The shape of what is known, as a value."""
    known = found.get(node.input[0])
    shape = known.shape if known is not None and known.exact else inputs.get(node.input[0])
    if shape is None:
        return None
    attributes = _attributes(node)
    part = shape[attributes.get("start", 0) : attributes.get("end")]
    value = np.asarray(math.prod(shape) if node.op_type == "Size" else part, np.int64)
    return Folded(value.shape, value)


def _shape_of(operator: str, given: Inputs, attributes: Attributes) -> Shape | None:
    """The shape of a node's first output, or of something that is at least as large; None where it is not known."""
    rule = _RULES.get(operator)
    if rule is None or (operator not in _BY_VALUE and any(item is not None and not item.exact for item in given)):
        return None
    try:
        shape = rule(given, attributes)
    except _REFUSED:
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
_SHRINKING = frozenset(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"])
_BY_VALUE = frozenset(["Range", "ConstantOfShape", "Expand", "Tile", "HannWindow", "HammingWindow", "BlackmanWindow", "AffineGrid"])
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


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _of_tensor(tensor: onnx.TensorProto) -> Folded:
    shape = tuple(tensor.dims)
    if math.prod(shape) > _SMALL or tensor.data_type == onnx.TensorProto.STRING:
        return Folded(shape)
    try:
        return Folded(shape, onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError):
        return Folded(shape)


def _of_constant(node: onnx.NodeProto) -> Folded | None:
    for item in node.attribute:
        if item.HasField("t"):
            return _of_tensor(item.t)
        if item.name.startswith(("value_int", "value_float")):
            value = np.asarray(onnx.helper.get_attribute_value(item))
            return Folded(value.shape, value if value.size <= _SMALL else None)
    return None
