"""Ranges of activations, read off calibration examples one batch at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx import apart, runtime
from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.runtime import Feed
from engine.methods.quantization import footprint
from engine.methods.quantization.histograms import BINS, entropy_threshold, mse_range, percentile_range
from engine.methods.quantization.index import Index
from engine.methods.quantization.plan import MASKED
from engine.methods.quantization.spec import Calibration
from engine.process.memory import give_back_memory

Feeds = Callable[[int], Iterator[Feed]]
"""Starts a pass over the calibration examples, in batches of the given size."""
Ranges = dict[str, tuple[float, float]]
_MASK_MARGIN = 12.0
"""A masked score is stored this far below the lowest score that is not: e^-12 of any other weight in its row."""
_PASSING = frozenset({"Add", "Cast", "Expand", "Identity", "Reshape", "Sub", "Transpose", "Unsqueeze", "Squeeze", "Where"})
"""Operators between a mask and its softmax."""


@dataclass
class Observer:
    """Observes tensors of one float graph; what was seen once is not observed again."""

    graph: Path
    feeds: Feeds
    params: Calibration
    threads: int
    batch_size: int
    by_priority: bool = False
    example_bytes: int = 0
    """Activations of one example."""
    ranges: Ranges = field(default_factory=dict)
    """NaN on either side where a tensor was not finite."""

    def observe(self, tensors: Sequence[str]) -> None:
        """Add the ranges of tensors, inputs of the graph included.

        `minmax` reads the batches once. The others read them twice: the first pass fixes the edges of the histograms,
        so that the result does not depend on how the examples were cut into batches. At most one batch of activations is in memory.
        """
        missing = [name for name in dict.fromkeys(tensors) if name not in self.ranges]
        if not missing:
            return
        found = self._extrema(missing)
        self.ranges |= found
        extrema = {name: pair for name, pair in found.items() if np.isfinite(pair).all()}
        if self.params.observer == "minmax" or not extrema:
            return
        bounds = {name: max(abs(low), abs(high)) for name, (low, high) in extrema.items()}
        if self.params.observer == "entropy":
            magnitudes = self._histograms({name: (0.0, bound) for name, bound in bounds.items()}, absolute=True)
            limits = {name: entropy_threshold(counts) * bounds[name] for name, counts in magnitudes.items()}
            self.ranges |= {name: (max(low, -limits[name]), min(high, limits[name])) for name, (low, high) in extrema.items()}
            return
        counted = self._histograms(extrema, absolute=False)
        if self.params.observer == "mse":
            self.ranges |= {name: mse_range(counts, extrema[name]) for name, counts in counted.items()}
            return
        self.ranges |= {name: percentile_range(counts, extrema[name], self.params.percentile) for name, counts in counted.items()}

    def _extrema(self, tensors: Sequence[str]) -> Ranges:
        """Smallest and largest value of each tensor, reduced inside the runtime so that no activation is copied out."""
        instrumented = self.graph.with_name("extrema.onnx")
        masked, outputs = _write_extrema(self.graph, tensors, instrumented)
        low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
        broken = np.zeros(len(tensors), bool)
        for _, values in self._run(instrumented, outputs):
            for position in range(len(tensors)):
                smallest, largest = values[2 * position], values[2 * position + 1]
                if smallest.size:
                    broken[position] |= bool(np.isnan(smallest).any() or np.isnan(largest).any())
                    low[position] = min(low[position], float(smallest.min()))
                    high[position] = max(high[position], float(largest.max()))
        result: Ranges = {}
        for name, smallest, largest, wrong in zip(tensors, low.tolist(), high.tolist(), broken, strict=True):
            # Where everything was masked, nothing was left to look at.
            pair = (0.0, 0.0) if name in masked and smallest > largest else (smallest, largest)
            if wrong or not np.isfinite(pair).all():
                pair = (float("nan"), float("nan"))
            result[name] = (pair[0] - _MASK_MARGIN, pair[1]) if name in masked else pair
        return result

    def _histograms(self, ranges: Ranges, *, absolute: bool) -> dict[str, NDArray[np.int64]]:
        instrumented = self.graph.with_name("histograms.onnx")
        computed = _write_with_outputs(self.graph, list(ranges), instrumented)
        passed_through = set(ranges) - set(computed)
        counts = {name: np.zeros(BINS, np.int64) for name in ranges}
        for feed, values in self._run(instrumented, computed):
            for name, value in (*zip(computed, values, strict=True), *((name, feed[name]) for name in passed_through)):
                low, high = ranges[name]
                flat = np.abs(value) if absolute else value
                counts[name] += np.histogram(flat, BINS, range=(low, high if high > low else low + 1.0))[0]
        return counts

    def _run(self, path: Path, outputs: list[str]) -> Iterator[tuple[Feed, list[NDArray[Any]]]]:
        """Run every batch through an instrumented graph, which nothing in this process holds any more but the session."""
        give_back_memory()
        session = runtime.open_session(path, threads=self.threads, frugal=True, by_priority=self.by_priority)
        path.unlink()
        for feed in self.feeds(self.batch_size):
            yield feed, runtime.run(session, feed, outputs)
        del session
        give_back_memory()


def _write_extrema(graph: Path, tensors: Sequence[str], target: Path) -> tuple[set[str], list[str]]:
    """Write the graph with the smallest and the largest element of each tensor as outputs; returns which may be masked, and the outputs."""
    model = apart.outline(graph)
    masked = towards_softmax(Index(model))
    probe = _Probe(model)
    pairs = [probe.extrema(name, unmasked=name in masked) for name in tensors]
    probe.finish()
    onnx.save(model, target)
    return masked, [name for pair in pairs for name in pair]


def _write_with_outputs(graph: Path, tensors: Sequence[str], target: Path) -> list[str]:
    """Write the graph with those tensors as outputs that are no inputs of it; returns them."""
    model = apart.outline(graph)
    inputs = {item.name for item in model.graph.input}
    computed = [name for name in tensors if name not in inputs]
    types = {item.name: item for item in (*model.graph.value_info, *model.graph.output)}
    outputs = [types[name] for name in computed]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, target)
    return computed


def observer(graph: Path, feeds: Feeds, params: Calibration, *, threads: int) -> Observer:
    """An observer whose batches keep their activations within a bound, in the runtime's order of nodes that needs less.

    Args:
        graph: A float network; an instrumented copy is written beside it while it runs.
        feeds: Starts a pass over the calibration examples.
        params: Which ranges to read, and the batch size where the user chose one.
        threads: Threads of ONNX Runtime.
    """
    first = next(feeds(1))
    chosen = footprint.choose(graph, first, params.batch_size, threads=threads)
    return Observer(graph, feeds, params, threads, chosen.batch_size, chosen.by_priority, chosen.example_bytes)


def towards_softmax(index: Index) -> set[str]:
    """Tensors to which a mask may have been added: what flows into a softmax, back to the operators that add and choose."""
    found: set[str] = set()
    waiting = [node.input[0] for node in index.nodes if node.op_type == "Softmax"]
    while waiting:
        name = waiting.pop()
        producer = index.producers.get(name)
        if name in found or producer is None or producer.op_type not in _PASSING or not index.is_float(name):
            continue
        found.add(name)
        waiting.extend(producer.input)
    return found


class _Probe:
    """Adds nodes to a graph that reduce tensors to numbers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._fresh = FreshNames(model.graph)
        self._places = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
        self._behind: dict[int, list[onnx.NodeProto]] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def extrema(self, tensor: str, *, unmasked: bool) -> tuple[str, str]:
        """Names of new outputs with the smallest and the largest element; `unmasked` leaves out what a mask has pushed below."""
        # Each reduction stands right behind its tensor, which can then be let go.
        nodes = self._behind.setdefault(self._places.get(tensor, -1), [])

        def add(kind: str, *inputs: str) -> str:
            output = self._fresh.claim(f"{tensor}__{kind}")
            nodes.append(helper.make_node(kind, list(inputs), [output], output))
            if kind.startswith("Reduce"):
                nodes[-1].attribute.append(helper.make_attribute("keepdims", 0))
            return output

        sides = [tensor, tensor]
        if unmasked:
            visible = add("Greater", tensor, self._constant(MASKED))
            sides = [add("Where", visible, tensor, self._constant(bound)) for bound in (np.inf, -np.inf)]
        found = add("ReduceMin", sides[0]), add("ReduceMax", sides[1])
        self._outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in found]
        return found

    def finish(self) -> None:
        """Put the new nodes into the graph; they are its only outputs."""
        nodes = list(self._behind.get(-1, []))
        for position, node in enumerate(self._graph.node):
            nodes += [node, *self._behind.get(position, [])]
        del self._graph.node[:], self._graph.output[:]
        self._graph.node.extend(nodes)
        self._graph.output.extend(self._outputs)

    def _constant(self, value: float) -> str:
        name = self._fresh.claim("mask_bound")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name
