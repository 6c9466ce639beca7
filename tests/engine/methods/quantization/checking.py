"""Writes quantized graphs of any ONNX model and compares them with the original in stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from engine.formats.onnx.runtime import Feed
from engine.methods.quantization import agreement, calibration, graph
from engine.methods.quantization.integers import IntegerWriter
from engine.methods.quantization.plan import Plan
from engine.methods.quantization.quantizer import Quantizer
from engine.methods.quantization.spec import Calibration, StaticQuantization


def outputs(path: Path, feed: Mapping[str, np.ndarray], *, optimized: bool = True) -> dict[str, np.ndarray]:
    """What a file says, by the names of its outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def decibels(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """The least signal-to-noise ratio of the floating-point outputs; checks names, shapes, types, and what is not finite."""
    assert list(before) == list(after)
    found = [200.0]
    for name, left in before.items():
        right = after[name]
        assert (left.shape, left.dtype) == (right.shape, right.dtype), name
        if np.issubdtype(left.dtype, np.floating) and left.size:
            finite = np.isfinite(left)
            assert np.isfinite(right[finite]).all(), name
            wide, other = left[finite].astype(np.float64), right[finite].astype(np.float64)
            signal, noise = np.square(wide).sum(), np.square(wide - other).sum()
            found.append(200.0 if noise == 0 else 10 * np.log10(max(signal, 1e-30) / noise))
    return float(min(found))


def quantizer(path: Path, feeds: Sequence[Feed], work: Path, **params: object) -> tuple[Quantizer, tuple[str, ...]]:
    """A quantizer of a file, calibrated on some feeds, and the nodes that stay in float from the start."""
    prepared = graph.prepare(path, work, ignore=(), minimum_opset=13)

    def passes(size: int) -> Iterator[Feed]:
        yield from feeds

    settings = StaticQuantization(**params)  # type: ignore[arg-type]
    ranges = calibration.observer(prepared.path, passes, settings.calibration or Calibration(), threads=1)
    return Quantizer(prepared.path, settings, ranges), prepared.excluded


def static(path: Path, feeds: Sequence[Feed], work: Path, **params: object) -> tuple[Path, Plan, dict[str, float]]:
    """A QDQ file, its plan, and the operators that were blamed for what rounding does not explain."""
    made, excluded = quantizer(path, feeds, work, **params)
    chosen = made.plan(excluded)
    target = work / "static.onnx"
    blamed = agreement.settle(made, chosen, excluded, target, list(feeds), threads=1, work=work)
    return target, chosen, blamed


def dynamic(path: Path, work: Path, *, by_channel: bool = True) -> Path:
    """A file with integer weights whose activations are rounded while it runs."""
    prepared = graph.prepare(path, work, ignore=(), minimum_opset=11)
    target = work / "dynamic.onnx"
    onnx.save(IntegerWriter(onnx.load(prepared.path), prepared.excluded, by_channel=by_channel).write(), target)
    return target


def pair_sum(weight: np.ndarray) -> int:
    """The largest sum of two neighbouring 8-bit weights of one sign, in every order of the inputs, whichever dimension counts channels."""

    def largest(axis: int) -> int:
        rows = np.moveaxis(weight.astype(int), axis, 0)
        found = []
        for order in [rows] if weight.ndim == 2 else [rows, np.moveaxis(rows, 1, -1)]:
            flat = order.reshape(len(rows), -1)
            flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
            for sign in (1, -1):
                side = np.maximum(sign * flat, 0)
                found.append(int((side[:, 0::2] + side[:, 1::2]).max()))
        return max(found)

    return min(largest(axis) for axis in range(weight.ndim if weight.ndim == 2 else 1))
