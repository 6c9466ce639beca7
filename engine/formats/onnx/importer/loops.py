"""Loop and Scan whose bodies run a known number of times, unrolled.

The body is rebuilt at each time from what is true then: the number of the time is a constant, so are a counter that is taken along and a
condition on it, and states may change their shape. What the data decide, or a size that the file leaves open, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import KEEP_HINT, Op, rank_of
from engine.formats.onnx.importer.values import Constant, Flow, Sizes, Value
from engine.formats.onnx.macs import runs_on
from engine.formats.onnx.weights import int_attribute

_OPEN = "control flow depends on the data, on the batch, or on a size that the file leaves open"
_OPEN_HINT = (
    "State the lengths that the file leaves open as metadata.input_specs of the model, where they are always the same. " + KEEP_HINT
)
_INEXACT = frozenset(["Div", "Max", "Min", "Mod"])
_ENDLESS = 1 << 40


class Imagined:
    """Numbers that follow from the imagined sizes and need not be the same for all others, as the smaller one of a size and a number."""

    def __init__(self) -> None:
        self._found: set[Value] = set()

    def follow(self, op: Op, results: Sequence[Value]) -> None:
        """Note what a node makes of open sizes, or of what was noted before."""
        guessed = op.type in _INEXACT and any(isinstance(item, Sizes) for item in op.inputs)
        if guessed or any(item in self._found for item in op.inputs if item is not None):
            self._found.update(item for item in results if not isinstance(item, Flow))

    def constant(self, op: Op, value: Value | None) -> torch.Tensor:
        """What decides how often a body runs: one number, which is the same for every input."""
        if not isinstance(value, Constant) or value.tensor.numel() != 1 or value in self._found:
            op.fail(_OPEN, hint=_OPEN_HINT)
        return value.tensor.reshape(())


class Budget:
    """How many operators all bodies together may become."""

    def __init__(self) -> None:
        self._left = limits.MAX_UNROLLED_NODES

    def take(self, op: Op, nodes: int, times: int = 1) -> None:
        """For a body that runs once more, or so many times. Raises `unsupported_operator` past the limit."""
        self._left -= max(1, nodes) * times
        if self._left < 0:
            op.fail(f"its body of {nodes} operators runs so often that more than {limits.MAX_UNROLLED_NODES} operators would come of it")


@dataclass(frozen=True)
class Body:
    """What is repeated."""

    graph: onnx.GraphProto
    nodes: int
    constants: Mapping[str, onnx.TensorProto]
    """What is stored around it, and in it."""
    step: Callable[[Sequence[Value]], list[Value]]
    """Its outputs for such inputs."""


def taken_along(node: onnx.NodeProto, graph: onnx.GraphProto) -> dict[str, str]:
    """Inputs of a body that stay what the node was given, whose name stands beside them."""
    first, outer = (2, list(node.input[2:])) if node.op_type == "Loop" else (0, list(node.input))
    producers = {name: item for item in graph.node for name in item.output}
    found = {}
    states = min(len(outer), len(graph.output) - (first == 2))
    if node.op_type == "Scan":
        states = min(states, len(outer) - int_attribute(node, "num_scan_inputs"))
    for given, start, result in zip(graph.input[first:], outer[: max(0, states)], graph.output[1 if first else 0 :], strict=False):
        source = result.name
        while source in producers and producers[source].op_type == "Identity":
            source = producers[source].input[0]
        if source == given.name:
            found[given.name] = start
    return found


def loop(op: Op, build: Builder, body: Body, imagined: Imagined) -> list[Value]:
    """Loop: its number of times, its condition, what it takes along; what it stacks comes behind that."""
    most = int(imagined.constant(op, op.get(0))) if op.get(0) is not None else _ENDLESS
    going = op.get(1) is None or bool(imagined.constant(op, op.get(1)))
    states = _starts(op, build, body, 2, len(op.inputs) - 2)
    given = body.graph.input
    if len(given) != 2 + len(states) or len(body.graph.output) < 1 + len(states):
        raise EngineError("model_invalid", f"Node {op.label} does not give its body what that takes.")
    if going and runs_on(body.graph, body.constants):
        Budget().take(op, body.nodes, max(0, most))
    stacks: list[list[Value]] = [[] for _ in body.graph.output[1 + len(states) :]]
    number, condition = 0, op.get(1) or _scalar(True, torch.bool, given[1])
    while going and number < most:
        outputs = body.step([_scalar(number, torch.int64, given[0]), condition, *states])
        condition = outputs[0]
        going = bool(imagined.constant(op, condition))
        states = outputs[1 : 1 + len(states)]
        for stack, part in zip(stacks, outputs[1 + len(states) :], strict=True):
            stack.append(part)
        number += 1
    return [*states, *(_stacked(op, build, parts, 0) for parts in stacks)]


def scan(op: Op, build: Builder, body: Body, imagined: Imagined) -> list[Value]:
    """Scan from opset 9 on: the places of one or more sequences, one after the other."""
    if op.opset < 9:
        op.fail("the Scan of opset 8")
    count = int(op.attribute("num_scan_inputs", 0))
    first = len(op.inputs) - count
    if count < 1 or first < 0 or len(body.graph.input) != len(op.inputs) or len(body.graph.output) < first:
        raise EngineError("model_invalid", f"Node {op.label} does not give its body what that takes.")
    sequences = [op.value(first + index) for index in range(count)]
    axes = [axis % rank_of(item) for axis, item in zip(_each(op, "scan_input_axes", count), sequences, strict=True)]
    lengths = {build.size(item, axis) for axis, item in zip(axes, sequences, strict=True)}
    length = lengths.pop()
    if lengths or not isinstance(length, int):
        op.fail(_OPEN, hint=_OPEN_HINT)
    Budget().take(op, body.nodes, length)
    backward = _each(op, "scan_input_directions", count)
    states = _starts(op, build, body, 0, first)
    stacks: list[list[Value]] = [[] for _ in body.graph.output[first:]]
    for number in range(length):
        places = [length - 1 - number if back else number for back in backward]
        parts = [build.call("select", *whole) for whole in zip(sequences, axes, places, strict=True)]
        outputs = body.step([*states, *parts])
        states = outputs[:first]
        for stack, part in zip(stacks, outputs[first:], strict=True):
            stack.append(part)
    for stack, back in zip(stacks, _each(op, "scan_output_directions", len(stacks)), strict=True):
        if back:
            stack.reverse()
    outer = _each(op, "scan_output_axes", len(stacks))
    return [*states, *(_stacked(op, build, parts, axis) for parts, axis in zip(stacks, outer, strict=True))]


def _each(op: Op, name: str, count: int) -> list[int]:
    """A number for each input or output; zero where none is stated."""
    stated = op.ints(name) or [0] * count
    if len(stated) != count:
        raise EngineError("model_invalid", f"Node {op.label} has {len(stated)} {name} for {count}.")
    return stated


def _starts(op: Op, build: Builder, body: Body, first: int, count: int) -> list[Value]:
    """What a body takes along, at first. Real numbers that change flow, so that no product with a weight is folded into a constant."""
    kept = taken_along(op.node, body.graph)
    found = []
    for index in range(first, first + count):
        value = op.value(index)
        if isinstance(value, Constant) and body.graph.input[index].name not in kept and _flows(value, build):
            value = build.flowing(Constant(value.tensor) if bool((value.tensor == value.tensor.reshape(-1)[0]).all()) else value)
        found.append(value)
    return found


def _flows(value: Constant, build: Builder) -> bool:
    """Rows for the examples of a batch that the file fixes stay constants, of which one row is taken where they meet other values."""
    tensor = value.tensor
    rows = build.static_batch not in (None, 1) and tensor.dim() > 0 and len(tensor) == build.static_batch
    return tensor.is_floating_point() and tensor.numel() > 1 and not rows


def _scalar(number: int, kind: torch.dtype, given: onnx.ValueInfoProto) -> Constant:
    """A number as the body declares it, with no dimension or with one."""
    return Constant(torch.full([1] * len(given.type.tensor_type.shape.dim), number, dtype=kind))


def _stacked(op: Op, build: Builder, parts: Sequence[Value], axis: int) -> Value:
    if not parts:
        op.fail("it never runs, so that what it stacks has no shape")
    values: list[Any] = build.same_batch(parts, spread=True)
    return build.call(torch.stack, values, axis)


UNROLLED: Mapping[str, Callable[[Op, Builder, Body, Imagined], list[Value]]] = {"Loop": loop, "Scan": scan}
