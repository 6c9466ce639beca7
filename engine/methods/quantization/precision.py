"""Which operators really run in 8 bits: counted in the graph that ONNX Runtime executes, not in the one that was written."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from engine.contract.display import Column, Table
from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.methods.quantization.graph import graph_attributes

if TYPE_CHECKING:
    from engine.methods.step import StepContext

_BOOKKEEPING = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Constant",
        "Cast",
        "Identity",
        "Shape",
        "ReorderInput",
        "ReorderOutput",
    }
)
_INTEGER_FORMS = {
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "ConvInteger": "Conv",
    "DynamicQuantizeLSTM": "LSTM",
    "QGemm": "Gemm",
    "QAttention": "Attention",
    "QEmbedLayerNormalization": "EmbedLayerNormalization",
}
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention", "EmbedLayerNormalization"})
"""Operators that hold nearly all weights and multiplications."""
_TO_WIDE = ("Dequantize", "MatMulInteger", "ConvInteger", "Dynamic", "Cast", "Shape")
"""Operators on 8-bit data whose results are wider."""
_EIGHT_BIT = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


Counts = dict[str, dict[str, int]]


def operator_counts(path: Path, work: Path) -> tuple[Counts, dict[str, int]]:
    """How many operators of each type run in int8 and in float, after the runtime's own fusions, on this machine.

    Quantize, dequantize and other bookkeeping nodes are left out; an operator without an integer form of its own (a pooling or a
    reshape between two integer operators) counts as int8 where its data is 8-bit.

    Returns:
        The counts by operator type, and how many operators of each type compute with stored weights in float.

    Raises:
        EngineError: `model_invalid` where the runtime refuses the file.
    """
    executed = work / "executed.onnx"
    runtime.open_session(path, threads=1, save_optimized=executed)
    model = onnx.load(executed)
    executed.unlink()
    tally = _Tally()
    tally.add(model.graph, set())
    counts = {name: {"int8": tally.int8[name], "float": tally.floating[name]} for name in sorted({*tally.int8, *tally.floating})}
    return counts, dict(tally.weights_in_float)


class _Tally:
    """Counts over a graph and its subgraphs."""

    def __init__(self) -> None:
        self.int8: Counter[str] = Counter()
        self.floating: Counter[str] = Counter()
        self.weights_in_float: Counter[str] = Counter()
        self._stored: set[str] = set()

    def add(self, graph: onnx.GraphProto, eight_bit: set[str]) -> None:
        self._stored.update(item.name for item in graph.initializer)
        eight_bit |= {item.name for item in graph.initializer if item.data_type in _EIGHT_BIT}
        for node in graph.node:
            name, integer = _base_type(node.op_type)
            integer = integer or (bool(node.input) and node.input[0] in eight_bit)
            for attribute in node.attribute:
                for inner in graph_attributes(attribute):
                    self.add(inner, set(eight_bit))
            if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
                eight_bit.add(node.output[0])
            elif integer and not node.op_type.startswith(_TO_WIDE):
                eight_bit.update(node.output)
            if node.op_type in _BOOKKEEPING:
                continue
            (self.int8 if integer else self.floating)[name] += 1
            if not integer and name in _WEIGHTED and self._stored & set(node.input[:2]):
                self.weights_in_float[name] += 1


def _base_type(op_type: str) -> tuple[str, bool]:
    """The standard operator behind a fused or integer one, and whether it computes in integers."""
    if op_type in _INTEGER_FORMS:
        return _INTEGER_FORMS[op_type], True
    if op_type.startswith("QLinear"):
        return op_type.removeprefix("QLinear"), True
    return re.sub(r"^(Fused|Nhwc)", "", op_type), False


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of all stored constants by element type, those inside of If and Loop included."""
    total: Counter[str] = Counter()
    for item in _constants(onnx.load(path).graph):
        width = onnx.helper.tensor_dtype_to_np_dtype(item.data_type).itemsize
        total[onnx.helper.tensor_dtype_to_np_dtype(item.data_type).name] += len(item.raw_data) or math.prod(item.dims) * width
    return dict(sorted(total.items()))


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            for inner in graph_attributes(attribute):
                yield from _constants(inner)


def report(before: Path, after: Path, context: "StepContext", *, otherwise: str) -> None:
    """Put operator counts and weight bytes into the step's report; warn where operators with weights stayed in floating point.

    `otherwise` says what to try where nothing can be quantized.

    Raises:
        EngineError: `nothing_quantized` where no weight and no operator with weights is 8-bit.
    """
    counts, left = operator_counts(after, context.work)
    weights: dict[str, dict[str, int]] = {"before": weight_bytes(before), "after": weight_bytes(after)}
    eight_bit_bytes = weights["after"].get("int8", 0) + weights["after"].get("uint8", 0)
    weighted = {name: count for name, count in counts.items() if name in _WEIGHTED}
    if not eight_bit_bytes and not any(count["int8"] for count in weighted.values()):
        found = ", ".join(f"{count['float']} {name}" for name, count in counts.items()) or "no operators"
        raise EngineError(
            "nothing_quantized",
            f"No operator of this network can be quantized this way (it runs {found}).",
            hint=f"Look at `ignore`, or {otherwise}.",
        )
    context.report("operators", counts)
    context.report("int8_operators_count", sum(count["int8"] for count in counts.values()))
    context.report("float_operators_count", sum(count["float"] for count in counts.values()))
    context.report("weights_bytes", weights)
    context.report("file_bytes", {"before": before.stat().st_size, "after": after.stat().st_size})
    columns = (Column(title="operator"), Column(title="in int8"), Column(title="in floating point"))
    rows = tuple((name, count["int8"], count["float"]) for name, count in counts.items())
    context.show(Table(title="Operators that the runtime executes", columns=columns, rows=rows))
    if left:
        context.warn(
            "operators_left_in_float",
            "Some operators with weights stayed in floating point: " + ", ".join(f"{count} {name}" for name, count in left.items()) + ".",
            operators=left,
        )
