"""Dynamic int8 quantization: weights in 8 bits, activation ranges found while the network runs (ONNX Runtime)."""

from typing import TYPE_CHECKING

import onnx

from engine.formats.onnx import apart
from engine.methods.quantization import graph, precision
from engine.methods.quantization.integers import IntegerWriter
from engine.methods.quantization.settings import each_setting
from engine.methods.quantization.spec import DynamicQuantization
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

DYNAMIC_OPSET = 13
"""The first ONNX operator set whose DequantizeLinear takes one scale a channel."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
"""Layers that read what they said before."""


def apply(network: Network, params: DynamicQuantization, context: "StepContext") -> Network:
    """Store weights in 8 bits and compute matrix products and LSTMs in integers; needs no data.

    Layers inside of If and Loop are quantized too, and rows of embeddings are stored in 8 bits. The range of an activation is that of the
    whole batch, so the file is scored in the batches that it is timed with.

    Raises:
        EngineError: `nothing_quantized`, `already_quantized`.
    """
    return each_setting(network, context, lambda own, within: _one(own, params, within))


def _one(network: Network, params: DynamicQuantization, context: "StepContext") -> Network:
    source = graph.onnx_file(network, context.work)
    context.phase("quantizing")
    prepared = graph.prepare(source, context.work, ignore=params.ignore, minimum_opset=DYNAMIC_OPSET)
    graph.warn_prepared(prepared, context)
    target = context.work / "quantized.onnx"
    model = onnx.load(prepared.path)
    recurrent = any(node.op_type in RECURRENT for node in graph.all_nodes(model.graph))
    convolutions = params.convolutions or ("half" if recurrent else "stored")
    writer = IntegerWriter(
        model,
        prepared.excluded,
        by_channel=params.granularity == "channel",
        portable=params.reduces_range,
        convolutions=convolutions,
    )
    onnx.save(writer.write(), target)
    graph.finish(target)
    context.report("reduce_range", params.reduces_range)
    context.report("convolutions", convolutions)
    precision.report(source, target, context, otherwise="use static_quantization, which knows more operators")
    apart.remove(prepared.path)
    return network.with_onnx(target, batch_dependent=True)
