"""What is known of outputs and targets before their meaning is declared: shapes, types, ranges, sums, names. Numpy only."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.contract.heads import Head, Scale
from engine.metrics.scores import is_probabilities

Array = NDArray[Any]
_CHUNK_BYTES = 1 << 24
_SENTINELS = (-100, -1, 255)
"""Class numbers that are customary for places that do not count."""
_NO_CLASSES = re.compile(
    r"embed|feature|hidden|pooled|latent|vector|box|bbox|coord|offset|delta|keypoint|landmark|recon|depth|mean|var", re.IGNORECASE
)
_CLASSES = re.compile(r"logit|prob|score|softmax|class|categor|predictions", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Output:
    """One output of the uploaded network, seen on some examples."""

    name: str
    index: int
    sample: Array
    """Its values on those examples, examples first."""
    inputs: Mapping[str, Array]
    """What the network was given."""
    alone: bool = True
    """Whether the network has no other output."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, without dimensions of size 1 at its end: what a network that ends in a pooling layer gives is a vector."""
        shape = self.sample.shape[1:]
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    @property
    def described(self) -> str:
        """How messages call it."""
        return f"output {self.name!r} of shape {_text(('batch', *self.sample.shape[1:]))}"

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return np.issubdtype(self.sample.dtype, np.floating)

    def rows(self, axis: int) -> Array:
        """Its values along one dimension, a row for each example and position."""
        last = np.moveaxis(self.sample.astype(np.float64), axis, -1)
        return last.reshape(-1, last.shape[-1])

    def scale(self, axis: int) -> Scale:
        """Whether its class scores are probabilities already."""
        return "probabilities" if is_probabilities(self.rows(axis)) else "logits"

    @property
    def shares(self) -> bool:
        """Whether every value is between 0 and 1, as a sigmoid's are."""
        return bool(self.sample.size and self.sample.min() >= 0 and self.sample.max() <= 1)


@dataclass(frozen=True)
class Column:
    """Targets of one name, in all splits."""

    name: str
    """In a split's targets: `y`, or `y.<output>`."""
    shape: tuple[int, ...]
    """Of one example, without dimensions of size 1 at its end."""
    dtype: str
    low: float
    high: float
    whole: bool
    """Whether every value is an integer, whatever its type."""
    one_hot: bool
    """Whether every example is a vector of zeros, or of numbers -1, and a single one."""
    ignored: int | None
    """A customary number of places that do not count, where it occurs and lies apart from the other numbers."""
    counted: tuple[float, float]
    """Lowest and highest value of the places that count."""
    edges: tuple[float, ...] = ()
    """The two lowest and the two highest values."""
    names_classes: bool = False
    """Whether the numbers stand for classes that have names, in an order that means nothing."""

    @property
    def yes_or_no(self) -> bool:
        """Whether every value is 0 or 1."""
        return self.whole and self.low >= 0 and self.high <= 1

    @property
    def signs(self) -> bool:
        """Whether the values are -1 and 1, as hinge losses take no and yes."""
        return self.edges == (-1.0, 1.0)

    @property
    def described(self) -> str:
        """How messages call it."""
        kind = "whole numbers" if self.whole else "fractions"
        one = "a number" if not self.shape else f"an array of shape {_text(self.shape)}"
        return f"target {self.name!r} ({one} an example, {self.dtype}, {kind} from {self.low:g} to {self.high:g})"

    @classmethod
    def of(cls, name: str, arrays: Sequence[Array], *, names_classes: bool = False) -> Column:
        """What the targets of one name are in the splits that have them. Raises `dataset_invalid` where they differ in shape."""
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise EngineError("dataset_invalid", f"The target {name!r} has examples of different shapes: {sorted(shapes)}.")
        shape = shapes.pop()
        low, high, whole, one_hot = np.inf, -np.inf, True, len(shape) == 1 and shape[0] > 1
        inner_low, inner_high = np.inf, -np.inf
        sentinels: set[int] = set()
        edges: set[float] = set()
        for array in arrays:
            for part in _chunks(array):
                low, high = min(low, float(part.min())), max(high, float(part.max()))
                whole = whole and (part.dtype.kind in "iub" or bool((part == np.rint(part)).all()))
                one_hot = one_hot and whole and _is_one_hot(part)
                found = [value for value in _SENTINELS if whole and part.dtype.kind != "b" and (part == value).any()]
                sentinels.update(found)
                edges = {*edges, *_edges(part)}
                inner = part[~np.isin(part, _SENTINELS)]
                if inner.size:
                    inner_low, inner_high = min(inner_low, float(inner.min())), max(inner_high, float(inner.max()))
        ignored = sentinels.pop() if len(sentinels) == 1 and inner_low >= 0 else None
        while shape and shape[-1] == 1:
            shape = shape[:-1]
        counted = (inner_low, inner_high) if ignored is not None else (low, high)
        ordered = sorted(edges)
        kept = tuple(ordered if len(ordered) < 5 else ordered[:2] + ordered[-2:])
        return cls(
            name, shape, str(arrays[0].dtype), low, high, whole, one_hot, ignored, counted, kept, names_classes and whole and shape == ()
        )

    def classes_up_to(self, count: int, stated: int | None = None) -> int | str | None:
        """Which number is to be ignored (None: none) where the values number `count` classes, or a sentence why they do not.

        `stated` is the number of places that do not count, where the owner of the model declares one.
        """
        if not self.whole:
            return f"the {self.described} holds fractions, which number no classes; task regression?"
        if stated is not None and all(0 <= value < count for value in self.edges if value != stated):
            return stated
        if self.low >= 0 and self.high < count:
            return None
        if self.ignored is not None and self.counted[1] < count:
            return self.ignored
        if self.low < 0:
            return f"the {self.described} has negative numbers; classes count from 0"
        return (
            f"the dataset has the label {self.high:.0f}, but the model gives only {count} class scores; labels count from 0 to classes - 1"
        )


