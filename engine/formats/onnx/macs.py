"""Multiply-accumulate operations of an ONNX graph, node by node. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import onnx

from engine.formats.onnx.contents import constant_tensors, own_constants
from engine.formats.onnx.file import graph_inputs
from engine.formats.onnx.flat import FlatGraph, first_output, subgraphs
from engine.formats.onnx.inference import inferred, skeleton_of
from engine.formats.onnx.probing import Shapes, run_shapes
from engine.formats.onnx.weights import int_attribute

_OPEN_SIZE = 64

_MULTIPLYING = frozenset(
    [
        "Attention",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DeformConv",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "Einsum",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    ]
)
_FREE = frozenset(
    [
        "BiasGelu",
        "BiasSoftmax",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "EmbedLayerNormalization",
        "FastGelu",
        "GatherBlockQuantized",
        "GatherND",
        "Gelu",
        "GroupNorm",
        "LayerNormalization",
        "QEmbedLayerNormalization",
        "QuantizeLinear",
        "QuickGelu",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ]
)
"""Operators of the runtime's own domain that multiply no matrices, besides the element-wise QLinear ones."""

SELECTING = frozenset(["Compress", "NonMaxSuppression", "NonZero", "Unique"])
"""Operators that hand on as many elements as the data have of a kind."""


