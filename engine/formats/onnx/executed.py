"""Multiply-accumulates that a file really executes on given inputs, where the data decide what runs. Imports no torch.

ONNX Runtime's profile lists every operator that ran, those inside of If and Loop too, with the shapes that it ran on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.checks import inlined
from engine.formats.onnx.contents import constant_tensors, own_constants
from engine.formats.onnx.flat import first_output, subgraphs
from engine.formats.onnx.macs import SELECTING, counts_itself, decides, input_shapes, multiplies, single_macs
from engine.formats.onnx.runtime import Feed

_MOST_EVENTS = 100_000
"""The runtime keeps up to a million events; a profile of so many is read at a time."""
_MOST_RUNS = 100_000
"""Operators that one run may be, for its count."""
_KERNEL = "_kernel_time"


def decides_by_input(model: onnx.ModelProto) -> bool:
    """Whether some If or Loop of the graph does more for one input than for another."""
    return any(decides(node, constants) for node, constants in _scoped(model.graph, constant_tensors(model)))


def executed_macs(path: Path, feeds: Iterable[Feed], *, threads: int) -> int | None:
    """Multiply-accumulates of all `feeds` together, counted as `macs.node_macs` counts; None where an operator cannot be counted.

    What follows from constants alone counts nothing. Raises `model_invalid` where the file does not run on a feed.
    """
    model = inlined(onnx.load(path))
    nodes = _named(model)
    counted = {name: node for name, node in nodes.items() if not _follows_from_constants(node.proto, node.stored)}
    if any(not counts_itself(node.proto) for node in counted.values()):
        return None
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "named.onnx"
        onnx.save_model(model, str(file))
        for events in _profiles(file, Path(folder), feeds, threads, most=max(1, _MOST_EVENTS // max(1, len(nodes)))):
            for event in events:
                node = counted.get(event.name)
                if node is None or not multiplies(node.proto):
                    continue
                found = single_macs(node.proto, _shapes(node.proto.input, event.inputs), _shapes(node.proto.output, event.outputs))
                if found is None:
                    return None
                total += found
    return total


def with_repeated(
    model: onnx.ModelProto, macs: Mapping[str, int | None], shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, int | None]:
    """MACs by node, those of bodies too that run as often for every input: where shape inference does not say them, one run on zeros does.

    `macs` are those that `node_macs` found with these `shapes`. Nothing is run where the data decide what runs, or bodies run very often.
    """
    unknown = {first_output(node) for node in model.graph.node if subgraphs(node) and macs.get(first_output(node), 0) is None}
    known, batch = input_shapes(model, shapes) if unknown else ({}, 1)
    if not unknown or decides_by_input(model) or None in known.values() or _runs(model.graph, {}) > _MOST_RUNS:
        return dict(macs)
    named = onnx.ModelProto()
    named.CopyFrom(inlined(model))
    nodes = _named(named)
    inside = {name: node for name, node in nodes.items() if node.outer in unknown}
    if any(node.proto.op_type in SELECTING or not (subgraphs(node.proto) or counts_itself(node.proto)) for node in inside.values()):
        return dict(macs)
    found = dict.fromkeys(unknown, 0)
    kinds = {item.name: onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type) for item in model.graph.input}
    feed = {name: np.zeros(shape, kinds[name]) for name, shape in known.items() if shape is not None}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "named.onnx"
        onnx.save_model(named, str(file))
        try:
            events = next(_profiles(file, Path(folder), [feed], 1, most=1))
        except EngineError as error:
            if error.code != "model_invalid":
                raise
            return dict(macs)
    for event in events:
        node = inside.get(event.name)
        if node is None or not multiplies(node.proto) or _follows_from_constants(node.proto, node.stored):
            continue
        count = single_macs(node.proto, _shapes(node.proto.input, event.inputs), _shapes(node.proto.output, event.outputs))
        if count is None:
            return dict(macs)
        found[node.outer] += count
    return {**macs, **{name: count // batch for name, count in found.items()}}


def _runs(graph: onnx.GraphProto, around: Mapping[str, onnx.TensorProto]) -> int:
    """How many operators run at most, places of a Scan apart."""
    constants = {**around, **own_constants(graph)}
    total = 0
    for node in graph.node:
        count = constants.get(node.input[0]) if node.op_type == "Loop" else None
        times = 1 if count is None else max(0, int(onnx.numpy_helper.to_array(count).reshape(-1)[0]))
        total += 1 + times * sum(_runs(inner, constants) for inner in subgraphs(node))
    return total


class _Node:
    """A node, the names around it that are constant, and the first output of the main graph's node that holds it."""

    def __init__(self, proto: onnx.NodeProto, stored: frozenset[str], outer: str) -> None:
        self.proto, self.stored, self.outer = proto, stored, outer


def _scoped(
    graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, onnx.TensorProto]]]:
    """Every node, those of subgraphs too, with the constants that it sees."""
    for node in graph.node:
        yield node, constants
        for inner in subgraphs(node):
            yield from _scoped(inner, {**constants, **own_constants(inner)})


def _named(model: onnx.ModelProto) -> dict[str, _Node]:
    """Give every node a name of its own, and return all of them by it."""
    found: dict[str, _Node] = {}

    def visit(graph: onnx.GraphProto, around: frozenset[str], outer: str | None) -> None:
        stored = around | {item.name for item in graph.initializer}
        for node in graph.node:
            node.name = f"node{len(found)}"
            top = first_output(node) if outer is None else outer
            found[node.name] = _Node(node, stored, top)
            if _follows_from_constants(node, stored):
                stored = stored | set(node.output)
            for inner in subgraphs(node):
                visit(inner, stored, top)

    visit(model.graph, frozenset(), None)
    return found


def _follows_from_constants(node: onnx.NodeProto, stored: frozenset[str]) -> bool:
    return not subgraphs(node) and all(name in stored for name in node.input if name)


@dataclass(frozen=True)
class Kernel:
    """One run of one node: the shapes of what went in and came out, each by its type, and the time that it took."""

    name: str
    """The node's, unless the runtime made it of several."""
    inputs: Sequence[Mapping[str, list[int]]]
    outputs: Sequence[Mapping[str, list[int]]]
    microseconds: float


def _profiles(file: Path, folder: Path, feeds: Iterable[Feed], threads: int, *, most: int) -> Iterator[list[Kernel]]:
    """The operators that ran, `most` runs at a time."""
    session: ort.InferenceSession | None = None
    for number, feed in enumerate(feeds, 1):
        if session is None:
            session = runtime.open_session(file, threads=threads, optimized=False, profile=folder / "profile")
        runtime.run(session, {item.name: feed[item.name] for item in session.get_inputs()})
        if number % most == 0:
            yield kernels(session)
            session = None
    if session is not None:
        yield kernels(session)


def kernels(session: ort.InferenceSession) -> list[Kernel]:
    """Every operator that a profiled session has run, in order; ends its profile."""
    path = Path(session.end_profiling())
    events = json.loads(path.read_bytes())
    path.unlink()
    return [
        Kernel(
            event["name"].removesuffix(_KERNEL),
            event["args"].get("input_type_shape", ()),
            event["args"].get("output_type_shape", ()),
            event["dur"],
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
    ]


def _shapes(names: Iterable[str], stated: Sequence[Mapping[str, list[int]]]) -> list[list[int] | None]:
    """Shapes in the places of the node's own inputs or outputs; the profile leaves out those that are not there."""
    given = iter(stated)
    return [next(iter(next(given, {}).values()), None) if name else None for name in names]
