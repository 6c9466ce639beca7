"""Reads an ONNX file of a stranger: checked before any runtime sees it. Imports no torch."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from engine.contract.errors import EngineError
from engine.contract.metadata import InputSpec
from engine.files.magic import check_file
from engine.formats.onnx.checks import check_graph, inlined
from engine.formats.onnx.contents import all_tensors
from engine.networks.network import Signature, TensorSpec

TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
}
QUANTIZED_OPERATORS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
    "GatherBlockQuantized",
}


_checked: deque[tuple[int, ...]] = deque(maxlen=16)
"""Files that were found good: device, inode, size and times."""


def read_model(path: Path) -> onnx.ModelProto:
    """Parse and check a file; what was found good is not checked again while it is the same file. Raises `model_invalid` and the codes of
    `engine.contract.limits`."""
    with path.open("rb") as stream:
        seen = os.fstat(stream.fileno())
        version = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        if version not in _checked:
            check_file(stream, "onnx")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:
        raise EngineError("model_invalid", "The file is not a whole ONNX model: its protobuf ends early or is damaged.") from error
    if version not in _checked:
        check_graph(model)
        _checked.append(version)
    return inlined(model)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph computes with integers already."""
    return any(node.op_type in QUANTIZED_OPERATORS for node in model.graph.node)


def stored_type(model: onnx.ModelProto) -> str:
    """`float16` where most of a file's floating-point constants are, else `float32`."""
    sizes: Counter[int] = Counter()
    for tensor in all_tensors(model):
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return "float16" if sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT] + sizes[onnx.TensorProto.DOUBLE] else "float32"


def signature_of(model: onnx.ModelProto) -> Signature:
    """Names, shapes and types of inputs and outputs."""
    return Signature(
        inputs=tuple(_spec(item) for item in graph_inputs(model.graph)), outputs=tuple(_spec(item) for item in model.graph.output)
    )


def narrowed(model: onnx.ModelProto, stated: Sequence[InputSpec]) -> onnx.ModelProto:
    """The model with dimensions that its file leaves open set to those of `metadata.input_specs`; inputs are matched by name.

    Raises `shape_mismatch` where a stated input is not in the file or contradicts what the file says.
    """
    inputs = {item.name: item for item in graph_inputs(model.graph)}
    for spec in stated:
        name, shape = spec.name, list(spec.shape)
        if name not in inputs:
            raise EngineError("shape_mismatch", f"input_specs names {name[:80]!r}, but the inputs are {', '.join(map(repr, inputs))}.")
        dims = inputs[name].type.tensor_type.shape.dim
        fits = len(dims) == len(shape) and all(
            not isinstance(size, int) or dim.dim_value in (0, size) for dim, size in zip(dims, shape, strict=False)
        )
        if not fits:
            declared = [dim.dim_value or None for dim in dims]
            raise EngineError("shape_mismatch", f"input_specs gives {name!r} the shape {shape}, the file {declared}.")
        for index, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            if index and isinstance(size, int):
                dim.dim_value = size
    return model


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that the caller gives: old files list the initializers among them."""
    initializers = {item.name for item in graph.initializer}
    return [item for item in graph.input if item.name not in initializers]


def fixed_batch(inputs: Iterable[onnx.ValueInfoProto]) -> int | None:
    """The batch size that the file fixes, or None where the first dimension of some input is open."""
    first = [item.type.tensor_type.shape.dim[0] for item in inputs if item.type.tensor_type.shape.dim]
    sizes_ = {dim.dim_value for dim in first}
    return sizes_.pop() if len(sizes_) == 1 and all(dim.dim_value > 0 for dim in first) else None


def _spec(item: onnx.ValueInfoProto) -> TensorSpec:
    kind = item.type.tensor_type
    return TensorSpec(
        item.name, tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim), TYPES.get(kind.elem_type, "unknown")
    )
