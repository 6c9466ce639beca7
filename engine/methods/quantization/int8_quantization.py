"""Int8 quantization of the kind that keeps the accuracy: static, static with fewer operators, or dynamic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.contract.display import Table
from engine.contract.errors import EngineError
from engine.methods.quantization import dynamic_quantization, graph
from engine.methods.quantization.settings import each_setting
from engine.methods.quantization.spec import DynamicQuantization, Int8Quantization, StaticQuantization
from engine.methods.quantization.static_quantization import Calibrated
from engine.methods.quantization.tries import Try, attempt, publish
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.job_parts import Judge
    from engine.methods.step import StepContext


def apply(network: Network, params: Int8Quantization, context: StepContext) -> Network:
    """Try each kind, measure its file as the job measures what it publishes, and keep one.

    Raises:
        EngineError: What the first try failed with, where all of them did.
    """
    return each_setting(network, context, lambda own, within: _one(own, params, within))


def _one(network: Network, params: Int8Quantization, context: StepContext) -> Network:
    tries = list(_tries(network, params, context))
    done = [item for item in tries if item.error is None]
    if not done:
        assert tries[0].error is not None
        raise tries[0].error
    kept = choose(done, context.judge, graph.onnx_file(network, context.work).stat().st_size)
    context.show(Table.of("Kinds of int8 quantization that were tried", "kind", [item.row(kept) for item in tries]))
    result = publish(kept, context)
    context.report("kept", kept.kind)
    context.report("tries", [item.document(kept) for item in tries])
    return result


def choose(done: list[Try], judge: Judge | None, file_bytes: int) -> Try:
    """The try that is kept; the first one where nothing was measured.

    With an accuracy target the smallest of those that meet it, without one the fastest of those that are near enough; the one nearest to the
    original where none is. One whose file is larger than the network's own, of `file_bytes`, is kept only where all of these are.
    """
    if judge is None:
        return done[0]
    near = [item for item in done if item.near]
    smaller = [item for item in near or done if item.file_bytes < file_bytes] or near or done
    if not near:
        return max(smaller, key=lambda item: judge.quality(item.metrics))
    if judge.has_target:
        return min(smaller, key=lambda item: item.file_bytes)
    return max(smaller, key=lambda item: item.speedup or 0.0)


def _tries(network: Network, params: Int8Quantization, context: StepContext) -> Iterator[Try]:
    shared = {name: getattr(params, name) for name in ("granularity", "target_cpu", "reduce_range", "ignore")}
    static = StaticQuantization(calibration=params.calibration, **shared)
    calibrated: list[Calibrated] = []

    def first(own: StepContext) -> Network:
        calibrated.append(Calibrated.of(network, static, own))
        return calibrated[0].write(own, own.work / "quantized.onnx")

    def fewer(own: StepContext) -> Network:
        names = calibrated[-1].lossy(own)
        if not names:
            raise EngineError("nothing_quantized", "There is one product in this network only: it has no fewer operators to quantize.")
        own.report("left_in_float", names)
        return calibrated[-1].write(own, own.work / "quantized.onnx", names)

    def smoothed(own: StepContext) -> Network:
        found = Calibrated.of(network, static.model_copy(update={"smoothing": True}), own)
        if not found.smoothed:
            raise EngineError("nothing_smoothed", "The features of no tensor differ so much that smoothing them is worth it.")
        calibrated.append(found)
        return found.write(own, own.work / "quantized.onnx")

    with context.part(0.0, 0.3):
        plain = attempt("static", first, context)
        yield plain
    if calibrated and not plain.near:
        with context.part(0.3, 0.6):
            found = attempt("static_smoothed", smoothed, context)
        if found.error is None or found.error.code != "nothing_smoothed":
            yield found
    if calibrated:
        with context.part(0.6, 0.8):
            yield attempt("static_fewer_operators", fewer, context)
    with context.part(0.8, 1.0):
        yield attempt("dynamic", lambda own: dynamic_quantization.apply(network, DynamicQuantization(**shared), own), context)
