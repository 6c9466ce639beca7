"""What the inputs of a network's products look like: their second moments, by which rounded weights are judged. NumPy only.

A product of inputs x with weights w that are off by d is off by x·d, whose square is on average dᵀ E[x xᵀ] d. So the matrix E[x xᵀ] is all
that has to be known of the examples to round the weights of a layer well (Frantar et al., ICLR 2023; Nagel et al., ICML 2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from engine.formats.onnx import apart, runtime
from engine.formats.onnx.runtime import Feed
from engine.formats.onnx.weights import int_attribute
from engine.methods.quantization.index import Index
from engine.process.memory import give_back_memory

Array = NDArray[np.float32]
Moments = dict[str, NDArray[np.float64]]
"""By weight: one matrix for each group of input channels, (groups, inputs, inputs)."""
MOST_BYTES = 256 << 20
"""Matrices that are gathered in one pass over the examples."""
MOST_EXAMPLES = 256
"""Examples that are looked at."""
_MOST_ROWS = 4096
"""Positions of one example that are looked at; more of the same image tell nothing new."""


@dataclass(frozen=True)
class Layout:
    """How a weight stands as a matrix of (groups, outputs of a group, inputs of an output)."""

    node: onnx.NodeProto
    dims: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Groups of channels that see no other."""
        return int_attribute(self.node, "group", 1) if self.node.op_type == "Conv" else 1

    @property
    def inputs(self) -> int:
        """Numbers that one output is made of."""
        if self.node.op_type == "Conv":
            return int(np.prod(self.dims[1:]))
        return self.dims[1] if self._transposed else self.dims[0]

    @property
    def _transposed(self) -> bool:
        return self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and bool(int_attribute(self.node, "transB")))

    def rows(self, weight: Array) -> Array:
        """The weight as (groups, outputs of a group, inputs)."""
        flat = weight if self._transposed else weight.T
        return np.ascontiguousarray(flat.reshape(self.groups, -1, self.inputs))

    def back(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows in the shape of the weight."""
        flat = rows.reshape(-1, self.inputs)
        return np.ascontiguousarray((flat if self._transposed else flat.T).reshape(self.dims))


def layouts(index: Index, nodes: Iterable[str], positions: Callable[[onnx.NodeProto], int]) -> dict[str, Layout]:
    """The matrices behind the weights of products, by weight; those that products see in different ways are left out."""
    found: dict[str, Layout] = {}
    odd: set[str] = set()
    wanted = set(nodes)
    for node in index.nodes:
        if node.name not in wanted or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = node.input[positions(node)]
        layout = Layout(node, tuple(index.constants[name].dims))
        if (node.op_type != "Conv" and len(layout.dims) != 2) or (node.op_type == "Conv" and len(layout.dims) not in (3, 4)):
            odd.add(name)
        if name in found and (found[name].rows, found[name].groups) != (layout.rows, layout.groups):
            odd.add(name)
        found[name] = layout
    return {name: layout for name, layout in found.items() if name not in odd}


def gather(
    graph: Path, wanted: dict[str, Layout], feeds: Callable[[int], Iterator[Feed]], *, threads: int
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """The second moments of the inputs of each weight, and their means (groups, inputs), a few weights at a time: one pass over the examples for each `MOST_BYTES`.

    Args:
        graph: A float network.
        wanted: The weights.
        feeds: Starts a pass over the examples.
        threads: Threads of ONNX Runtime.
    """
    for part in _parts(wanted):
        totals = {name: np.zeros((layout.groups, layout.inputs, layout.inputs), np.float32) for name, layout in part.items()}
        sums = {name: np.zeros((layout.groups, layout.inputs)) for name, layout in part.items()}
        seen = dict.fromkeys(part, 0)
        run = _runner(graph, part, threads=threads, path=graph.with_name("moments.onnx"))
        for feed in itertools.islice(feeds(1), MOST_EXAMPLES):
            values = run(feed)
            for name, layout in part.items():
                columns = _columns(layout, values[layout.node.input[0]])
                seen[name] += columns.shape[1]
                sums[name] += columns.sum(1)
                totals[name] += columns.transpose(0, 2, 1) @ columns
        del run
        give_back_memory()
        for name, total in totals.items():
            yield name, total.astype(np.float64) / max(1, seen[name]), sums[name] / max(1, seen[name])


def _parts(wanted: dict[str, Layout]) -> Iterator[dict[str, Layout]]:
    part: dict[str, Layout] = {}
    size = 0
    for name, layout in wanted.items():
        own = 4 * layout.groups * layout.inputs**2
        if part and size + own > MOST_BYTES:
            yield part
            part, size = {}, 0
        part[name] = layout
        size += own
    if part:
        yield part


def _runner(graph: Path, part: dict[str, Layout], *, threads: int, path: Path) -> Callable[[Feed], Feed]:
    """Computes what the weights are multiplied with, by its name; nothing that stands behind the last of it."""
    model = apart.outline(graph)
    given = {item.name for item in model.graph.input}
    names = [name for name in dict.fromkeys(layout.node.input[0] for layout in part.values()) if name not in given]
    if not names:
        return lambda feed: feed
    last = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    kept = list(model.graph.node)[: max(last[name] for name in names) + 1]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(kept)
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    onnx.save(model, path)
    del model
    session = runtime.open_session(path, threads=threads, frugal=True)
    path.unlink()
    return lambda feed: {**feed, **dict(zip(names, runtime.run(session, feed, names), strict=True))}


def _columns(layout: Layout, values: Array) -> Array:
    """What the outputs at every position are made of: (groups, positions, inputs)."""
    if layout.node.op_type != "Conv":
        if layout.node.op_type == "Gemm" and int_attribute(layout.node, "transA"):
            values = values.T
        return _fewer(values.reshape(1, -1, values.shape[-1]))
    attributes = {item.name: helper.get_attribute_value(item) for item in layout.node.attribute}
    spatial = len(layout.dims) - 2
    kernel = layout.dims[2:]
    strides, dilations = (list(attributes.get(key, [1] * spatial)) for key in ("strides", "dilations"))
    padding = _padding(attributes, values.shape[2:], kernel, strides, dilations)
    padded = np.pad(values, [(0, 0), (0, 0), *padding])
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    places = tuple(slice(None, None, step) for step in strides)
    taps = tuple(slice(None, None, step) for step in dilations)
    windows = windows[(slice(None), slice(None), *places, *taps)]
    # (batch, groups, channels, places …, taps …) → (groups, batch · places, channels · taps)
    windows = windows.reshape(len(values), layout.groups, -1, *windows.shape[2:])
    order = (1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    return _fewer(windows.transpose(order).reshape(layout.groups, -1, layout.inputs))


def _padding(
    attributes: dict[str, object], sizes: Sequence[int], kernel: Sequence[int], strides: list[int], dilations: list[int]
) -> list[tuple[int, int]]:
    how = attributes.get("auto_pad", b"NOTSET")
    spatial = len(kernel)
    if how in (b"SAME_UPPER", b"SAME_LOWER"):
        found = []
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if how == b"SAME_UPPER" else (large, small))
        return found
    pads = [0] * (2 * spatial) if how == b"VALID" else attributes.get("pads", [0] * (2 * spatial))
    return [(pads[i], pads[i + spatial]) for i in range(spatial)]  # type: ignore[index]  # integers, as the operator says


def _fewer(columns: Array) -> Array:
    """At most `_MOST_ROWS` positions, evenly spread."""
    step = -(-columns.shape[1] // _MOST_ROWS)
    return np.ascontiguousarray(columns[:, ::step])
