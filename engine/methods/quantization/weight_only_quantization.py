"""Weight-only quantization: weights in 8 or 4 bits or in half precision, activations in floating point (ONNX Runtime)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from engine.contract.display import Table
from engine.contract.errors import EngineError
from engine.formats.onnx import apart
from engine.methods.quantization import graph, moments, precision
from engine.methods.quantization.calibration_feeds import calibration_feeds
from engine.methods.quantization.index import Index
from engine.methods.quantization.plan import weight_position
from engine.methods.quantization.settings import each_setting
from engine.methods.quantization.spec_weights import WeightOnlyQuantization
from engine.methods.quantization.ties import FLOAT, turn_in_graph, turned
from engine.methods.quantization.weight_writer import Moments, WeightWriter, Written
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

CHANNEL_OPSET, PACKED_OPSET = 13, 21
"""The first operator sets whose DequantizeLinear takes one scale a channel, and whose tensors hold four bits a number."""


def apply(network: Network, params: WeightOnlyQuantization, context: StepContext) -> Network:
    """Store the weights in few bits; the result is an ONNX graph that cannot be trained.

    Raises:
        EngineError: `nothing_quantized`, `already_quantized`, and `dataset_invalid` where `gptq` finds no examples.
    """
    return each_setting(network, context, lambda own, within: _one(own, params, within))


def _one(network: Network, params: WeightOnlyQuantization, context: StepContext) -> Network:
    source = graph.onnx_file(network, context.work)
    context.phase("quantizing")
    opset = PACKED_OPSET if params.weights == "int4" else CHANNEL_OPSET
    prepared = graph.prepare(source, context.work, ignore=params.ignore, minimum_opset=opset)
    graph.warn_prepared(prepared, context)
    known: Moments = {}
    if params.reads_examples:
        context.phase("calibrating")
        known = _moments(network, params, prepared, context)
    model = onnx.load(prepared.path)
    if params.weights not in ("int4",) and params.group_size is None and params.activations != "int8":
        # Those have operators of the runtime's own for either use, which read no common form.
        turn_in_graph(model, turned(model, FLOAT))
    writer = WeightWriter(model, params, prepared.excluded, known)
    target = context.work / "quantized.onnx"
    onnx.save(writer.write(), target)
    graph.finish(target)
    _report(source, target, writer.written, context)
    apart.remove(prepared.path)
    return network.with_onnx(target)


def _moments(network: Network, params: WeightOnlyQuantization, prepared: graph.Prepared, context: StepContext) -> Moments:
    split, feeds, count = calibration_feeds(network, params.calibration, context, passes=1)
    index = Index(onnx.load(prepared.path))
    places = {node.name: place for node in index.nodes if (place := weight_position(index, node)) is not None}
    wanted = moments.layouts(index, [name for name in places if name not in prepared.excluded], lambda node: places[node.name])
    context.report("calibration", {"split": split, "examples_count": count})
    found = moments.gather(prepared.path, wanted, feeds, threads=context.threads)
    return {name: second for name, second, _ in found}


def _report(before: Path, after: Path, written: Written, context: StepContext) -> None:
    if not written.forms:
        raise EngineError(
            "nothing_quantized",
            "No weight of this network can be stored in fewer bits"
            + ("" if not written.wide else f" ({', '.join(sorted(set(written.wide.values())))})")
            + ".",
            hint="Look at `ignore`; a quantized network stays as it is.",
        )
    forms = Counter(written.forms.values())
    context.report("weights_by_form", dict(sorted(forms.items())))
    context.report("weights_bytes", {"before": precision.weight_bytes(before), "after": precision.weight_bytes(after)})
    context.report("file_bytes", {"before": before.stat().st_size, "after": after.stat().st_size})
    context.show(
        Table.of("How weights are stored", "form", [{"form": form, "weights_count": count} for form, count in sorted(forms.items())])
    )
    if written.wide:
        context.report("kept_wide", written.wide)
        out = {name: why for name, why in written.wide.items() if why != "too small to gain"}
        if out:
            context.warn("weights_kept_wide", f"{len(out)} weights stayed as they were: " + ", ".join(list(out)[:10]), weights=out)
