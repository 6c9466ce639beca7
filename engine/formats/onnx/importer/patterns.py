"""Layers that older opsets and other exporters write in pieces, put together again before the graph is rebuilt.

A normalization that is spelled out as means and square roots cannot be pruned as one layer, and a channel's scale would become a
stray parameter. Only exact forms are taken, whose inner values nothing else reads.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from engine.formats.onnx.contents import inner_nodes

Array = npt.NDArray[np.generic]
_NAMED_BY = frozenset(["Erf", "GlobalAveragePool", "InstanceNormalization", "ReduceMean", "Sigmoid"])
"""The piece whose name a layer takes."""


class Patterns:
    """Rewrites the nodes of one graph."""

    def __init__(self, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> None:
        self._nodes = list(graph.node)
        self._constants = constants
        self._outputs = {item.name for item in graph.output}
        self._producers = {name: node for node in self._nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self._nodes:
            for name in (*node.input, *(name for inner in inner_nodes(node) for name in inner.input)):
                self._consumers[name].append(node)
        self._gone: set[int] = set()
        self._replaced: dict[int, onnx.NodeProto] = {}

    def rewritten(self) -> list[onnx.NodeProto]:
        """The nodes with every pattern replaced by one node, in an order that still computes."""
        for node in self._nodes:
            if node.op_type == "Erf":
                self._gelu(node)
            elif node.op_type == "Sigmoid":
                self._silu(node)
            elif node.op_type in ("ReduceMean", "GlobalAveragePool"):
                self._layer_norm(node)
                self._layer_norm_of_sums(node)
            elif node.op_type == "InstanceNormalization":
                self._group_norm(node)
        kept = [self._replaced.get(id(node), node) for node in self._nodes if id(node) not in self._gone]
        return kept

    def _gelu(self, erf: onnx.NodeProto) -> None:
        """x · ½ · (1 + erf(x / √2)), its factors in any order (Hendrycks & Gimpel 2016)."""
        scaled = self._producers.get(erf.input[0])
        x = self._other(scaled, "Div", math.sqrt(2)) or self._other(scaled, "Mul", math.sqrt(0.5))
        added = self._only_reader(erf)
        if scaled is None or x is None or self._other(added, "Add", 1.0) != erf.output[0]:
            return
        inner = [scaled, erf, added]
        first = self._only_reader(added)
        if first is None or first.op_type != "Mul":
            return
        operand = _partner(first, added.output[0])  # type: ignore[union-attr]  # `_other` found an Add there
        half = self._producers.get(operand or "")
        if self._other(half, "Mul", 0.5) == x and half is not None and len(self._consumers[half.output[0]]) == 1:
            self._replace([*inner, half], first, "Gelu", [x])
            return
        last = self._only_reader(first)
        rest = (
            self._other(last, "Mul", 0.5) == first.output[0] if operand == x else self._is_number(operand, 0.5) and _reads(last, "Mul", x)
        )
        if last is not None and rest:
            self._replace([*inner, first], last, "Gelu", [x])

    def _silu(self, sigmoid: onnx.NodeProto) -> None:
        """x · sigmoid(x)."""
        product = self._only_reader(sigmoid)
        if product is not None and product.op_type == "Mul" and _partner(product, sigmoid.output[0]) == sigmoid.input[0]:
            self._replace([sigmoid], product, "Swish", [sigmoid.input[0]])

    def _layer_norm(self, mean: onnx.NodeProto) -> None:
        """(x - mean) / √(variance + ε) · scale + bias over the last axis (Ba et al. 2016)."""
        x = mean.input[0]
        centered = self._only_reader(mean)
        if not self._over_last_axis(mean) or centered is None or centered.op_type != "Sub" or list(centered.input) != [x, mean.output[0]]:
            return
        c = centered.output[0]
        squares = [node for node in self._consumers[c] if node.op_type in ("Pow", "Mul") and node.input[0] == c]
        square = next((node for node in squares if node.op_type == "Mul" and list(node.input) == [c, c]), None) or next(
            (node for node in squares if node.op_type == "Pow" and self._is_number(node.input[1], 2.0)), None
        )
        chain = self._chain(square, ("ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"))
        if square is None or chain is None:
            return
        variance, stable, root, quotient, scaled, shifted = chain
        epsilon = self._number(_partner(stable, variance.output[0]))
        scale, bias = _partner(scaled, quotient.output[0]) or "", _partner(shifted, scaled.output[0]) or ""
        readers = {id(node) for node in self._consumers[c]}
        rows = all(name in self._constants and len(self._constants[name].dims) == 1 for name in (scale, bias))
        if epsilon is None or not rows or not self._over_last_axis(variance) or readers != {id(square), id(quotient)}:
            return
        if list(quotient.input) == [c, root.output[0]]:
            inner = [mean, centered, square, *chain[:-1]]
            self._replace(inner, shifted, "LayerNormalization", [x, scale, bias], axis=-1, epsilon=epsilon)

    def _layer_norm_of_sums(self, mean: onnx.NodeProto) -> None:
        """x · s + (bias - mean · s) with s = scale / √(variance + ε) over the last axis: layer normalization as Keras writes it."""
        x, m = mean.input[0], mean.output[0]
        square = next(
            (n for c in self._consumers[m] if list(c.input) == [x, m] for n in self._consumers[c.output[0]] if n.op_type == "Mul"), None
        )
        centered = self._producers.get(square.input[0]) if square is not None else None
        chain = self._chain(square, (mean.op_type, "Add", "Sqrt", "Reciprocal", "Mul"))
        if square is None or centered is None or chain is None or square.input[0] != square.input[1] or centered.op_type != "Sub":
            return
        variance, stable, _, inverse, scaled = chain
        s, epsilon = scaled.output[0], self._number(_partner(stable, variance.output[0]))
        products = self._consumers[s]
        whole = next((n for n in products if _partner(n, s) == x), None)
        shift = next((n for n in products if n is not whole), None)
        moved = self._producers.get(_partner(shift, s) or "") if shift is not None else None
        summed = self._only_reader(shift)
        if whole is None or shift is None or moved is None or summed is None or len(products) != 2:
            return
        negated = moved.op_type == "Neg" and moved.input[0] == m
        kinds = [n.op_type for n in (whole, shift, summed)]
        added = negated and kinds == ["Mul", "Mul", "Add"]
        taken_off = moved is mean and kinds == ["Mul", "Mul", "Sub"] and summed.input[1] == shift.output[0]
        last = self._only_reader(summed)
        ends = last is not None and last.op_type == "Add" and _partner(last, summed.output[0]) == whole.output[0]
        if last is None or not ends or not (added or taken_off) or self._only_reader(whole) is not last:
            return
        scale, bias = _partner(scaled, inverse.output[0]), _partner(summed, shift.output[0])
        readers = {id(n) for n in self._consumers[m]}
        alone = readers == {id(centered), id(moved if negated else shift)} and all(n is square for n in self._consumers[centered.output[0]])
        if epsilon is None or not alone or not scale or not bias or not self._is_row(scale) or not self._is_row(bias):
            return
        if all(self._over_features(n, len(self._constants[scale].dims)) for n in (mean, variance)):
            inner = [mean, centered, square, *chain, *([moved] if negated else []), whole, shift, summed]
            self._replace(inner, last, "LayerNormalization", [x, scale, bias], axis=-1, epsilon=epsilon)

    def _over_features(self, node: onnx.NodeProto, rank: int) -> bool:
        """Whether a mean is that of the last of so many axes. That of a pooling is where there is one spatial axis."""
        if node.op_type == "ReduceMean":
            return self._over_last_axis(node) or (rank > 1 and self._axes(node) == [rank - 1] and _keeps_rank(node))
        return rank == 3

    def _is_row(self, name: str) -> bool:
        """Whether a constant has one number for each place of the last axis."""
        return name in self._constants and self._constants[name].dims[-1:] == [math.prod(self._constants[name].dims)]

    def _group_norm(self, norm: onnx.NodeProto) -> None:
        """Instance normalization of (batch, groups, rest), reshaped back, with a scale and bias a channel (Wu & He 2018).

        Exporters leave both reshapes out where every channel is a group of its own.
        """
        split, merged = self._producers.get(norm.input[0]), self._only_reader(norm)
        inner, x, last = [norm], norm.input[0], norm
        if split is not None and merged is not None and (split.op_type, merged.op_type) == ("Reshape", "Reshape"):
            target = self._array(split.input[1])
            if target is None or target.size != 3 or len(self._consumers[split.output[0]]) != 1:
                return
            inner, x, last = [split, norm, merged], split.input[0], merged
        ones, zeros = (self._array(name) for name in norm.input[1:3])
        scaled = self._only_reader(last)
        shifted = self._only_reader(scaled)
        if scaled is None or shifted is None or (scaled.op_type, shifted.op_type) != ("Mul", "Add"):
            return
        if ones is None or zeros is None or (ones != 1).any() or (zeros != 0).any():
            return
        weight, offset = self._row(_partner(scaled, last.output[0])), self._row(_partner(shifted, scaled.output[0]))
        if weight is None or offset is None or weight[1] != offset[1] or (last is norm and weight[1][0] != ones.size):
            return
        epsilon = next((item.f for item in norm.attribute if item.name == "epsilon"), 1e-5)
        inputs = [x, weight[0], offset[0]]
        self._replace([*inner, scaled], shifted, "GroupNormalization", inputs, num_groups=int(ones.size), epsilon=epsilon)

    def _row(self, name: str | None) -> tuple[str, tuple[int, ...]] | None:
        """The constant behind one number a channel, and its shape as it is read: (channels, 1, …)."""
        found = self._viewed(name or "")
        return found if found is not None and len(found[1]) > 1 and found[1][0] == math.prod(found[1]) else None

    def _viewed(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """A constant and the shape in which it is read: exporters that fold nothing leave nodes between the two."""
        if name in self._constants:
            return name, tuple(self._constants[name].dims)
        node = self._producers.get(name)
        found = self._viewed(node.input[0]) if node is not None and node.op_type in ("Identity", "Unsqueeze") else None
        if node is None or found is None or node.op_type == "Identity":
            return found
        axes = self._axes(node)
        return None if axes is None else (found[0], np.expand_dims(np.empty(found[1]), tuple(axes)).shape)

    def _replace(
        self, inner: Iterable[onnx.NodeProto | None], last: onnx.NodeProto, kind: str, inputs: list[str], **attributes: Any
    ) -> None:
        """Put one node in the place of `last`; inner values that leave the network or are taken already forbid it."""
        pieces = [node for node in inner if node is not None]
        taken = any(id(node) in self._gone or id(node) in self._replaced for node in [*pieces, last])
        if taken or any(name in self._outputs for node in pieces for name in node.output):
            return
        node = onnx.helper.make_node(kind, inputs, [last.output[0]], name=last.name, **attributes)
        noted = next((piece for piece in [*pieces, last] if piece.op_type in _NAMED_BY), last)
        node.name = noted.name
        node.metadata_props.extend(noted.metadata_props)
        self._gone.update(id(piece) for piece in pieces)
        self._replaced[id(last)] = node

    def _only_reader(self, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
        if node is None or node.output[0] in self._outputs:
            return None
        readers = self._consumers[node.output[0]]
        return readers[0] if len(readers) == 1 else None

    def _chain(self, start: onnx.NodeProto | None, kinds: Sequence[str]) -> list[onnx.NodeProto] | None:
        """The nodes of these kinds that follow one another, each the only reader of the one before."""
        found: list[onnx.NodeProto] = []
        node = start
        for kind in kinds:
            node = self._only_reader(node)
            if node is None or node.op_type != kind:
                return None
            found.append(node)
        return found

    def _other(self, node: onnx.NodeProto | None, kind: str, number: float) -> str | None:
        """The operand beside a constant number, in a node of this kind (the second operand of a division)."""
        if node is None or node.op_type != kind or len(node.input) != 2:
            return None
        if self._is_number(node.input[1], number):
            return str(node.input[0])
        return str(node.input[1]) if kind != "Div" and self._is_number(node.input[0], number) else None

    def _axes(self, node: onnx.NodeProto) -> list[int] | None:
        """Axes that stand in an attribute, or in later opsets in a constant."""
        axes = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
        array = self._array(node.input[1]) if axes is None and len(node.input) > 1 else None
        return axes if array is None else [int(axis) for axis in array.ravel()]

    def _over_last_axis(self, node: onnx.NodeProto) -> bool:
        return self._axes(node) == [-1] and _keeps_rank(node)

    def _array(self, name: str) -> Array | None:
        tensor = self._constants.get(name)
        return None if tensor is None or math.prod(tensor.dims) > 4096 else onnx.numpy_helper.to_array(tensor)

    def _number(self, name: str | None) -> float | None:
        array = self._array(name) if name else None
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def _is_number(self, name: str | None, number: float) -> bool:
        found = self._number(name)
        return found is not None and math.isclose(found, number, rel_tol=1e-5)


def _keeps_rank(reduction: onnx.NodeProto) -> bool:
    return next((item.i for item in reduction.attribute if item.name == "keepdims"), 1) == 1


def _partner(node: onnx.NodeProto, name: str) -> str | None:
    """The other one of two operands."""
    if len(node.input) != 2 or name not in node.input:
        return None
    return str(node.input[1] if node.input[0] == name else node.input[0])


def _reads(node: onnx.NodeProto | None, kind: str, name: str) -> bool:
    return node is not None and node.op_type == kind and name in node.input
