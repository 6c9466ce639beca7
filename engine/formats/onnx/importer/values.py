"""What a name of an ONNX graph stands for while the graph is being rebuilt: a constant, a symbolic shape, or data that flows.

Every flowing value carries *probes*: its shape and type for three imagined inputs that differ in all open dimensions, kept as
tensors on the meta device. An integer that is the same in all probes is a constant; one that differs is a `Symbol`, computed by
the rebuilt graph. So no size of the exported example is baked into the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor known at import. `source` is the initializer that it is, or whose transpose it is."""

    tensor: torch.Tensor
    source: str | None = None
    transposed: bool = False

    @property
    def is_uniform(self) -> bool:
        """Whether a vector repeats one number, as new scales, biases and statistics do."""
        tensor = self.tensor
        return tensor.dim() <= 1 and tensor.numel() > 0 and bool((tensor == tensor.reshape(-1)[0]).all())


@dataclass(frozen=True, eq=False)
class Flow:
    """The output of a node of the rebuilt graph, and its probes: meta tensors (tuples of them where the node returns several)."""

    node: fx.Node
    probes: tuple[Any, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return int(self.probes[0].dim())


class Symbol:
    """An integer that depends on an open dimension: a node of the rebuilt graph, and what it is for each probe."""

    def __init__(self, node: fx.Node, values: tuple[int, ...]) -> None:
        self.node = node
        self.values = values

    def __add__(self, other: Any) -> Any:
        return combine(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return combine(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return combine(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return combine(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return combine(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return combine(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return combine(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return combine(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return combine(operator.mod, self, other)

    def __neg__(self) -> Any:
        return combine(operator.mul, self, -1)


@dataclass(frozen=True, eq=False)
class Sizes:
    """An integer tensor with at least one `Symbol` among its elements; `array` holds Python ints and Symbols."""

    array: ObjectArray


@dataclass(frozen=True, eq=False)
class Items:
    """A sequence: so many values, one after the other."""

    values: tuple[Value, ...]


Value = Constant | Flow | Sizes | Items


def sizes_of(value: Sizes | Items) -> ObjectArray:
    """The integers of what is no sequence."""
    if isinstance(value, Items):
        raise TypeError("a sequence stands where a tensor is needed")
    return value.array


def values_of(item: Any, probes: int) -> tuple[Any, ...]:
    """What an int or Symbol is in each probe."""
    return item.values if isinstance(item, Symbol) else (item,) * probes


def combine(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """`function` of two integers, at least one of them a Symbol; a plain int where the probes agree."""
    symbols = [item for item in (left, right) if isinstance(item, Symbol)]
    if len(symbols) == 0:
        return function(left, right)
    probes = len(symbols[0].values)
    values = tuple(function(a, b) for a, b in zip(values_of(left, probes), values_of(right, probes), strict=True))
    if len(set(values)) == 1:
        return values[0]
    graph = symbols[0].node.graph
    arguments = tuple(item.node if isinstance(item, Symbol) else item for item in (left, right))
    return Symbol(graph.call_function(function, arguments), values)


def sizes_or_constant(array: ObjectArray | Any) -> Value:
    """An object array of ints and Symbols as `Sizes`, or as a constant (int64, or bool) if no Symbol is left in it."""
    array = np.asarray(array, dtype=object)
    if any(isinstance(item, Symbol) for item in array.ravel()):
        return Sizes(array)
    truths = array.size > 0 and all(isinstance(item, bool) for item in array.ravel())
    return Constant(torch.tensor(np.asarray(array.tolist(), dtype=np.bool_ if truths else np.int64)))


def object_array(value: Value) -> ObjectArray | None:
    """A constant integer tensor or `Sizes` as an object array; None for anything else."""
    if isinstance(value, Sizes):
        return value.array
    if isinstance(value, Constant) and not value.tensor.is_floating_point():
        array = value.tensor.numpy()
        return np.array(array.tolist(), dtype=object).reshape(array.shape)
    return None
