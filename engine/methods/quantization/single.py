"""A network in float16 or double as one that computes in float32, between inputs and outputs of the types that it had."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.contents import all_nodes
from engine.formats.onnx.naming import FreshNames

_OTHER = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather"})
_TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}


def to_single(model: onnx.ModelProto) -> str | None:
    """Change a network whose layers hold weights in float16, bfloat16 or double in place; integer kernels know float32 alone.

    Returns:
        The type that the weights had, or None where the network was left as it is.
    """
    constants = {item.name: item.data_type for item in _tensors(model.graph)}
    found = {
        constants[name] for node in all_nodes(model) if node.op_type in _WEIGHTED for name in node.input if constants.get(name) in _OTHER
    }
    if not found:
        return None
    fresh = FreshNames(model.graph)
    graph = model.graph
    renamed: dict[str, str] = {}
    before, after = [], []
    for item in graph.input:
        if item.type.tensor_type.elem_type in _OTHER:
            renamed[item.name] = fresh.claim(f"{item.name}_single")
            name = fresh.claim(f"{item.name}_to_single")
            before.append(helper.make_node("Cast", [item.name], [renamed[item.name]], name, to=TensorProto.FLOAT))
    for item in graph.output:
        if item.type.tensor_type.elem_type in _OTHER:
            source = renamed.setdefault(item.name, fresh.claim(f"{item.name}_single"))
            name = fresh.claim(f"{item.name}_from_single")
            after.append(helper.make_node("Cast", [source], [item.name], name, to=item.type.tensor_type.elem_type))
    _convert(graph, renamed)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return str(helper.tensor_dtype_to_np_dtype(min(found)).name)


def _convert(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    """Turn every constant and every stated type to float32, and let nodes read and write the renamed tensors."""
    for tensor in graph.initializer:
        _widen(tensor)
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if _TYPED.get(node.op_type) == attribute.name and attribute.i in _OTHER:
                attribute.i = TensorProto.FLOAT
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for item in (*inner.input, *inner.output, *inner.value_info):
                    item.name = renamed.get(item.name, item.name)
                    if item.type.tensor_type.elem_type in _OTHER:
                        item.type.tensor_type.elem_type = TensorProto.FLOAT
                _convert(inner, renamed)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _OTHER:
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float32)
        if tensor.data_type == TensorProto.DOUBLE:
            # What float32 cannot hold is a mask; infinity would make NaN of it where a mask is multiplied by zero.
            limit = np.finfo(np.float32).max
            values = np.where(np.isfinite(numpy_helper.to_array(tensor)), np.clip(values, -limit, limit), values)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Initializers and the values of Constant nodes, those of subgraphs too."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                found.append(tensor)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found += _tensors(inner)
    return found
