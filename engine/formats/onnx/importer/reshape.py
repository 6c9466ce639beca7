"""Reshape, rebuilt from what it does to dimensions instead of from the sizes that were exported.

A reshape splits and merges neighbouring dimensions. Written as flattening and unflattening, with one size left open each time,
it follows any batch size and any number of channels, so that pruning can change both ends of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Flow, Symbol, Value, values_of

Group = tuple[range, range]
"""Input dimensions that become these output dimensions."""


def reshape(op: Op, build: Builder) -> Value:
    """Reshape to constant or computed sizes."""
    source, sizes = op.value(0), op.sizes(1)
    if sizes is None and "shape" in op.attributes:
        sizes = op.ints("shape")
    if sizes is None:
        op.fail("its shape depends on the data")
    if not isinstance(source, Flow):
        return build.call("reshape", source, _copied(build, source, sizes, op))
    return to_sizes(build, source, _copied(build, source, sizes, op))


def flatten(op: Op, build: Builder) -> Value:
    """Flatten to a matrix, split at `axis`."""
    axis = int(op.attribute("axis", 1))
    rank = op.rank(0)
    axis = axis + rank if axis < 0 else axis
    if axis == 0:
        return build.call("unsqueeze", build.call(torch.flatten, op.value(0)), 0)
    if axis == rank:
        return build.call("unsqueeze", build.call(torch.flatten, op.value(0)), 1)
    value = _flatten(build, op.value(0), range(axis, rank), rank)
    return _flatten(build, value, range(axis), axis + 1)


def to_sizes(build: Builder, source: Flow, sizes: Sequence[Any]) -> Value:
    """`source` with the given sizes (ints, Symbols, one -1)."""
    before = [tuple(probe.shape[dim] for probe in source.probes) for dim in range(source.rank)]
    after = resolve(before, sizes, generalize=build.static_batch is not None)
    found = None if after is None else groups(before, after)
    if found is None:
        return build.call("reshape", source, list(sizes))
    value: Value = source
    rank = source.rank
    for ins, outs in reversed(found):
        if len(ins) > 1:
            value = _flatten(build, value, ins, rank)
            rank -= len(ins) - 1
        if len(outs) > 1:
            if len(ins):
                carries = len({math.prod(before[dim][probe] for dim in ins) for probe in range(build.probes)}) > 1
                batch = build.static_batch if carries else None
                value = build.call("unflatten", value, ins.start, _unflattened(outs, sizes, after or [], batch))
            else:
                for _ in outs:
                    value = build.call("unsqueeze", value, ins.start)
            rank += len(outs) - 1
    return value


def resolve(before: Sequence[tuple[int, ...]], sizes: Sequence[Any], *, generalize: bool) -> list[tuple[int, ...]] | None:
    """The output sizes for each probe, -1 filled in.

    With `generalize` the file fixes its batch: only the first probe has the sizes that the file speaks of.
    """
    probes = 1 if generalize else len(before[0]) if before else 0
    result = [list(values_of(size, len(before[0]))[:probes]) for size in sizes] if before else []
    for probe in range(probes):
        total = math.prod(dim[probe] for dim in before)
        known = math.prod(dim[probe] for dim in result if dim[probe] != -1)
        for dim in result:
            if dim[probe] == -1:
                if known == 0:
                    return None
                dim[probe] = total // known
        if math.prod(dim[probe] for dim in result) != total or total == 0:
            return None
    return [tuple(dim) for dim in result]


def groups(before: Sequence[tuple[int, ...]], after: Sequence[tuple[int, ...]]) -> list[Group] | None:
    """The finest way to cut both shapes into runs of equal product, in every probe; None for shapes that have none."""
    if not before or not after:
        return None
    probes = len(after[0])
    cut: list[Group] = []
    i = j = 0
    while i < len(before) and j < len(after):
        first_in, first_out = i, j
        left, right = before[i][:probes], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left[0] <= right[0] and i < len(before):
                left = tuple(a * b for a, b in zip(left, before[i][:probes], strict=True))
                i += 1
            elif j < len(after):
                right = tuple(a * b for a, b in zip(right, after[j], strict=True))
                j += 1
            else:
                return None
        cut.append((range(first_in, i), range(first_out, j)))
    last_in, last_out = cut[-1]
    cut[-1] = (range(last_in.start, len(before)), range(last_out.start, len(after)))
    return cut


def _unflattened(outs: range, sizes: Sequence[Any], after: Sequence[tuple[int, ...]], batch: int | None) -> list[Any]:
    """Sizes of one split, with exactly one of them open: the one that varies, else the one that ONNX left open, else the last.

    `batch` is the batch that the file fixes, if the split dimension carries it: then the first size equal to it is left open.
    """
    wanted = [sizes[dim] if not (isinstance(sizes[dim], int) and sizes[dim] == -1) else None for dim in outs]
    varying = [position for position, dim in enumerate(outs) if len(set(after[dim])) > 1]
    left_open = [position for position, size in enumerate(wanted) if size is None]
    if batch is not None:
        chosen = next((position for position, dim in enumerate(outs) if after[dim][0] == batch), 0)
    elif left_open and all(isinstance(wanted[position], Symbol) for position in varying if position not in left_open):
        chosen = left_open[0]
    elif varying:
        chosen = varying[0]
    else:
        chosen = 0 if outs.start == 0 else len(wanted) - 1
    return [
        -1 if position == chosen else (after[dim][0] if wanted[position] is None else wanted[position]) for position, dim in enumerate(outs)
    ]


def _flatten(build: Builder, value: Value, dims: range, rank: int) -> Value:
    if len(dims) < 2:
        return value
    if dims.stop == rank and dims.start == 1:
        return build.layer(nn.Flatten(1), None, value)
    return build.call(torch.flatten, value, dims.start, dims.stop - 1)


def _copied(build: Builder, source: Value, sizes: Sequence[Any], op: Op) -> list[Any]:
    """Zeros replaced by the size of the same dimension, as Reshape means them unless `allowzero` is set."""
    if op.attribute("allowzero", 0):
        return list(sizes)
    rank = source.rank if isinstance(source, Flow) else source.tensor.dim() if isinstance(source, Constant) else 1
    return [build.size(source, dim) if isinstance(size, int) and size == 0 and dim < rank else size for dim, size in enumerate(sizes)]


OPERATORS = {"Flatten": flatten, "Reshape": reshape}
