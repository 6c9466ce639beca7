"""Activations whose features differ widely in size are made alike, and the weights that read them take up the difference.

A feature that is large on every example leaves few of the 256 steps to the others, as in most transformers. Divided by a factor of its own,
and its row of the weights multiplied by it, the network computes what it did, and both are easier to round.
Source: Xiao et al., SmoothQuant, ICML 2023. There one exponent balances both sides everywhere; here each tensor takes the one with which the
rounding of both is expected to cost least, or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx import apart, runtime
from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.runtime import Feed
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.index import Index
from engine.process.memory import give_back_memory

Array = NDArray[np.float64]
MOST_EXAMPLES = 32
"""Features keep their sizes from one example to the next: more of them tell nothing new."""
_EXPONENTS = (0.25, 0.35, 0.45, 0.5, 0.55, 0.65, 0.75, 0.85)
_WORTH = 0.8
"""Smoothing multiplies once more: what it leaves of the expected error has to be less than this share."""
_CLEAREST = 1e-5


@dataclass(frozen=True)
class Features:
    """What each feature of a tensor was on the examples."""

    low: Array
    high: Array
    square: Array
    """Its mean square."""


def smooth(graph: Path, excluded: set[str], feeds: Callable[[int], Iterator[Feed]], *, levels: int, threads: int) -> dict[str, float]:
    """Smooth the inputs of matrix products with stored weights; writes the graph anew.

    Args:
        graph: A float network whose nodes have names.
        excluded: Names of nodes that stay in float.
        feeds: Starts a pass over the examples.
        levels: The largest 8-bit weight to expect.
        threads: Threads of ONNX Runtime.

    Returns:
        The tensors that were smoothed, with the share of the expected error that is left.
    """
    model = onnx.load(graph)
    index = Index(model)
    readers = _products(index, excluded)
    if not readers:
        return {}
    seen = _observe(graph, list(readers), feeds, threads=threads)
    smoother = _Smoother(model, index)
    found: dict[str, float] = {}
    for name, nodes in readers.items():
        factors, left = _factors(seen[name], [_rows(index, node) for node in nodes], levels)
        if factors is not None:
            smoother.apply(name, nodes, factors)
            found[name] = left
    if found:
        smoother.finish()
        onnx.save(model, graph)
    return found


def _products(index: Index, excluded: set[str]) -> dict[str, list[onnx.NodeProto]]:
    """Tensors that matrix products with stored weights of their own read, with those products."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in index.nodes:
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.name in excluded:
            continue
        data, weight = node.input[:2]
        if weight not in index.constants or data in index.constants or not index.is_float(weight) or not index.is_float(data):
            continue
        # A weight that is read elsewhere is another layer's too.
        alone = index.only_reader(weight) is not None and len(index.constants[weight].dims) == 2
        known = index.rank(data) and data not in index.inputs | index.outputs
        if alone and known and not int_attribute(node, "transA"):
            found.setdefault(data, []).append(node)
    return found


def _rows(index: Index, node: onnx.NodeProto) -> Array:
    """The weight with one row a feature."""
    values = numpy_helper.to_array(index.constants[node.input[1]]).astype(np.float64)
    return values.T if node.op_type == "Gemm" and int_attribute(node, "transB") else values


def _observe(graph: Path, tensors: list[str], feeds: Callable[[int], Iterator[Feed]], *, threads: int) -> dict[str, Features]:
    """The extremes and the mean square of every feature, reduced inside the runtime."""
    model = apart.outline(graph)
    index, fresh = Index(model), FreshNames(model.graph)
    nodes: list[onnx.NodeProto] = []
    outputs: list[str] = []
    behind = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    last = max(behind[name] for name in tensors)
    for place, node in enumerate(list(model.graph.node)[: last + 1]):
        nodes.append(node)
        for name in tensors:
            if behind[name] != place:
                continue
            axes = list(range((index.rank(name) or 2) - 1))
            for kind in ("ReduceMin", "ReduceMax", "ReduceMean"):
                source = name
                if kind == "ReduceMean":
                    source = fresh.claim(f"{name}_square")
                    nodes.append(helper.make_node("Mul", [name, name], [source], source))
                outputs.append(fresh.claim(f"{name}__{kind}"))
                nodes.append(_reduction(kind, source, outputs[-1], axes, model))
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    path = graph.with_name("features.onnx")
    onnx.save(model, path)
    del model, index
    session = runtime.open_session(path, threads=threads, frugal=True)
    path.unlink()
    order = [name for node in nodes for name in node.output if name in set(tensors)]
    found: dict[str, list[Array]] = {}
    count = 0
    for feed in itertools.islice(feeds(1), MOST_EXAMPLES):
        count += 1
        values = [value.astype(np.float64) for value in runtime.run(session, feed, outputs)]
        for place, name in enumerate(order):
            low, high, square = values[3 * place : 3 * place + 3]
            if name not in found:
                found[name] = [low, high, square]
            else:
                held = found[name]
                found[name] = [np.minimum(held[0], low), np.maximum(held[1], high), held[2] + square]
    del session
    give_back_memory()
    return {name: Features(low, high, square / max(1, count)) for name, (low, high, square) in found.items()}