class HasTargets(Protocol):
    """The part of a split that is read here."""

    @property
    def targets(self) -> Mapping[str, Array]:
        """Stored targets by name."""


def columns_of(splits: Mapping[str, HasTargets], named: Collection[str] = ()) -> dict[str, Column]:
    """What the targets of a dataset are, in all its splits; the numbers of those in `named` stand for classes that have names."""
    found: dict[str, Column] = {}
    for name in dict.fromkeys(name for split in splits.values() for name in split.targets):
        arrays = [split.targets[name] for split in splits.values() if name in split.targets]
        found[name] = Column.of(name, arrays, names_classes=name in named)
    return found


def class_axis(output: Output) -> tuple[int, str] | str:
    """The dimension of an output along which its values are scores of classes, and how that was seen; else why it was not."""
    if not output.floating:
        return f"{output.described} holds integers"
    rank = len(output.shape) + 1
    wide = [axis for axis in _by_custom(rank) if output.sample.shape[axis] > 1]
    for axis in wide:
        rows = output.rows(axis)
        if is_probabilities(rows) or bool(np.isfinite(rows).all() and rows.max() <= 1e-6 and is_probabilities(np.exp(rows))):
            return axis, f"its values are probabilities along dimension {axis}"
    if not wide:
        return f"{output.described} has a single value"
    if any(output.sample.shape == given.shape for given in output.inputs.values()):
        return f"{output.described} has the shape of an input"
    if unit_length(output):
        return f"every row of {output.described} has length 1, as embeddings have"
    if _NO_CLASSES.search(output.name):
        return f"the name {output.name!r} does not name classes"
    axis = next((axis for axis in wide if output.sample.shape[axis] not in _positions(output)), wide[0])
    if _CLASSES.search(output.name):
        return axis, f"its name is {output.name!r}; classes are taken to be along dimension {axis}"
    if rank == 3 and _vocabulary(output, axis):
        return axis, f"dimension {axis} is as large as the tokens' numbers in the input"
    if rank == 2 and output.alone:
        return 1, "it is the only output and a vector; scores of classes are taken for granted"
    return f"nothing about {output.described} shows that it holds scores of classes"


def unit_length(output: Output) -> bool:
    """Whether every row of a matrix has length 1."""
    if len(output.shape) != 1 or output.shape[0] < 3 or not output.floating:
        return False
    rows = output.rows(1)
    return bool(np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)) and not is_probabilities(rows)


def dense_axis(output: Output, column: Column, axes: Sequence[int]) -> int | None:
    """The dimension without which the output has the shape of the target: the one of the classes; of two such, the first of `axes`."""
    rank = output.sample.ndim
    shape = list(output.sample.shape[1:])
    for axis in axes:
        rest = shape[: axis - 1] + shape[axis:]
        while len(rest) > len(column.shape) and rest and rest[-1] == 1:
            rest = rest[:-1]
        if 1 <= axis < rank and shape[axis - 1] > 1 and tuple(rest) == column.shape:
            return axis
    return None


def same_places(output: Output, column: Column) -> bool:
    """Whether output and target have the same shape but for dimensions of size 1."""
    return [size for size in output.sample.shape[1:] if size > 1] == [size for size in column.shape if size > 1]


def class_head(output: Output, task: str, axis: int, column: Column | None, *, reason: str, ignored: int | None = None) -> Head:
    """A head of class scores."""
    return Head(
        name=output.name,
        indices=(output.index,),
        task=task,
        target=None if column is None else column.name,
        class_axis=axis,
        classes_count=int(output.sample.shape[axis]),
        scale=output.scale(axis),
        ignored=ignored,
        reason=reason,
    )


def _by_custom(rank: int) -> tuple[int, ...]:
    """Dimensions in the order in which classes are wont to be along them."""
    return (1,) if rank == 2 else (2, 1) if rank == 3 else (1, rank - 1)


def _positions(output: Output) -> set[int]:
    """Sizes that the inputs have after the batch, so that they are positions and no classes."""
    if len(output.shape) < 2:
        return set()
    return {size for given in output.inputs.values() for size in given.shape[1:] if given.ndim in (2, output.sample.ndim)}


def _vocabulary(output: Output, axis: int) -> bool:
    """Whether there are about as many scores as there are numbers of tokens in an integer input."""
    tokens = [given for given in output.inputs.values() if given.dtype.kind in "iu" and given.ndim == 2 and given.size]
    size = output.sample.shape[axis]
    return any(size / 2 <= int(given.max()) + 1 <= size and int(given.max()) > 1 for given in tokens)


def _edges(part: Array) -> set[float]:
    """The two lowest and the two highest values."""
    low, high = part.min(), part.max()
    inner = part[(part != low) & (part != high)]
    return {float(low), float(high), *((float(inner.min()), float(inner.max())) if inner.size else ())}


def _is_one_hot(part: Array) -> bool:
    return bool((np.isin(part, (0, 1)).all() or np.isin(part, (-1, 1)).all()) and ((part == 1).sum(axis=1) == 1).all())


def _chunks(array: Array) -> list[Array]:
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    return [np.asarray(array[start : start + rows]) for start in range(0, len(array), rows)]


def _text(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
