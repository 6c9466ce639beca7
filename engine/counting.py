"""How large a network is: parameters, those that are not zero, and multiply-accumulate operations (MACs).

One definition for baseline and result, whatever became of the graph in between:

* A *parameter* is an element of a weight: a constant that a layer multiplies or adds, quantized or not. Scales, zero points, running
  statistics, shapes and axes are none. A tensor that is used twice counts once; only rows of one repeated number count for every
  layer that reads them, because exporters store equal ones (fresh scales and biases of normalizations) a single time.
* It is *zero* where what it stands for is zero: a quantized weight at its zero point.
* A *MAC* is one multiplication of a convolution, a matrix product, an Einsum or a recurrent layer, for one example. Element-wise
  operators, pools and normalizations count nothing, as in the literature.

Files are counted on their graph, without torch; modules by running them once.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from engine import runtime
from engine.errors import EngineError
from engine.formats.from_onnx.names import is_readable
from engine.formats.from_onnx.patterns import Patterns
from engine.formats.onnx_checks import constant_tensors, inferred, inner_nodes, skeleton_of
from engine.formats.onnx_file import graph_inputs, read_model

if TYPE_CHECKING:
    from torch import nn

    from engine.network import Signature

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "Einsum": (0, 1, 2),
    "FusedConv": (1, 2),
    "FusedMatMul": (0, 1),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "PRelu": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Inputs of a layer that are weights wherever they are constant, by operator."""
_ARITHMETIC = {"Add", "Concat", "Div", "Expand", "Mul", "Sub", "Where"}
"""Operators whose constants are weights where a person named them: position embeddings, class tokens, layer scales."""
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
_TRANSPARENT = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that hand their first input on, so that what reads a weight may stand behind them."""


@dataclass(frozen=True)
class Counts:
    """Figures of one network."""

    params_count: int
    nonzero_params_count: int
    macs_count: int


def count_onnx(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a file. `shapes` gives the shape of one example (without its batch) for inputs with open dimensions."""
    return count_graph(read_model(path), shapes)


def count_graph(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a graph that was read before; see `count_onnx`."""
    weights = weight_tensors(model)
    return Counts(
        sum(item.size for item in weights.values()),
        sum(item.nonzero for item in weights.values()),
        sum(node_macs(model, shapes).values()),
    )


@dataclass(frozen=True)
class Weight:
    """One constant of a graph that counts as parameters, and the nodes that read it."""

    size: int
    nonzero: int
    shape: tuple[int, ...]
    readers: tuple[str, ...]


def weight_tensors(model: onnx.ModelProto) -> dict[str, Weight]:
    """Every weight of a graph, by the name of its constant."""
    constants = constant_tensors(model)
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    spelled_out = Patterns(model.graph, constants).rewritten()
    inner = [item for node in model.graph.node for item in inner_nodes(node)]
    for node in (*spelled_out, *inner):
        for index, name in enumerate(node.input):
            readers[name].append((node, index))
    found = {}
    for name, tensor in constants.items():
        effective = _effective_readers(name, readers)
        packed = next((node for node, index in effective if node.op_type == "MatMulNBits" and index == 1), None)
        if packed is not None:
            size = _attribute(packed, "N") * _attribute(packed, "K")
            found[name] = Weight(size, size, (_attribute(packed, "N"), _attribute(packed, "K")), (packed.output[0],))
            continue
        names = tuple(node.output[0] for node, index in effective if _is_weight(name, tensor, node, index))
        if names:
            array = onnx.numpy_helper.to_array(tensor)
            nonzero = _nonzero(array, _zero_point(name, readers, constants))
            copies = len(names) if array.ndim == 1 and nonzero in (0, array.size) and bool((array == array[0]).all()) else 1
            found[name] = Weight(array.size * copies, nonzero * copies, array.shape, names)
    return found


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


def count_module(module: nn.Module, signature: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a copy of a module, with masks and parametrizations folded in; it runs once on the meta device, which computes nothing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from engine.formats.to_onnx import example_inputs, folded

    plain = folded(module)
    parameters = list(plain.parameters())
    params, nonzero = sum(item.numel() for item in parameters), sum(int(torch.count_nonzero(item)) for item in parameters)
    inputs = [item.to("meta") for item in example_inputs(signature, batch=1, shapes=shapes)]
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        plain.to("meta")(*inputs)
    return Counts(params, nonzero, int(counter.get_total_flops()) // 2)


def _is_weight(name: str, tensor: onnx.TensorProto, node: onnx.NodeProto, index: int) -> bool:
    if index in _WEIGHTS.get(node.op_type, ()):
        return node.op_type != "Gather" or (len(tensor.dims) > 1 and tensor.data_type != onnx.TensorProto.INT64)
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    if node.op_type not in _ARITHMETIC or tensor.data_type in integers or math.prod(tensor.dims) < 2:
        return False
    return is_readable(name.removesuffix("_quantized")) or (node.op_type == "Add" and len(tensor.dims) == 1)


def _effective_readers(name: str, readers: Mapping[str, list[tuple[onnx.NodeProto, int]]]) -> list[tuple[onnx.NodeProto, int]]:
    found, waiting, seen = [], [name], {name}
    while waiting:
        for node, index in readers.get(waiting.pop(), ()):
            if node.op_type not in _TRANSPARENT:
                found.append((node, index))
            elif index == 0 and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return found


def _zero_point(name: str, readers: Mapping[str, list[tuple[onnx.NodeProto, int]]], constants: Mapping[str, onnx.TensorProto]) -> Any:
    """The zero point beside a quantized constant, shaped to stand beside it; 0 where there is none."""
    positions = {"DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5), "QLinearMatMul": (3, 5)}
    for node, index in readers.get(name, ()):
        weight, zero = positions.get(node.op_type, (-1, -1))
        if index == weight and len(node.input) > zero and node.input[zero] in constants:
            point = onnx.numpy_helper.to_array(constants[node.input[zero]])
            rank = len(constants[name].dims)
            if point.ndim != 1 or point.size == 1 or rank < 2:
                return point.reshape(()) if point.size == 1 else point
            axis = (
                _attribute(node, "axis", 1) % rank if node.op_type == "DequantizeLinear" else (rank - 1 if "MatMul" in node.op_type else 0)
            )
            return point.reshape([-1 if dim == axis else 1 for dim in range(rank)])
    return 0


def _nonzero(array: Any, zero_point: Any) -> int:
    if isinstance(zero_point, int) and zero_point == 0:
        return int(np.count_nonzero(array))
    try:
        return int(np.count_nonzero(array.astype(np.int64) != np.asarray(zero_point).astype(np.int64)))
    except ValueError:
        return int(array.size)


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
        return math.prod(out) * inputs[0][0 if _attribute(node, "transA", 0) else 1]
    if kind in ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul") and inputs[0] and out is not None:
        inner = inputs[0][-2] if _attribute(node, "transA", 0) and len(inputs[0]) > 1 else inputs[0][-1]
        return math.prod(out) * inner
    if kind == "MatMulNBits" and out:
        return math.prod(out) * _attribute(node, "K")
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


def _attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
