"""How much memory a batch of calibration examples takes, and how many examples make one."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path

import onnx

from engine.formats.onnx import apart, runtime
from engine.formats.onnx.inference import inferred, skeleton_of
from engine.formats.onnx.runtime import Feed
from engine.methods.quantization.spec import ACTIVATION_BYTES

MOST_EXAMPLES = 32
"""Larger batches gain nothing."""


@dataclass(frozen=True)
class Footprint:
    """How calibration examples are run."""

    batch_size: int
    by_priority: bool
    """Whether the runtime's other order of nodes needed less memory for one example."""
    example_bytes: int
    """Activations of one example."""


def choose(graph: Path, example: Feed, batch_size: int | None, *, threads: int) -> Footprint:
    """Choose a batch size whose activations stay within the bound; where one example alone exceeds it, try both orders of nodes on it,
    unless what is alive at one time stays within the bound in any case.

    Args:
        graph: The float network.
        example: Inputs of one example.
        batch_size: What the user wants, or None for as many as the bound allows.
        threads: Threads of ONNX Runtime.
    """
    nodes, sizes = _values(graph, example)
    needed = sum(sizes.values())
    size = batch_size or max(1, min(MOST_EXAMPLES, ACTIVATION_BYTES // max(1, needed)))
    if size * needed <= ACTIVATION_BYTES or size * _alive(nodes, sizes) <= ACTIVATION_BYTES:
        return Footprint(size, by_priority=False, example_bytes=needed)
    peaks = [_growth(graph, example, by_priority=order, threads=threads) for order in (False, True)]
    # The default order has the fewest surprises: another one must be worth it.
    return Footprint(size, by_priority=peaks[1] < 0.9 * peaks[0], example_bytes=needed)


def activation_bytes(graph: Path, example: Feed) -> int:
    """Bytes of all values that one example makes; what is alive at one time is less. Values of unknown shape are left out."""
    return sum(_values(graph, example)[1].values())


def _values(graph: Path, example: Feed) -> tuple[Sequence[onnx.NodeProto], dict[str, int]]:
    """The nodes, and the bytes of each value that one example makes, as far as its shape is known."""
    skeleton = skeleton_of(apart.outline(graph))
    for item in skeleton.graph.input:
        for dim, size in zip(item.type.tensor_type.shape.dim, example[item.name].shape if item.name in example else (), strict=False):
            dim.dim_value = size
    found = inferred(skeleton).graph
    made = {name for node in found.node for name in node.output}
    shapes = {item.name: item.type.tensor_type.shape.dim for item in (*found.value_info, *found.output) if item.name in made}
    return found.node, {name: 4 * int(prod(dim.dim_value for dim in shape)) for name, shape in shapes.items()}


def _alive(nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, int]) -> float:
    """The most bytes that are alive at one time in the order of the file; infinite where the size of a value is not known."""
    if any(not sizes.get(name) for node in nodes for name in node.output if name):
        return inf
    last = {name: place for place, node in enumerate(nodes) for name in (*node.output, *node.input)}
    alive = most = 0
    for place, node in enumerate(nodes):
        alive += sum(sizes[name] for name in node.output if name)
        most = max(most, alive)
        alive -= sum(sizes.get(name, 0) for name in {*node.input, *node.output} if last[name] == place)
    return most


def _growth(graph: Path, example: Feed, *, by_priority: bool, threads: int) -> int:
    """Bytes by which the process grows at most while it runs one example."""
    session = runtime.open_session(graph, threads=threads, frugal=True, by_priority=by_priority)
    before, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    runtime.run(session, example)
    done.set()
    watcher.join()
    return max(peak, _resident()) - before


def _resident() -> int:
    """Resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0
