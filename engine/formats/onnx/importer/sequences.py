"""Sequences of tensors, whose members are known one by one: torch writes a list that a loop fills as one."""

from __future__ import annotations

from typing import Any

import torch

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op, rank_of
from engine.formats.onnx.importer.values import Constant, Items, Value


def empty(op: Op, build: Builder) -> Value:
    """SequenceEmpty."""
    return Items(())


def construct(op: Op, build: Builder) -> Value:
    """SequenceConstruct."""
    return Items(tuple(op.value(index) for index in range(len(op.inputs))))


def insert(op: Op, build: Builder) -> Value:
    """SequenceInsert: at a place that is known, or at the end."""
    values = list(_items(op).values)
    place = len(values) if op.get(2) is None else int(op.known(2, "position").reshape(()))
    if not -len(values) <= place <= len(values):
        raise IndexError(f"place {place} of {len(values)}")
    values.insert(place, op.value(1))
    return Items(tuple(values))


def erase(op: Op, build: Builder) -> Value:
    """SequenceErase: of a place that is known, or of the last."""
    values = list(_items(op).values)
    del values[_place(op, 1, len(values) - 1, len(values))]
    return Items(tuple(values))


def at(op: Op, build: Builder) -> Value:
    """SequenceAt a place that is known."""
    values = _items(op).values
    return values[_place(op, 1, None, len(values))]


def length(op: Op, build: Builder) -> Value:
    """SequenceLength."""
    return Constant(torch.tensor(len(_items(op).values)))


def concatenated(op: Op, build: Builder) -> Value:
    """ConcatFromSequence, along a dimension or a new one."""
    values, axis, new = _items(op).values, int(op.attribute("axis")), bool(op.attribute("new_axis", 0))
    if not values:
        op.fail("it joins nothing")
    spread = new or axis % max(1, rank_of(values[0])) != 0
    parts: list[Any] = build.same_batch(values, spread=True) if spread else list(values)
    return build.call(torch.stack if new else torch.cat, parts, axis)


def split(op: Op, build: Builder) -> Value:
    """SplitToSequence into parts of known sizes."""
    value = op.value(0)
    axis = int(op.attribute("axis", 0)) % op.rank(0)
    whole = build.size(value, axis)
    if not isinstance(whole, int):
        op.fail("it splits an open dimension")
    stated = op.sizes(1)
    if op.get(1) is None:
        sizes = [1] * whole
    elif stated is None or not all(isinstance(size, int) for size in stated):
        op.fail("its parts depend on the data")
    elif op.rank(1) == 0:
        sizes = [min(stated[0], whole - start) for start in range(0, whole, stated[0])]
    else:
        sizes = stated
    parts = build.call_many(torch.split, len(sizes), value, sizes, axis)
    # ONNX Runtime drops the dimension of parts of one size, too, where that is stated as a single number.
    if not op.attribute("keepdims", 1) and (op.get(1) is None or op.rank(1) == 0):
        if set(sizes) != {1}:
            raise ValueError(f"a dimension of parts of {sizes[0]} cannot be dropped")
        parts = [build.call(torch.squeeze, part, [axis]) for part in parts]
    return Items(tuple(parts))


def _items(op: Op) -> Items:
    found = op.value(0)
    if not isinstance(found, Items):
        raise TypeError("a tensor stands where a sequence is needed")
    return found


def _place(op: Op, index: int, default: int | None, places: int) -> int:
    """A place of so many, which may be counted from the end."""
    if op.get(index) is None and default is not None:
        return default
    place = int(op.known(index, "position").reshape(()))
    if not -places <= place < places:
        raise IndexError(f"place {place} of {places}")
    return place % places


OPERATORS = {
    "ConcatFromSequence": concatenated,
    "SequenceAt": at,
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceErase": erase,
    "SequenceInsert": insert,
    "SequenceLength": length,
    "SplitToSequence": split,
}
