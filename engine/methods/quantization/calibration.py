"""Ranges of activations, read off calibration examples one batch at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.methods.quantization.spec import Calibration

Feeds = Callable[[], Iterator[Feed]]
Ranges = dict[str, tuple[float, float]]
_BINS = 2048
_LEVELS = 128
"""Levels of a signed 8-bit number on one side of zero."""


def observe(graph: Path, tensors: Sequence[str], feeds: Feeds, params: Calibration, *, threads: int, work: Path) -> Ranges:
    """The range of each of `tensors` of the ONNX file `graph` over all batches of `feeds`.

    `minmax` reads the batches once. `percentile` and `entropy` read them twice: the first pass fixes the edges of the histograms,
    so that the result does not depend on how the examples were cut into batches. At most one batch of activations is in memory.

    Args:
        graph: A float network.
        tensors: Names of float tensors, inputs of the graph included.
        feeds: Starts a pass over the calibration batches; called once or twice.
        params: Observer and percentile.
        threads: Threads of ONNX Runtime.
        work: Directory for the instrumented graph.

    Raises:
        EngineError: `calibration_failed` where a batch cannot be run or a tensor is not finite.
    """
    if not tensors:
        return {}
    extrema = _extrema(graph, tensors, feeds, threads, work)
    if params.observer == "minmax":
        return extrema
    bounds = {name: max(abs(low), abs(high)) for name, (low, high) in extrema.items()}
    if params.observer == "entropy":
        magnitudes = _histograms(graph, {name: (0.0, bound) for name, bound in bounds.items()}, feeds, threads, work, absolute=True)
        limits = {name: entropy_threshold(counts) * bounds[name] for name, counts in magnitudes.items()}
        return {name: (max(low, -limits[name]), min(high, limits[name])) for name, (low, high) in extrema.items()}
    counted = _histograms(graph, extrema, feeds, threads, work, absolute=False)
    return {name: percentile_range(counts, extrema[name], params.percentile) for name, counts in counted.items()}


def percentile_range(counts: NDArray[np.int64], extrema: tuple[float, float], percentile: float) -> tuple[float, float]:
    """The range between `extrema` that keeps `percentile` percent of the values, cutting the same share at both ends."""
    edges = np.linspace(*extrema, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts) / max(1, counts.sum())])
    tail = (100.0 - percentile) / 200.0
    low = edges[int(np.searchsorted(share, tail, side="right")) - 1]
    high = edges[min(int(np.searchsorted(share, 1.0 - tail, side="left")), len(counts))]
    return float(low), float(high)


def entropy_threshold(counts: NDArray[np.int64]) -> float:
    """Where to clip magnitudes so that the quantized distribution diverges least (Kullback-Leibler) from the true one.

    `counts` is a histogram of absolute values over equal bins from 0 to the largest magnitude; the result is the share of that
    magnitude to keep, in (0, 1]. Source: Migacz, 8-bit inference with TensorRT, GTC 2017.
    """
    bins = len(counts)
    values = counts.astype(np.float64)
    values[0] = values[1]
    """The peak of exact zeros that ReLU leaves is represented exactly by any threshold and would drown the rest."""
    if values.sum() == 0:
        return 1.0
    best, kept = np.inf, bins
    for size in range(_LEVELS, bins + 1):
        inside = values[:size]
        reference = inside.copy()
        reference[-1] += values[size:].sum()
        level = np.arange(size) * _LEVELS // size
        occupied = inside > 0
        mass = np.bincount(level, weights=inside, minlength=_LEVELS)
        width = np.bincount(level, weights=occupied, minlength=_LEVELS)
        candidate = np.where(occupied, (mass / np.maximum(width, 1))[level], 0.0)
        divergence = _divergence(reference, candidate)
        if divergence < best:
            best, kept = divergence, size
    return kept / bins


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """KL(p ‖ q) of two histograms; a bin that only p fills costs as much as if q held a small share of it."""
    if q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / np.maximum(q[held], 1e-6))))


def _extrema(graph: Path, tensors: Sequence[str], feeds: Feeds, threads: int, work: Path) -> Ranges:
    """Smallest and largest value of each tensor, reduced inside the runtime so that no activation is copied out."""
    model = onnx.load(graph)
    wanted = set(tensors)
    reductions = {name: [_reduction(kind, name) for kind in ("ReduceMin", "ReduceMax")] for name in tensors}
    nodes = [node for name in wanted & {item.name for item in model.graph.input} for node in reductions[name]]
    for node in model.graph.node:
        nodes.append(node)
        nodes.extend(extra for output in node.output if output in wanted for extra in reductions[output])
    types = _element_types(model)
    _replace(model.graph.node, nodes)
    outputs = [pair[i].output[0] for pair in reductions.values() for i in (0, 1)]
    _replace(
        model.graph.output, [onnx.helper.make_tensor_value_info(o, types[n], None) for n in tensors for o in _output_names(reductions[n])]
    )
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for _, values in _run(model, outputs, feeds, threads, work):
        low = np.minimum(low, [np.min(value, initial=np.inf) for value in values[0::2]])
        high = np.maximum(high, [np.max(value, initial=-np.inf) for value in values[1::2]])
    for name, smallest, largest in zip(tensors, low, high, strict=True):
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise EngineError(
                "calibration_failed",
                f"Tensor {name!r} is not finite on the calibration examples.",
                hint="Check metadata.preprocessing of the dataset and the network's own operators for overflow.",
            )
    return {name: (float(a), float(b)) for name, a, b in zip(tensors, low, high, strict=True)}


def _histograms(graph: Path, ranges: Ranges, feeds: Feeds, threads: int, work: Path, *, absolute: bool) -> dict[str, NDArray[np.int64]]:
    model = onnx.load(graph)
    types = _element_types(model)
    passed_through = {item.name for item in model.graph.input} & set(ranges)
    computed = [name for name in ranges if name not in passed_through]
    _replace(model.graph.output, [onnx.helper.make_tensor_value_info(name, types[name], None) for name in computed])
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for feed, values in _run(model, computed, feeds, threads, work):
        for name, value in (*zip(computed, values, strict=True), *((name, feed[name]) for name in passed_through)):
            low, high = ranges[name]
            flat = np.abs(value) if absolute else value
            counts[name] += np.histogram(flat, _BINS, range=(low, high if high > low else low + 1.0))[0]
    return counts


def _reduction(kind: str, tensor: str) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, [tensor], [f"{tensor}__{kind}"], name=f"{tensor}__{kind}", keepdims=1)


def _output_names(pair: Iterable[onnx.NodeProto]) -> list[str]:
    return [node.output[0] for node in pair]


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    known = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    return {item.name: item.type.tensor_type.elem_type for item in known}


def _replace(field: object, items: Sequence[object]) -> None:
    del field[:]  # type: ignore[attr-defined]
    field.extend(items)  # type: ignore[attr-defined]


def _run(
    model: onnx.ModelProto, outputs: list[str], feeds: Feeds, threads: int, work: Path
) -> Iterator[tuple[Feed, list[NDArray[np.float32]]]]:
    """Run every batch through the instrumented graph; the protobuf is dropped before the session holds the weights again."""
    path = work / "instrumented.onnx"
    onnx.save(model, path)
    model.Clear()
    session = runtime.open_session(path, threads=threads)
    path.unlink()
    for feed in feeds():
        yield feed, runtime.run(session, feed, outputs)
