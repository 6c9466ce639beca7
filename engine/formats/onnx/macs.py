"""Multiply-accumulate operations of an ONNX graph, node by node. Imports no torch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.checks import constant_tensors, inferred, skeleton_of
from engine.formats.onnx.file import graph_inputs
from engine.formats.onnx.weights import int_attribute

_OPEN_SIZE = 64

_MULTIPLYING = frozenset(
    [
        "Attention",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "Einsum",
        "FusedConv",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "MatMul",
        "MatMulInteger",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    ]
)


def node_macs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
    """MACs of one example by the first output of each node that has any. Where the file fixes a batch, its share is counted."""
    counted = [node for node in model.graph.node if node.op_type in _MULTIPLYING]
    known, batch = value_shapes(model, shapes)
    if any(known.get(name) is None for node in counted for name in (*node.input, *node.output) if name):
        known |= _run_shapes(model, [name for node in counted for name in (*node.input, *node.output) if name], known, shapes)
    macs = {}
    for node in counted:
        count = _macs(node, [known.get(name) if name else None for name in node.input], [known.get(name) for name in node.output])
        if count:
            macs[node.output[0]] = max(1, count // batch)
    return macs


def value_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[dict[str, list[int] | None], int]:
    """Shapes of all values that follow from the inputs, for one example, and the batch that the file fixes (else one)."""
    skeleton = skeleton_of(model)
    batch = _set_shapes(skeleton, {item.name for item in graph_inputs(model.graph)}, shapes or {})
    graph = inferred(skeleton).graph
    known = {item.name: _whole_shape(item) for item in (*graph.input, *graph.value_info, *graph.output)}
    known.update({name: list(item.dims) for name, item in constant_tensors(model).items()})
    return known, batch


def _run_shapes(
    model: onnx.ModelProto, names: Sequence[str], known: Mapping[str, list[int] | None], shapes: Mapping[str, Sequence[int]] | None
) -> dict[str, list[int] | None]:
    """Shapes of the named values, found by running the graph once on zeros: some arithmetic on shapes is beyond inference.

    Empty where the graph does not run on the sizes that were imagined for its open dimensions: those products stay uncounted.
    """
    wanted = [name for name in dict.fromkeys(names) if known.get(name) is None]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    feed = {}
    for item in graph_inputs(model.graph):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        feed[item.name] = np.zeros(known.get(item.name) or [], dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save_model(probe, str(path))
        try:
            results = runtime.run(runtime.open_session(path, threads=1), feed)
        except EngineError as error:
            if error.code != "model_invalid":
                raise
            return {}
    return {name: list(array.shape) for name, array in zip(wanted, results, strict=True)}


def _macs(node: onnx.NodeProto, inputs: Sequence[list[int] | None], outputs: Sequence[list[int] | None]) -> int:
    kind = node.op_type
    out = outputs[0] if outputs else None
    if kind in ("Conv", "FusedConv", "ConvInteger", "QLinearConv"):
        weight = inputs[3 if kind == "QLinearConv" else 1]
        return math.prod(out) * math.prod(weight[1:]) if out and weight else 0
    if kind == "ConvTranspose":
        source, weight = inputs[0], inputs[1]
        return math.prod(source) * math.prod(weight[1:]) if source and weight else 0
    if kind in ("Gemm", "QGemm") and inputs[0] and out:
        return math.prod(out) * inputs[0][0 if int_attribute(node, "transA", 0) else 1]
    if kind in ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul") and inputs[0] and out is not None:
        inner = inputs[0][-2] if int_attribute(node, "transA", 0) and len(inputs[0]) > 1 else inputs[0][-1]
        return math.prod(out) * inner
    if kind == "MatMulNBits" and out:
        return math.prod(out) * int_attribute(node, "K")
    if kind in ("LSTM", "GRU", "RNN") and inputs[0] and inputs[1] and inputs[2]:
        (steps, batch, features), rows, hidden = inputs[0], math.prod(inputs[1][:2]), inputs[2][2]
        return steps * batch * rows * (features + hidden)
    if kind == "Einsum":
        return _einsum_macs(node, inputs)
    if kind == "Attention" and node.domain in ("", "ai.onnx") and inputs[0] and inputs[1] and out and len(inputs[0]) == len(inputs[1]) == 4:
        return 2 * math.prod(inputs[0]) * inputs[1][2]
    return 0


def _einsum_macs(node: onnx.NodeProto, inputs: Sequence[list[int] | None]) -> int:
    equation = next((item.s.decode("utf-8", "replace") for item in node.attribute if item.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    if len(terms) < 2 or "." in equation:
        return 0
    for term, shape in zip(terms, inputs, strict=False):
        sizes.update(zip(term, shape or (), strict=False))
    return math.prod(sizes.values())


def _set_shapes(skeleton: onnx.ModelProto, inputs: set[str], shapes: Mapping[str, Sequence[int]]) -> int:
    """Set the batch of every input to one and open dimensions to those of an example (else 64); returns the batch that the file fixes."""
    fixed = 1
    for item in skeleton.graph.input:
        dims = item.type.tensor_type.shape.dim
        given = shapes.get(item.name, ())
        for index, dim in enumerate(dims if item.name in inputs else ()):
            if dim.dim_value > 0:
                fixed = dim.dim_value if index == 0 and fixed == 1 and len(dims) > 1 else fixed
            elif index == 0:
                dim.dim_value = 1
            else:
                dim.dim_value = given[index - 1] if index - 1 < len(given) else _OPEN_SIZE
    return fixed


def _whole_shape(item: onnx.ValueInfoProto) -> list[int] | None:
    """A value's shape where all of it is known."""
    kind = item.type.tensor_type
    known = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
    return [dim.dim_value for dim in kind.shape.dim] if known else None
