"""What a body that runs several times shares between its runs: the layers that its nodes are, and what they make of constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx

from engine.formats.onnx.contents import inner_nodes
from engine.formats.onnx.flat import subgraphs
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Value

_SMALL = 64
"""Integers up to which two constants are known as the same by what they hold."""


class Repeats:
    """What the nodes of bodies made before, by the constants that they read."""

    def __init__(self) -> None:
        self._made: dict[Any, list[Value]] = {}
        self._held: list[Value | None] = []

    def of(self, op: Op, build: Builder, convert: Callable[[], list[Value]]) -> list[Value]:
        """What the node computes: the same constants and layers as before where it reads the same constants."""
        key = (id(op.node), tuple(map(_place, op.inputs)))
        if key in self._made:
            return self._made[key]
        with build.again(*key):
            results = convert()
        self._held += op.inputs
        if all(item is None or isinstance(item, Constant) for item in op.inputs) and all(isinstance(item, Constant) for item in results):
            self._made[key] = results
        return results


def _place(value: Value | None) -> Any:
    if not isinstance(value, Constant):
        return None if value is None else type(value)
    tensor = value.tensor
    if tensor.is_floating_point() or tensor.numel() > _SMALL:
        return id(value)
    return tensor.dtype, tuple(tensor.shape), tuple(tensor.reshape(-1).tolist())


def with_biases(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The nodes of a body, each product with a stored matrix that only an Add of a stored row reads put together with it, as a Gemm.

    Elsewhere a layer takes what is added behind it as its bias; in a body it would take it again at each time.
    """
    nodes = list(nodes)
    readers = Counter(name for node in nodes for part in (node, *inner_nodes(node)) for name in part.input)
    readers.update(item.name for part in nodes for inner in (part, *inner_nodes(part)) for held in subgraphs(inner) for item in held.output)
    readers.update(item.name for item in graph.output)
    products = {node.output[0]: node for node in nodes if node.op_type == "MatMul" and not node.domain and readers[node.output[0]] == 1}
    found: dict[int, onnx.NodeProto | None] = {}
    for node in nodes:
        if node.op_type != "Add" or node.domain or len(node.input) != 2:
            continue
        for product, row in (node.input, reversed(node.input)):
            made = products.get(product)
            if made is None or row not in constants or made.input[1] not in constants:
                continue
            matrix, bias = constants[made.input[1]], constants[row]
            if len(matrix.dims) == 2 and list(bias.dims) == [matrix.dims[1]] and matrix.data_type == bias.data_type in _REAL:
                layer = onnx.helper.make_node("Gemm", [*made.input, row], list(node.output), name=made.name)
                layer.metadata_props.extend(made.metadata_props)
                found[id(made)], found[id(node)] = None, layer
                break
    kept = (found.get(id(node), node) for node in nodes)
    return [node for node in kept if node is not None]


_REAL = frozenset([onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE])
