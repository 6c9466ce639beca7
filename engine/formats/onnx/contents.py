"""What stands in an ONNX graph: its nodes, its stored tensors and its constants, those of subgraphs and local functions too."""

from collections.abc import Iterator

import numpy as np
import onnx

Nodes = Iterator[onnx.NodeProto]


def all_nodes(model: onnx.ModelProto) -> Nodes:
    """Every node, those of subgraphs and local functions too."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            yield node
            yield from inner_nodes(node)


def inner_nodes(node: onnx.NodeProto) -> Nodes:
    """The nodes of a node's subgraphs (If, Loop, Scan), at every depth."""
    for item in node.attribute:
        for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
            for inner in graph.node:
                yield inner
                yield from inner_nodes(inner)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor, those of subgraphs and attributes too."""
    yield from model.graph.initializer
    for node in all_nodes(model):
        for item in node.attribute:
            if item.HasField("t"):
                yield item.t
            yield from item.tensors
            for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from graph.initializer


def constant_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes of the main graph, by name."""
    return own_constants(model.graph)


def own_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The same for one graph, without what its subgraphs hold."""
    found = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and (tensor := constant_tensor(node)) is not None:
            found[node.output[0]] = tensor
    return found


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, numbers and lists of numbers too; None for texts and sparse tensors."""
    for item in node.attribute:
        if item.HasField("t"):
            tensor: onnx.TensorProto = item.t
            return tensor
        if item.name.startswith(("value_int", "value_float")):
            kind = np.int64 if item.name.startswith("value_int") else np.float32
            return onnx.numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(item), kind), node.output[0])
    return None
