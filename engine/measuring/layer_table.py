"""Every layer with weights, before and after: shape, bytes, bits, share of zeros; read off the two ONNX files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Gather"}
)
_TYPES = {"ConvInteger": "Conv", "MatMulInteger": "MatMul", "DynamicQuantizeLSTM": "LSTM"}
_SUFFIXES = ("_quantized", "_transposed", "_Transposed", ".weight", ".weights", "_weight")
_THROUGH = frozenset({"DequantizeLinear", "Transpose", "Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class _Row:
    name: str
    node: str
    type: str
    figures: dict[str, Any]


def layer_table(baseline: Path, result: Path) -> list[dict[str, Any]]:
    """One entry a layer of the baseline: `name`, `type`, `before`, `after` (null where it has gone), each with `shape`,
    `params_count`, `bytes`, `bits` and `sparsity` of the weight.

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
        table.append({"name": row.name, "type": row.type, "before": row.figures, "after": match.figures if match else None})
    return table


def _rows(path: Path) -> Iterator[_Row]:
    model = onnx.load(path)
    seen: set[str] = set()
    for row in _rows_of(model.graph, {}):
        if row.name not in seen:
            seen.add(row.name)
            yield row


def _rows_of(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> Iterator[_Row]:
    constants = outer | {item.name: item for item in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _rows_of(attribute.g, constants)
        if node.op_type not in _WEIGHTED:
            continue
        weight = next((found for name in node.input[:2] if (found := _constant(name, constants, producers)) is not None), None)
        if weight is not None and len(weight.dims) >= 2:
            yield _Row(_layer(weight.name, node), node.name, _TYPES.get(node.op_type, node.op_type), _figures(weight))


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


def _figures(weight: onnx.TensorProto) -> dict[str, Any]:
    values = numpy_helper.to_array(weight)
    return {
        "shape": list(values.shape),
        "params_count": int(values.size),
        "bytes": int(values.nbytes),
        "bits": int(values.dtype.itemsize * 8),
        "sparsity": float(1 - np.count_nonzero(values) / values.size) if values.size else 0.0,
    }
