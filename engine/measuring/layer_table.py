"""Every layer with weights, before and after: shape, bytes, bits, share of zeros; read off the two ONNX files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from engine.contract.report import LayerChange, LayerSide
from engine.formats.onnx.packed import Stored, stored, unpacked
from engine.formats.onnx.weights import Weight, int_attribute, weight_tensors

_WEIGHTED = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "ConvInteger",
        "MatMulInteger",
        "LSTM",
        "GRU",
        "RNN",
        "DynamicQuantizeLSTM",
        "Gather",
        "MatMulNBits",
        "GatherBlockQuantized",
    }
)
_TYPES = {
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "MatMulNBits": "MatMul",
    "GatherBlockQuantized": "Gather",
}
_SUFFIXES = ("_quantized", "_transposed", "_Transposed", ".weight", ".weights", "_weight")
_THROUGH = frozenset({"DequantizeLinear", "Transpose", "Cast", "Identity", "Reshape"})

_PACKED_BITS = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
"""Types of which several elements share a byte of the file; in memory each takes one of its own."""


@dataclass(frozen=True)
class _Row:
    name: str
    node: str
    type: str
    figures: LayerSide


def layer_table(
    baseline: Path, result: Path, shares: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
) -> tuple[LayerChange, ...]:
    """One entry a layer of the baseline; `shares` of the time of either file go by node.

    Layers are matched by name, else by their node's name, else, where both files have as many, by their place.
    """
    before, after = list(_rows(baseline)), list(_rows(result))
    by_name = {row.name: row for row in after}
    by_node = {row.node: row for row in after if row.node}
    table = []
    for index, row in enumerate(before):
        match = by_name.get(row.name) or by_node.get(row.node)
        if match is None and len(before) == len(after) and after[index].name not in {other.name for other in before}:
            match = after[index]
        change = LayerChange(
            name=row.name,
            type=row.type,
            node=row.node,
            before=row.figures,
            after=match.figures if match else None,
            latency_share_before=shares[0].get(row.node),
            latency_share_after=shares[1].get(match.node) if match else None,
        )
        table.append(change)
    return tuple(table)


def _rows(path: Path) -> Iterator[_Row]:
    model = onnx.load(path)
    seen: set[str] = set()
    packed = {name: _packed_figures(item) for name, item in stored(model.graph).items()}
    plain = unpacked(model)
    zeros = {name: _zeros(weight) for name, weight in weight_tensors(plain).items() if name not in packed}
    for row in _rows_of(plain.graph, {}, packed, zeros):
        if row.name not in seen:
            seen.add(row.name)
            yield row


def _zeros(weight: Weight) -> float:
    """Share of the weights that stand for zero, whatever number is stored for it."""
    return 1 - weight.nonzero / weight.size if weight.size and weight.nonzero is not None else 0.0


def _rows_of(
    graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto], packed: dict[str, LayerSide], zeros: Mapping[str, float]
) -> Iterator[_Row]:
    constants = outer | {item.name: item for item in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _rows_of(attribute.g, constants, packed, {})
        if node.op_type not in _WEIGHTED:
            continue
        weight = next((found for name in node.input[:2] if (found := _constant(name, constants, producers)) is not None), None)
        if weight is not None and len(weight.dims) >= 2:
            figures = packed.get(weight.name) or _figures(weight, node, zeros.get(weight.name))
            yield _Row(_layer(weight.name, node), node.name, _TYPES.get(node.op_type, node.op_type), figures)


def _constant(name: str, constants: dict[str, onnx.TensorProto], producers: dict[str, onnx.NodeProto]) -> onnx.TensorProto | None:
    """The stored tensor behind a value, through dequantization and changes of layout."""
    for _ in range(4):
        if name in constants:
            return constants[name]
        producer = producers.get(name)
        if producer is None or producer.op_type not in _THROUGH:
            return None
        name = producer.input[0]
    return None


def _layer(weight: str, node: onnx.NodeProto) -> str:
    name = weight
    while suffix := next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None):
        name = name.removesuffix(suffix)
    named_by_hand = name != weight.removesuffix("_quantized") or "." in name
    return name if named_by_hand or not node.name else node.name


def _packed_figures(weight: Stored) -> LayerSide:
    """Of indices into a few levels."""
    values = weight.values
    zeros = 1 - np.count_nonzero(values) / values.size if values.size else 0.0
    return LayerSide(shape=values.shape, params_count=values.size, bytes=weight.bytes, bits=weight.bits, sparsity=float(zeros))


def _figures(weight: onnx.TensorProto, node: onnx.NodeProto, zeros: float | None) -> LayerSide:
    """`zeros` is the share of the weights that stand for zero, where it is known."""
    values = numpy_helper.to_array(weight)
    if zeros is None:
        zeros = float(1 - np.count_nonzero(values) / values.size) if values.size and node.op_type != "MatMulNBits" else 0.0
    if node.op_type == "MatMulNBits":  # several weights to a byte, with what fills up the last block
        shape = (int_attribute(node, "N"), int_attribute(node, "K"))
        bits = int_attribute(node, "bits", 4)
        return LayerSide(shape=shape, params_count=math.prod(shape), bytes=values.nbytes, bits=bits, sparsity=zeros)
    bits = _PACKED_BITS.get(weight.data_type, 8 * values.dtype.itemsize)
    return LayerSide(
        shape=values.shape,
        params_count=values.size,
        bytes=-(-values.size * bits // 8),
        bits=bits,
        sparsity=zeros,
    )
