"""What an ONNX graph of a stranger may hold, checked before onnxruntime or torch sees it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.inliner

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.files.onnx import external_data_forbidden
from engine.formats.onnx.contents import Nodes, all_nodes, all_tensors, constant_tensors
from engine.formats.onnx.folding import check_folding
from engine.formats.onnx.inference import inferred, shape_of, skeleton_of

_WEIGHTED = frozenset(
    [
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DequantizeLinear",
        "GRU",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LSTM",
        "LayerNormalization",
        "MatMul",
        "PRelu",
        "RMSNormalization",
        "RNN",
    ]
)
"""Operators whose constants are weights: infinity in them is damage, while a mask that is added may well hold it."""


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse what is unsafe, damaged or too large.

    Raises `external_data_forbidden`, `unsupported_operator` (an operator domain that is not allowed), `tensor_limit_exceeded` (tensors,
    nodes or shapes past the limits), `non_finite_weights` and `model_invalid`.
    """
    _check_text(model)
    functions = {(item.domain, item.name): item for item in model.functions}
    _check_size(model, functions)
    for node in all_nodes(model):
        _check_node(node, functions)
    for tensor in all_tensors(model):
        _check_tensor(tensor)
    _check_finite(model)
    check_folding(inlined(model))
    _check_shapes(model)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions put in the place of their calls; its size was checked before."""
    if not model.functions:
        return model
    try:
        result: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise EngineError("model_invalid", "The model's local functions cannot be expanded.") from error
    return result


def _check_text(model: onnx.ModelProto) -> None:
    """Names that are no UTF-8 reach Python as bytes; nothing that follows expects that."""
    texts: list[object] = [
        text for function in model.functions for text in (function.name, function.domain, *function.input, *function.output)
    ]
    texts += [item.domain for item in model.opset_import]
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        texts += [item.name, *(dim.dim_param for dim in item.type.tensor_type.shape.dim)]
    for node in all_nodes(model):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output, *(item.name for item in node.attribute)]
        texts += [text for item in node.metadata_props for text in (item.key, item.value)]
    texts += [tensor.name for tensor in all_tensors(model)]
    if not all(isinstance(text, str) for text in texts):
        raise EngineError("model_invalid", "The file holds names that are no text: it is damaged.")


def _check_size(model: onnx.ModelProto, functions: Mapping[tuple[str, str], onnx.FunctionProto]) -> None:
    counts: dict[tuple[str, str], int] = {}

    def expanded(nodes: Nodes, depth: int, calling: tuple[tuple[str, str], ...]) -> int:
        if depth > limits.MAX_GRAPH_DEPTH:
            raise EngineError("model_invalid", f"Subgraphs or functions stand more than {limits.MAX_GRAPH_DEPTH} deep in one another.")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1
            if key in functions:
                if key in calling:
                    raise EngineError("model_invalid", f"The function {node.op_type!r} calls itself.")
                if key not in counts:
                    counts[key] = expanded(iter(functions[key].node), depth + 1, (*calling, key))
                total += counts[key]
            for item in node.attribute:
                for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
                    total += expanded(iter(graph.node), depth + 1, calling)
            if total > limits.MAX_NODES:
                raise EngineError("tensor_limit_exceeded", f"The graph has more than {limits.MAX_NODES} nodes.")
        return total

    if len(model.graph.initializer) > limits.MAX_TENSORS:
        raise EngineError("tensor_limit_exceeded", f"The graph has more than {limits.MAX_TENSORS} initializers.")
    if not model.graph.node or not model.graph.output:
        raise EngineError("model_invalid", "The graph computes nothing.")
    if model.graph.sparse_initializer:
        raise EngineError("model_invalid", "The graph keeps sparse initializers.", hint="Store them dense.")
    expanded(iter(model.graph.node), 0, ())


def _check_node(node: onnx.NodeProto, functions: Mapping[tuple[str, str], onnx.FunctionProto]) -> None:
    if node.domain in limits.ONNX_DOMAINS or (node.domain, node.op_type) in functions:
        return
    name = f"{_clean(node.domain)}::{_clean(node.op_type)}"
    raise EngineError(
        "unsupported_operator",
        f"Node {_clean(node.name) or '(unnamed)'} is {name}: operators of this domain are not run.",
        hint="Export the model with standard ONNX operators only.",
        details={"node": _clean(node.name), "operator": name},
    )


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise external_data_forbidden()
    name = _clean(tensor.name)
    if len(tensor.dims) > limits.MAX_RANK or any(size < 0 for size in tensor.dims):
        raise EngineError("model_invalid", f"Tensor {name!r} has impossible dimensions {list(tensor.dims)[:20]}.")
    if math.prod(tensor.dims) > limits.MAX_TENSOR_ELEMENTS:
        raise EngineError(
            "tensor_limit_exceeded", f"Tensor {name!r} has {math.prod(tensor.dims)} elements, the limit is {limits.MAX_TENSOR_ELEMENTS}."
        )
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise EngineError("model_invalid", f"Tensor {name!r} has the unknown type {tensor.data_type}.")
    count = math.prod(tensor.dims)
    field, width = _STORAGE.get(onnx.TensorProto.DataType.Name(tensor.data_type), ("", 0.0))
    if not field:
        return
    stored = len(tensor.raw_data) / width if tensor.HasField("raw_data") else len(getattr(tensor, field)) * (2 if width < 1 else 1)
    # Values of half a byte come in pairs, the last of which may stand alone.
    if stored != count and not (width < 1 and stored == count + 1):
        raise EngineError("model_invalid", f"Tensor {name!r} of shape {list(tensor.dims)} has data for {stored:g} elements.")


_STORAGE: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), ("int32_data", 2)),
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), ("int32_data", 1)),
    **dict.fromkeys(("INT4", "UINT4"), ("int32_data", 0.5)),
    "DOUBLE": ("double_data", 8),
    "FLOAT": ("float_data", 4),
    "INT32": ("int32_data", 4),
    "INT64": ("int64_data", 8),
    "UINT32": ("uint64_data", 4),
    "UINT64": ("uint64_data", 8),
}
"""Field of a tensor's values where they do not stand in `raw_data`, and bytes of one in there, by type."""


