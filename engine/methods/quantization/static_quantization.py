"""Static int8 quantization: QDQ graphs with activation ranges from calibration examples (ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.methods.quantization import (
    agreement,
    calibration,
    equalization,
    graph,
    mixed_precision,
    precision,
    sensitivity,
    smoothing,
)
from engine.methods.quantization.calibration_feeds import calibration_feeds
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.quantizer import Quantizer
from engine.methods.quantization.settings import each_setting
from engine.methods.quantization.spec import StaticQuantization
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext

PER_CHANNEL_OPSET = 13
"""The first ONNX operator set whose DequantizeLinear takes one scale a channel."""
_SHOWN = 10
"""Names in one warning."""


def apply(network: Network, params: StaticQuantization, context: StepContext) -> Network:
    """Quantize weights and activations to 8 bits; the result is an ONNX graph that cannot be trained.

    Before it is handed on, the graph is run without integer kernels beside the float network: what they differ by must be rounding.
    Where it is not, the operator at fault stays in float, and the report names it.

    Source: Jacob et al., CVPR 2018; the QDQ representation is ONNX Runtime's.

    Raises:
        EngineError: `dataset_invalid` without a split to calibrate on, `nothing_quantized`, `already_quantized`,
            `calibration_failed`, `quantization_mismatch`.
    """
    return each_setting(network, context, lambda own, within: _one(own, params, within))


def _one(network: Network, params: StaticQuantization, context: StepContext) -> Network:
    calibrated = Calibrated.of(network, params, context)
    if params.mixed_precision:
        return mixed_precision.search(calibrated, context)
    return calibrated.write(context, context.work / "quantized.onnx")


@dataclass(frozen=True)
class Calibrated:
    """A network whose ranges were observed, from which graphs with more or fewer quantized operators are written."""

    network: Network
    source: Path
    prepared: graph.Prepared
    quantizer: Quantizer
    feeds: calibration.Feeds
    calibration: dict[str, Any]
    """What the report says about it."""
    reduce_range: bool
    smoothed: dict[str, float]
    """Tensors whose features were made alike in size, with the share of the expected error that is left."""

    @classmethod
    def of(cls, network: Network, params: StaticQuantization, context: StepContext) -> Calibrated:
        """Prepare the graph and observe its ranges."""
        split_name, feeds, count = calibration_feeds(network, params.calibration, context, passes=_passes(params))
        source = graph.onnx_file(network, context.work)
        context.phase("calibrating")
        prepared = graph.prepare(source, context.work, ignore=params.ignore, minimum_opset=PER_CHANNEL_OPSET)
        if params.equalization:
            context.report("equalized_pairs_count", equalization.equalize(prepared.path, set(prepared.excluded)))
        smoothed = _smoothed(prepared, params, feeds, context)
        ranges = calibration.observer(prepared.path, feeds, params.calibration, threads=context.threads)
        quantizer = Quantizer(prepared.path, params, ranges)
        chosen = quantizer.plan(prepared.excluded)
        if params.rounding != "nearest" or params.bias_correction:
            quantizer.refine(chosen, feeds, threads=context.threads)
        calibrated = {
            "split": split_name,
            "examples_count": count,
            "observer": params.calibration.observer,
            "batch_size": ranges.batch_size,
        }
        return cls(network, source, prepared, quantizer, feeds, calibrated, params.reduces_range, smoothed)

    def write(self, context: StepContext, target: Path, also_in_float: Collection[str] = ()) -> Network:
        """Write the graph, prove that it differs from the float network by rounding alone, and report what became of it.

        Args:
            context: Takes the report and the warnings.
            target: The file.
            also_in_float: Names of nodes of the prepared graph that stay in float besides those that `ignore` names.
        """
        self.settle(context, target, also_in_float)
        return self.finish(context, target)

    def settle(self, context: StepContext, target: Path, also_in_float: Collection[str] = ()) -> Plan:
        """The plan of the graph, with the operators left in float that change the result by more than rounding; writes it to `target`."""
        graph.warn_prepared(self.prepared, context)
        context.phase("quantizing")
        excluded = {*self.prepared.excluded, *also_in_float}
        chosen = self.quantizer.plan(excluded)
        examples = agreement.examples(self.feeds(1), self.quantizer.example_bytes)
        blamed = agreement.settle(self.quantizer, chosen, excluded, target, examples, threads=context.threads, work=context.work)
        _report(self.quantizer, excluded, blamed, context)
        chosen = self.quantizer.plan({*excluded, *blamed})
        context.report("calibration", {**self.calibration, "constant_tensors": self.quantizer.constant_tensors(chosen)})
        context.report("reduce_range", self.reduce_range)
        if self.smoothed:
            context.report("smoothed", self.smoothed)
        return chosen

    def finish(self, context: StepContext, target: Path) -> Network:
        """The network of a file that was written, which is stripped and reported on."""
        graph.finish(target)
        precision.report(
            self.source, target, context, otherwise="use structured_pruning or magnitude_pruning, which need no integer operators"
        )
        return self.network.with_onnx(target)

    def ranked(self, context: StepContext) -> dict[str, float]:
        """Signal over error in dB at each product, those that lose most to rounding first."""
        chosen = self.quantizer.plan(self.prepared.excluded)
        examples = agreement.examples(self.feeds(1), self.quantizer.example_bytes)
        ratios = sensitivity.product_ratios(self.quantizer, chosen, examples, threads=context.threads, work=context.work)
        for name, ratio in ratios.items():
            context.sensitive(name, tried="its input and weight in 8 bits", key=sensitivity.KEY, value=ratio)
        return {name: ratios[name] for name in sorted(ratios, key=lambda name: ratios[name])}

    def lossy(self, context: StepContext) -> list[str]:
        """Products that lose most to rounding, which are the first to stay in float."""
        chosen = self.quantizer.plan(self.prepared.excluded)
        examples = agreement.examples(self.feeds(1), self.quantizer.example_bytes)
        return sensitivity.lossy(self.quantizer, chosen, examples, threads=context.threads, work=context.work)


def _passes(params: StaticQuantization) -> int:
    """How often the calibration examples are read."""
    observed = 1 if params.calibration.observer == "minmax" else 2
    return observed + params.smoothing + (params.rounding != "nearest" or params.bias_correction)


def _smoothed(prepared: graph.Prepared, params: StaticQuantization, feeds: calibration.Feeds, context: StepContext) -> dict[str, float]:
    """Smooth the float graph where that is asked for: tensors, with the share of the expected error that is left."""
    if not params.smoothing:
        return {}
    levels = 64 if params.reduces_range else 127
    return smoothing.smooth(prepared.path, set(prepared.excluded), feeds, levels=levels, threads=context.threads)


def _report(quantizer: Quantizer, excluded: set[str], blamed: dict[str, float], context: StepContext) -> None:
    """Tell which operators stayed in float, and why."""
    constant = quantizer.constant_tensors(quantizer.plan({*excluded, *blamed}))
    if constant:
        context.warn(
            "constant_activations",
            f"{len(constant)} tensors hold one number alone on all calibration examples, so that their range may not hold for others: "
            + ", ".join(constant[:_SHOWN]),
            tensors=constant,
        )
    if quantizer.infinite:
        context.warn(
            "not_finite",
            "Operators on numbers that are not finite stayed in floating point: " + ", ".join(list(quantizer.infinite)[:_SHOWN]),
            operators=quantizer.infinite,
        )
    if blamed:
        context.warn(
            "operators_changed_the_result",
            "Quantizing these operators changed the result by more than rounding explains, so they stayed in floating point: "
            + ", ".join(blamed),
            operators=blamed,
        )
    context.report("kept_in_float", {"not_finite": quantizer.infinite, "changed_the_result": blamed})