def node_macs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, int | None]:
    """MACs of one example by the first named output of each node of the main graph that has any, or None where they cannot be counted.

    Where the file fixes a batch, its share is counted. A node that holds subgraphs has those of what it runs: none are known where
    the data decide how often, or which of two branches that differ. What follows from constants alone is computed once, and counts
    for no example.
    """
    skeleton, known, batch = _inferred(model, shapes)
    counted = [node for node in model.graph.node if node.op_type in _MULTIPLYING]
    measured = _measured_by_the_data(model)
    named = [name for node in counted for name in (*node.input, *node.output) if name and name not in measured]
    if any(known.get(name) is None for name in named):
        known |= run_shapes(model, named, known)
    constants = constant_tensors(model)
    stored = FlatGraph.of(model).stored()
    macs: dict[str, int | None] = {}
    for node in skeleton.graph.node:
        made = first_output(node)
        if not made or made in stored:
            continue
        count = _node_total(node, known, constants)
        if count is None or count:
            macs[made] = None if count is None else max(1, count // batch)
    return macs


def _measured_by_the_data(model: onnx.ModelProto) -> set[str]:
    """Values whose sizes may depend on what is in the input: one run says nothing about another."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in SELECTING or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def total(counts: Iterable[int | None]) -> int | None:
    """The sum, or None where a part is unknown."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _graph_total(graph: onnx.GraphProto, outer: Shapes, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    known = outer | {item.name: _whole_shape(item) for item in (*graph.input, *graph.value_info, *graph.output)}
    inner = own_constants(graph)
    known |= {name: list(item.dims) for name, item in inner.items()}
    return total(_node_total(node, known, {**constants, **inner}) for node in graph.node)


def _node_total(node: onnx.NodeProto, known: Shapes, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    inside = subgraphs(node)
    if inside:
        counts = [_graph_total(graph, known, constants) for graph in inside]
        return _repeated(node, counts, known, constants)
    if multiplies(node):
        return single_macs(node, [known.get(name) if name else None for name in node.input], [known.get(name) for name in node.output])
    return 0 if counts_itself(node) else None


def multiplies(node: onnx.NodeProto) -> bool:
    """Whether an operator without subgraphs has MACs."""
    return node.op_type in _MULTIPLYING


def counts_itself(node: onnx.NodeProto) -> bool:
    """Whether it is known what an operator computes, apart from its subgraphs."""
    own = node.domain in ("", "ai.onnx", "ai.onnx.ml") or node.op_type in _FREE or node.op_type.startswith("QLinear")
    return own or multiplies(node)


def decides(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the data decide how often a node's subgraphs run, or which of them."""
    first = _number(constants.get(node.input[0])) if node.input else None
    if node.op_type == "If":
        return first is None
    starts = len(node.input) < 2 or not node.input[1] or _number(constants.get(node.input[1])) is not None
    return node.op_type == "Loop" and (first is None or not starts or not runs_on(subgraphs(node)[0], constants))


def _repeated(node: onnx.NodeProto, counts: Sequence[int | None], known: Shapes, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """MACs of a node with subgraphs that have these."""
    if all(count == 0 for count in counts):
        return 0
    first = _number(constants.get(node.input[0])) if node.input else None
    if node.op_type == "If":
        # The branches stand in the order of their attributes, which the file chooses.
        if first is not None:
            names = [item.name for item in node.attribute if item.HasField("g")]
            return counts[names.index("then_branch" if first else "else_branch")]
        return counts[0] if len(set(counts)) == 1 else None
    if node.op_type == "Loop" and len(counts) == 1 and counts[0] is not None and first is not None:
        starts = len(node.input) < 2 or not node.input[1] or _number(constants.get(node.input[1])) == 1
        return int(first) * counts[0] if starts and runs_on(subgraphs(node)[0], constants) else None
    if node.op_type == "Scan" and len(counts) == 1 and counts[0] is not None:
        scanned = int_attribute(node, "num_scan_inputs")
        axes = next((list(item.ints) for item in node.attribute if item.name == "scan_input_axes"), [0] * scanned)
        shape = known.get(node.input[-scanned]) if scanned else None
        return counts[0] * shape[axes[0]] if shape else None
    return None


def runs_on(body: onnx.GraphProto, around: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a loop's body never ends it early: its condition is true, or the one that it was called with. `around` is what is stored around it."""
    source = body.output[0].name
    producers = {name: node for node in body.node for name in node.output}
    while source in producers and producers[source].op_type in ("Cast", "Identity"):
        source = producers[source].input[0]
    if source in {item.name for item in body.input}:
        return len(body.input) > 1 and source == body.input[1].name
    return _number({**around, **own_constants(body)}.get(source)) == 1


def _number(tensor: onnx.TensorProto | None) -> float | None:
    """A constant of one element."""
    if tensor is None or math.prod(tensor.dims) != 1:
        return None
    return float(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])


def _inferred(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> tuple[onnx.ModelProto, Shapes, int]:
    """The graph with inferred shapes, those of its values, and the batch that the file fixes (else one)."""
    skeleton = skeleton_of(model)
    batch = _set_shapes(skeleton, {item.name for item in graph_inputs(model.graph)}, shapes or {})
    whole = inferred(skeleton)
    known: Shapes = {item.name: _whole_shape(item) for item in (*whole.graph.input, *whole.graph.value_info, *whole.graph.output)}
    known.update({name: list(item.dims) for name, item in constant_tensors(model).items()})
    return whole, known, batch


def input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> tuple[Shapes, int]:
    """Shapes of the inputs for one example, and how many examples they hold where the file fixes its batch."""
    skeleton = skeleton_of(model)
    own = {item.name for item in graph_inputs(model.graph)}
    batch = _set_shapes(skeleton, own, shapes or {})
    return {item.name: _whole_shape(item) for item in skeleton.graph.input if item.name in own}, batch


def single_macs(node: onnx.NodeProto, inputs: Sequence[list[int] | None], outputs: Sequence[list[int] | None]) -> int | None:
    """MACs of one operator that `multiplies`, by the shapes that it runs on; None where too few of them are known."""
    kind = node.op_type
    out = outputs[0] if outputs else None
    given = [*inputs, *[None] * 8]
    source, second = given[:2]
    if source is None:
        return None
    if kind in ("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"):
        if not second or not given[2] or len(source) != 3:
            return None
        # The runtime's quantized form keeps its matrices transposed.
        rows, hidden = (second[2], given[2][1]) if kind == "DynamicQuantizeLSTM" else (second[1], given[2][2])
        return source[0] * source[1] * second[0] * rows * (source[2] + hidden)
    if out is None:
        return None
    if kind in ("Conv", "DeformConv", "FusedConv", "ConvInteger", "QLinearConv"):
        weight = given[3 if kind == "QLinearConv" else 1]
        return math.prod(out) * math.prod(weight[1:]) if weight else None
    if kind == "ConvTranspose":
        return math.prod(source) * math.prod(second[1:]) if second else None
    if kind in ("FusedGemm", "Gemm", "QGemm"):
        return math.prod(out) * source[0 if int_attribute(node, "transA", 0) else 1]
    if kind in ("DynamicQuantizeMatMul", "FusedMatMul", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul"):
        if not source:
            return None
        return math.prod(out) * (source[-2] if int_attribute(node, "transA", 0) and len(source) > 1 else source[-1])
    if kind == "MatMulNBits":
        return math.prod(out) * int_attribute(node, "K")
    if kind == "Einsum":
        return _einsum_macs(node, inputs)
    return _attention_macs(node, given, out)


def _attention_macs(node: onnx.NodeProto, given: Sequence[list[int] | None], out: list[int]) -> int | None:
    """Products of queries and keys, and of scores and values; for the runtime's own operator the projections before them, too."""
    query, key = given[0] or [], given[1]
    if not key or len(query) < 3:
        return None
    if node.op_type == "QAttention" or (node.op_type == "Attention" and node.domain == "com.microsoft"):
        return math.prod(query) * key[-1] + 2 * math.prod(out) * query[1]
    past = given[4] if node.op_type == "Attention" else None
    if node.op_type == "MultiHeadAttention" and (len(query) != 3 or len(key) != 3 or given[6]):
        return None
    length = (key[2] if len(key) == 4 else key[1]) + (past[2] if past else 0)
    return length * (math.prod(query) + math.prod(out))


def _einsum_macs(node: onnx.NodeProto, inputs: Sequence[list[int] | None]) -> int | None:
    equation = next((item.s.decode("utf-8", "replace") for item in node.attribute if item.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if shape is None:
            return None
        before, dots, after = term.partition("...")
        open_dims = len(shape) - len(before) - len(after) if dots else 0
        # Dimensions of an ellipsis are counted from its end, as they are broadcast.
        letters = [*before, *(f"...{position}" for position in range(open_dims, 0, -1)), *after]
        for letter, size in zip(letters, shape, strict=False):
            sizes[letter] = max(size, sizes.get(letter, 1))
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
