"""Dynamic int8 quantization: weights in 8 bits, activation ranges found while the network runs (ONNX Runtime)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from engine.measuring.environment import has_safe_int8
from engine.methods.quantization import graph, precision
from engine.methods.quantization.spec import DynamicQuantization
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

DYNAMIC_OPSET = 11
"""The first ONNX operator set with DynamicQuantizeLinear."""


def apply(network: Network, params: DynamicQuantization, context: "StepContext") -> Network:
    """Store weights in 8 bits and compute convolutions, matrix products and LSTMs in integers; needs no data.

    Layers inside of If and Loop are quantized too. `granularity: channel` gives every output channel a scale of its own in
    convolutions as well, where ONNX Runtime's quantizer alone knows only one scale.

    Raises:
        EngineError: `nothing_quantized`, `already_quantized`.
    """
    reduce_range = not has_safe_int8() if params.reduce_range is None else params.reduce_range
    source = graph.onnx_file(network, context.work)
    context.phase("quantizing")
    prepared = graph.prepare(source, context.work, ignore=params.ignore, minimum_opset=DYNAMIC_OPSET)
    graph.warn_unmatched(prepared, context)
    target = context.work / "quantized.onnx"
    with graph.quiet():
        quantize_dynamic(
            prepared.path,
            target,
            per_channel=params.granularity == "channel",
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            # The quantizer takes a Gemm apart before it looks at this list.
            nodes_to_exclude=[name for node in prepared.excluded for name in (node, f"{node}_MatMul")],
            extra_options={"EnableSubgraph": True},
        )
    if params.granularity == "channel":
        _rescale_convolutions(prepared.path, target, levels=64 if reduce_range else 127)
    graph.finish(target)
    context.report("reduce_range", reduce_range)
    precision.report(source, target, context)
    prepared.path.unlink()
    return network.with_onnx(target)


def _rescale_convolutions(source: Path, target: Path, *, levels: int) -> None:
    """Give every output channel of the ConvInteger nodes in `target` its own symmetric scale.

    An int32 sum of products with zero-point 0 is multiplied by the scale afterwards, so a scale of shape (channels, 1, …) in place
    of a scalar is all that it takes.
    """
    weights = {item.name: item for item in onnx.load(source).graph.initializer}
    model = onnx.load(target)
    stored = {item.name: item for item in model.graph.initializer}
    users: dict[str, list[str]] = {}
    for node in graph.all_nodes(model.graph):
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    for node in graph.all_nodes(model.graph):
        if node.op_type != "ConvInteger":
            continue
        quantized = node.input[1]
        original = quantized.removesuffix("_quantized")
        scale = stored.get(f"{original}_scale")
        if original not in weights or scale is None or set(users[quantized]) != {"ConvInteger"}:
            continue
        values, scales = quantize_channels(numpy_helper.to_array(weights[original]), levels)
        stored[quantized].CopyFrom(numpy_helper.from_array(values, quantized))
        trailing = (1,) * (values.ndim - 2)
        scale.CopyFrom(numpy_helper.from_array(scales.reshape(-1, *trailing), scale.name))
    onnx.save(model, target)


def quantize_channels(weight: NDArray[Any], levels: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric 8-bit values and one scale for each output channel (dimension 0): weight ≈ values · scale, |values| ≤ levels."""
    flat = weight.astype(np.float32).reshape(len(weight), -1)
    peak = np.abs(flat).max(axis=1)
    scales = np.where(peak > 0, peak / levels, 1.0).astype(np.float32)
    values = np.clip(np.rint(flat / scales[:, None]), -levels, levels).astype(np.int8)
    return values.reshape(weight.shape), scales