def _reduction(kind: str, source: str, target: str, axes: list[int], model: onnx.ModelProto) -> onnx.NodeProto:
    """A reduction, whose axes are an attribute up to operator set 17 and an input from 18 on."""
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if version < 18:
        return helper.make_node(kind, [source], [target], target, axes=axes, keepdims=0)
    name = f"{target}_axes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
    return helper.make_node(kind, [source, name], [target], target, keepdims=0)


def _factors(seen: Features, weights: list[Array], levels: int) -> tuple[Array | None, float]:
    """What each feature is divided by, and the share of the expected error that is left; None where it is not worth it."""
    width = len(seen.low)
    magnitude = np.maximum(np.abs(seen.low), np.abs(seen.high))
    if not np.isfinite(magnitude).all() or not (magnitude > 0).any() or any(len(weight) != width for weight in weights):
        return None, 1.0
    largest = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
    magnitude = np.maximum(magnitude, _CLEAREST * magnitude.max())
    largest = np.maximum(largest, max(_CLEAREST * largest.max(), 1e-30))
    plain = _expected(seen, weights, np.ones(width), levels)
    best, factors = plain, None
    for exponent in _EXPONENTS:
        tried = magnitude**exponent / largest ** (1 - exponent)
        tried = np.clip(tried / np.exp(np.log(tried).mean()), 1e-4, 1e4)
        error = _expected(seen, weights, tried, levels)
        if error < best:
            best, factors = error, tried
    if factors is None or best > _WORTH * plain:
        return None, 1.0
    return factors, float(best / plain)


def _expected(seen: Features, weights: list[Array], factors: Array, levels: int) -> float:
    """The error of the products when both sides are rounded evenly, relative to the products' power as if features were independent."""
    step = (max(float((seen.high / factors).max()), 0.0) - min(float((seen.low / factors).min()), 0.0)) / 255
    total = 0.0
    for weight in weights:
        scaled = weight * factors[:, None]
        units = np.abs(scaled).max(0) / levels
        activation = step**2 / 12 * np.square(scaled).sum()
        rounding = (seen.square / factors**2).sum() * np.square(units).sum() / 12
        power = (seen.square[:, None] * np.square(weight)).sum()
        total += float((activation + rounding) / max(power, 1e-30))
    return total


class _Smoother:
    """Changes a graph: factors go into what makes a tensor where only products read it, else into a multiplication of its own."""

    def __init__(self, model: onnx.ModelProto, index: Index) -> None:
        self._model, self._index, self._fresh = model, index, FreshNames(model.graph)
        self._before: dict[str, list[onnx.NodeProto]] = {}
        """New nodes by the name of the node that they stand in front of."""

    def apply(self, tensor: str, nodes: list[onnx.NodeProto], factors: Array) -> None:
        for node in nodes:
            transposed = node.op_type == "Gemm" and bool(int_attribute(node, "transB"))
            self._scale(node.input[1], factors, axis=1 if transposed else 0)
        inverse = (1 / factors).astype(np.float32)
        alone = {reader.name for reader in self._index.readers[tensor]} == {node.name for node in nodes}
        if alone and tensor not in self._index.outputs | self._index.read_inside and self._absorbed(tensor, 1 / factors):
            return
        constant = self._fresh.claim(f"{tensor}_smoothing")
        self._model.graph.initializer.append(numpy_helper.from_array(inverse, constant))
        smoothed = self._fresh.claim(f"{tensor}_smooth")
        known = onnx.ValueInfoProto()
        known.CopyFrom(next(item for item in self._model.graph.value_info if item.name == tensor))
        known.name = smoothed
        self._model.graph.value_info.append(known)
        first = next(node for node in self._index.nodes if node.name in {item.name for item in nodes})
        made = helper.make_node("Mul", [tensor, constant], [smoothed], self._fresh.claim(f"{tensor}_Smooth"))
        self._before.setdefault(first.name, []).append(made)
        for node in nodes:
            node.input[0] = smoothed

    def _absorbed(self, tensor: str, factors: Array) -> bool:
        """Multiply the features by the factors where the tensor is made: at a normalization's scale and bias."""
        producer = self._index.producers.get(tensor)
        if producer is None or producer.op_type != "LayerNormalization" or len([name for name in producer.output if name]) > 1:
            return False
        names = [name for name in producer.input[1:] if name]
        if any(name not in self._index.constants or self._index.only_reader(name) is None for name in names):
            return False
        if any(list(self._index.constants[name].dims) != [len(factors)] for name in names):
            return False
        for name in names:
            self._scale(name, factors, axis=0)
        return True

    def _scale(self, name: str, factors: Array, *, axis: int) -> None:
        tensor = self._index.constants[name]
        values = numpy_helper.to_array(tensor)
        shape = [1] * values.ndim
        shape[axis] = -1
        tensor.CopyFrom(numpy_helper.from_array((values * factors.reshape(shape)).astype(np.float32), name))

    def finish(self) -> None:
        """Put the new nodes into their places."""
        nodes = [part for node in self._model.graph.node for part in (*self._before.get(node.name, ()), node)]
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)
