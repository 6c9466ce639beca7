"""Operators of a float graph written in another way, so that the runtime finds an integer form of those that have one, and of no others."""

import numpy as np
import onnx

from engine.formats.onnx.contents import own_constants
from engine.formats.onnx.einsum import with_products
from engine.formats.onnx.naming import FreshNames
from engine.methods.quantization.index import Index, is_apart


def spell_einsums_out(graph: onnx.GraphProto) -> None:
    """Products with a weight, written as Einsum, become MatMul of the same name, which has an integer form."""
    nodes = with_products(graph, list(graph.node), own_constants(graph))
    del graph.node[:]
    graph.node.extend(nodes)


def split_sums(model: onnx.ModelProto) -> None:
    """Take what a Gemm adds out of it where that is no constant vector: only those have an integer form."""
    graph, fresh = model.graph, FreshNames(model.graph)
    constants = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        added = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        if not added or (added in constants and all(size == 1 for size in list(constants[added].dims)[:-1])):
            continue
        result, product = node.output[0], fresh.claim(f"{node.output[0]}_product")
        node.input.pop()
        node.output[0] = product
        betas = [(position, float(item.f)) for position, item in enumerate(node.attribute) if item.name == "beta"]
        for position, _ in betas:
            del node.attribute[position]
        if betas and betas[0][1] != 1:
            factor = onnx.numpy_helper.from_array(np.asarray(betas[0][1], np.float32), fresh.claim(f"{result}_beta"))
            graph.initializer.append(factor)
            scaled = fresh.claim(f"{added}_scaled")
            nodes.append(onnx.helper.make_node("Mul", [added, factor.name], [scaled], fresh.claim(f"{node.name}_beta")))
            added = scaled
        nodes.append(onnx.helper.make_node("Add", [product, added], [result], fresh.claim(f"{node.name}_sum")))
    del graph.node[:]
    graph.node.extend(nodes)


def keep_apart(model: onnx.ModelProto) -> None:
    """Call the product of two matrices Gemm where something is added to it: the runtime would put MatMul and Add together into a Gemm
    without an integer form, whenever it loads the file."""
    index = Index(model)
    for node in model.graph.node:
        reader = index.only_reader(node.output[0]) if node.op_type == "MatMul" and not node.domain else None
        if reader is not None and reader.op_type == "Add" and index.rank(node.input[0]) == index.rank(node.input[1]) == 2:
            node.op_type = "Gemm"


def keep_in_float(model: onnx.ModelProto) -> None:
    """Put a Sum of one behind an average of elements that are apart, so that it never stands between integers (see `is_apart`)."""
    graph, fresh = model.graph, FreshNames(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if is_apart(node):
            result = node.output[0]
            node.output[0] = fresh.claim(f"{result}_average")
            nodes.append(onnx.helper.make_node("Sum", [node.output[0]], [result], fresh.claim(f"{node.name}_sum")))
            known = next((item for item in graph.value_info if item.name == result), None)
            if known is not None:
                graph.value_info.add().CopyFrom(known)
                graph.value_info[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(nodes)
