"""Which layers take the time of a run: ONNX Runtime's own profile of the very file, with the optimizations that it runs with. Imports no torch.

The runtime renames what it fuses. A kernel is attributed to a node where its name says which it was; the rest belongs to no layer.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from engine.formats.onnx import runtime
from engine.formats.onnx.executed import kernels
from engine.formats.onnx.flat import subgraphs
from engine.formats.onnx.runtime import Feed

MOST_MS, MOST_FILE_BYTES = 25.0, 64 << 20
"""A run that takes longer, or a larger file, is not profiled: everybody's jobs would take longer for it."""
SECONDS, MOST_RUNS, WARM_UP_RUNS = 0.1, 50, 3
_FUSED, _MOVED, _BLOCKED = "fused ", re.compile(r"(?:_token_\d+)+$"), "_nchwc"
_AFTER = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "BatchNormalization"})
"""What the runtime computes together with the layer before it."""


def is_cheap(path: Path, p50_ms: float) -> bool:
    """Whether a file of which one run takes `p50_ms` is profiled."""
    return p50_ms <= MOST_MS and path.stat().st_size <= MOST_FILE_BYTES


def node_shares(path: Path, feed: Feed, *, threads: int, p50_ms: float) -> dict[str, float]:
    """Share of the time of all operators that each named node of a file takes on one input; those of 0 are left out.

    Empty for a file with branches or loops, whose time holds that of what runs inside.
    """
    model = onnx.load(path)
    if any(list(subgraphs(node)) for node in model.graph.node):
        return {}
    runs = WARM_UP_RUNS + max(1, min(MOST_RUNS, round(1000 * SECONDS / max(p50_ms, 1e-3))))
    with tempfile.TemporaryDirectory() as folder:
        session = runtime.open_session(path, threads=threads, profile=Path(folder) / "profile")
        given = {item.name: feed[item.name] for item in session.get_inputs()}
        for _ in range(runs):
            runtime.run(session, given)
        events = kernels(session)
    names = Names(model.graph)
    took: dict[str, float] = {}
    total, seen = 0.0, Counter[str]()
    for kernel in events:
        seen[kernel.name] += 1
        if seen[kernel.name] <= WARM_UP_RUNS:
            continue
        total += kernel.microseconds
        if (node := names.of(kernel.name)) is not None:
            took[node] = took.get(node, 0.0) + kernel.microseconds
    return {node: time / total for node, time in took.items() if time} if total else {}


class Names:
    """Which node of a graph a kernel was made of."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = {node.name for node in graph.node if node.name}
        self._producers: Mapping[str, onnx.NodeProto] = {output: node for node in graph.node for output in node.output}

    def of(self, kernel: str) -> str | None:
        """The name of the node; None where the kernel's name does not say."""
        for name in (kernel, kernel.removeprefix(_FUSED), _MOVED.sub("", kernel)):
            if name in self._nodes:
                return name
        # Layers in blocks of channels are called by the value that comes out behind their activation.
        node = self._producers.get(kernel.removesuffix(_BLOCKED)) if kernel.endswith(_BLOCKED) else None
        while node is not None and node.op_type in _AFTER:
            node = self._producers.get(node.input[0])
        return node.name or None if node is not None else None