def _check_finite(model: onnx.ModelProto) -> None:
    readers: dict[str, set[str]] = {}
    for node in all_nodes(model):
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for name, tensor in constant_tensors(model).items():
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            continue
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise EngineError("model_invalid", f"Tensor {_clean(name)!r} does not have the data of its shape.") from error
        finite = np.isfinite(array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array)
        if finite.all():
            continue
        with np.errstate(invalid="ignore"):
            missing = bool(np.isnan(array.astype(np.float64)).any())
        if missing or readers.get(name, set()) & _WEIGHTED:
            raise EngineError(
                "non_finite_weights",
                f"Tensor {_clean(name)!r} holds NaN or infinity.",
                hint="The network was damaged in training or export; choose an earlier checkpoint.",
                details={"tensor": _clean(name)},
            )


def _check_shapes(model: onnx.ModelProto) -> None:
    """The shape budget: a few bytes can ask for terabytes, and onnxruntime folds constants while it loads."""
    graph = inferred(skeleton_of(model)).graph
    total = 0
    for item in (*graph.input, *graph.value_info, *graph.output):
        shape = shape_of(item)
        if shape is None:
            continue
        elements = math.prod(shape)
        if len(shape) > limits.MAX_RANK or elements > limits.MAX_TENSOR_ELEMENTS:
            raise EngineError(
                "tensor_limit_exceeded",
                f"Value {_clean(item.name)!r} has {elements} elements (shape {shape[:20]}), the limit is {limits.MAX_TENSOR_ELEMENTS}.",
                details={"value": _clean(item.name)},
            )
        total += elements * 4
    if total > limits.MAX_ACTIVATION_BYTES:
        raise EngineError(
            "tensor_limit_exceeded", f"One example takes {total} bytes of intermediate values, the limit is {limits.MAX_ACTIVATION_BYTES}."
        )


def _clean(text: str) -> str:
    """Names are hostile text: printable ASCII only, and not too much of it."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:120])
