"""Einsum of two tensors as the product of matrices that it is, so that its weight is a layer like any other. Imports no torch.

Keras writes every projection of a transformer so (EinsumDense) and attention itself; ONNX Runtime has no integer form of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.formats.onnx.naming import FreshNames


def with_products(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The nodes of a graph, each Einsum that is a product of matrices replaced by Transpose, Reshape and MatMul; the MatMul has its name.

    Others stay: those of one tensor or of three, that take a diagonal, or sum over what one tensor alone has; and those whose weight
    somebody else reads as well.
    """
    if not any(node.op_type == "Einsum" for node in nodes):
        return list(nodes)
    names = FreshNames(graph)
    readers = Counter(name for node in nodes for name in node.input)
    found: list[onnx.NodeProto] = []
    for node in nodes:
        sizes = {name: tuple(constants[name].dims) for name in node.input if name in constants}
        if node.op_type == "Einsum" and len(node.input) == 2 and all(readers[name] == 1 for name in sizes):
            found += _spelled_out(node, sizes, names) or [node]
        else:
            found.append(node)
    return found


@dataclass(frozen=True)
class _Side:
    """One tensor of a product and its letters; `sizes` are known of a weight."""

    value: str
    letters: str
    sizes: Mapping[str, int]


def _spelled_out(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]], names: FreshNames) -> list[onnx.NodeProto]:
    """What computes the same; nothing where no product of two matrices does."""
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    parts = terms.split(",")
    if not arrow or len(parts) != 2 or any(not term.isalpha() or len(set(term)) < len(term) for term in (*parts, result)):
        return []
    sides = [_Side(name, term, dict(zip(term, sizes.get(name, ()), strict=False))) for name, term in zip(node.input, parts, strict=True)]
    orders = [(left, right) for left, right in (sides, sides[::-1]) if right.sizes or not left.sizes]  # a weight stands on the right
    found = [_Product(node, names, left, right, result).nodes() for left, right in orders]
    return min((made for made in found if made), key=len, default=[])


class _Product:
    """Nodes in the place of one: free dimensions of the left times those of the right, for each place of the dimensions that both keep."""

    def __init__(self, node: onnx.NodeProto, names: FreshNames, left: _Side, right: _Side, result: str) -> None:
        self._node, self._names, self._left, self._right, self._result = node, names, left, right, result
        self._made: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        """All of them in order; none where this is no such product."""
        left, right, size = self._left, self._right, self._right.sizes
        both = [letter for letter in right.letters if letter in left.letters and letter in self._result]
        summed = [letter for letter in right.letters if letter in left.letters and letter not in self._result]
        rows = [letter for letter in left.letters if letter not in right.letters]
        columns = [letter for letter in right.letters if letter not in left.letters]
        if sorted([*both, *rows, *columns]) != sorted(self._result) or not (rows and columns and summed):
            return []
        if any(size.get(letter, 0) == 1 for letter in summed) or (not size and len(summed) + len(columns) > 2):
            return []
        *outer, last = rows
        x = self._ordered(left.value, left.letters, [*outer, *both, last, *summed])
        x = self._reshaped(x, [*[0] * (len(rows) + len(both)), self._all(summed)], needed=len(summed) > 1)
        y = self._ordered(right.value, right.letters, [*both, *summed, *columns])
        y = self._reshaped(y, [*[0] * len(both), self._all(summed), self._all(columns)], needed=len(summed) + len(columns) > 2)
        product = self._made_up("product")
        self._made.append(helper.make_node("MatMul", [x, y], [product], self._node.name))
        heads = [*outer, *both, last]
        split = self._reshaped(product, [*[0] * len(heads), *(size.get(letter, 0) for letter in columns)], needed=len(columns) > 1)
        self._ordered(split, "".join([*heads, *columns]), list(self._result))
        self._made[-1].output[0] = self._node.output[0]
        return self._made

    def _all(self, letters: Sequence[str]) -> int:
        return math.prod(self._right.sizes.get(letter, 0) for letter in letters)

    def _ordered(self, value: str, letters: str, wanted: Sequence[str]) -> str:
        if list(letters) == list(wanted):
            return value
        return self._emit("Transpose", [value], perm=[letters.index(letter) for letter in wanted])

    def _reshaped(self, value: str, sizes: Sequence[int], *, needed: bool) -> str:
        if not needed:
            return value
        shape = self._made_up("sizes")
        tensor = numpy_helper.from_array(np.array(sizes, np.int64), shape)
        self._made.append(helper.make_node("Constant", [], [shape], self._made_up("Constant"), value=tensor))
        return self._emit("Reshape", [value, shape])

    def _emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self._made_up(kind.lower())
        self._made.append(helper.make_node(kind, inputs, [output], self._made_up(kind), **attributes))
        return output

    def _made_up(self, what: str) -> str:
        return self._names.claim(f"{self._node.output[0]}_{what}")
