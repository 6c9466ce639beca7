"""One ONNX graph out of the stages: behind every exit an If, inside of which the examples go on that have not stopped. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.flat import subgraphs
from engine.formats.onnx.naming import rename, value_names
from engine.methods.dynamic.exits.thresholds import ALWAYS
from engine.networks.network import Signature

CONFIDENCE = "exit/confidence"
CARRIED = "carried/"
"""Begins the names of what a stage hands on."""


@dataclass(frozen=True)
class StageGraph:
    """One stage as a graph of its own."""

    model: onnx.ModelProto
    takes: tuple[str, ...]
    """Network inputs and carried tensors, in the order of the graph's inputs."""
    gives: tuple[str, ...]
    """In the order of its outputs, behind the network's outputs and the confidence."""


@dataclass
class _Part:
    """Nodes that compute `outputs`, and their constants."""

    nodes: list[onnx.NodeProto]
    constants: list[TensorProto]
    outputs: list[str]


def compose(
    stages: Sequence[StageGraph], thresholds: Sequence[float], batch_axes: Mapping[str, int | None], signature: Signature
) -> onnx.ModelProto:
    """The graph of the whole network, in which an example stops at the first exit whose confidence reaches its threshold.

    At an exit all examples that go on are taken out of the batch together, and their outputs are put back into their places. Where none goes
    on, nothing more is computed. Exits whose threshold is infinite are left out, and so is all that comes after one at which everything stops.

    Args:
        stages: The stages in their order.
        thresholds: One for each exit but the last.
        batch_axes: By the name of what a stage takes: the dimension that counts examples.
        signature: Of the network.
    """
    composer = _Composer(stages, thresholds, batch_axes, signature)
    part = composer.part(0, {spec.name: spec.name for spec in signature.inputs})
    part.nodes += [
        helper.make_node("Identity", [found], [spec.name], f"/{spec.name}")
        for found, spec in zip(part.outputs, signature.outputs, strict=True)
    ]
    part.outputs = [spec.name for spec in signature.outputs]
    first = stages[0].model
    own = {item.name: item for item in first.graph.input}
    inputs = [
        own.get(spec.name) or _info(spec.name, spec.dtype, ["batch" if size is None else size for size in spec.shape])
        for spec in signature.inputs
    ]
    outputs = []
    for item, spec in zip(first.graph.output, signature.outputs, strict=False):
        outputs.append(onnx.ValueInfoProto())
        outputs[-1].CopyFrom(item)
        outputs[-1].name = spec.name
    graph = onnx.GraphProto(name="exits")
    nodes, constants = _pruned(part)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    model = onnx.ModelProto(
        ir_version=first.ir_version, producer_name=first.producer_name, producer_version=first.producer_version, graph=graph
    )
    versions: dict[str, int] = {}
    for stage in stages:
        for item in stage.model.opset_import:
            versions[item.domain] = max(versions.get(item.domain, 1), item.version)
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    return model


class _Composer:
    def __init__(
        self, stages: Sequence[StageGraph], thresholds: Sequence[float], batch_axes: Mapping[str, int | None], signature: Signature
    ) -> None:
        self._stages, self._thresholds, self._axes, self._outputs = stages, thresholds, batch_axes, signature.outputs
        self._taken = {spec.name for spec in (*signature.inputs, *signature.outputs)}
        self._constants: dict[str, TensorProto] = {}
        """By the name in the whole graph: of this stage and those around it."""

    def part(self, place: int, live: Mapping[str, str]) -> _Part:
        """Stage `place` and all behind it. `live` has the names in the whole graph of inputs and of what earlier stages hand on."""
        part, confidence, carried = self._inlined(place, live)
        live = {**live, **carried}
        threshold = self._thresholds[place] if place < len(self._thresholds) else ALWAYS
        if threshold <= ALWAYS:
            return part
        if math.isinf(threshold):
            later = self.part(place + 1, live)
            return _Part([*part.nodes, *later.nodes], [*part.constants, *later.constants], later.outputs)
        number = place + 1
        on, going = self._free(f"exit{number}/on"), self._free(f"exit{number}/any")
        self._decide(part, number, confidence, threshold, {"on": on, "any": going})
        then = self._rest(place, part.outputs, on, live)
        kept = [self._free(f"exit{number}/kept") for _ in part.outputs]
        stay = _Part([helper.make_node("Identity", [own], [name]) for own, name in zip(part.outputs, kept, strict=True)], [], kept)
        results = [self._free(f"exit{number}/result") for _ in part.outputs]
        branches = {"then_branch": self._branch(f"stage{number + 1}", then), "else_branch": self._branch(f"exit{number}", stay)}
        part.nodes.append(helper.make_node("If", [going], results, f"/exit{number}/If", **branches))
        return _Part(part.nodes, part.constants, results)

    def _decide(self, part: _Part, number: int, confidence: str, threshold: float, names: Mapping[str, str]) -> None:
        """Add to a part which examples go `on`, and whether `any` does."""
        bound, zero, sure, numbers, count = (
            self._free(f"exit{number}/{name}") for name in ("threshold", "zero", "sure", "numbers", "count")
        )
        part.constants += [
            numpy_helper.from_array(np.array(threshold, np.float32), bound),
            numpy_helper.from_array(np.array(0, np.int64), zero),
        ]
        part.nodes += [
            helper.make_node("GreaterOrEqual", [confidence, bound], [sure], f"/exit{number}/GreaterOrEqual"),
            helper.make_node("Not", [sure], [names["on"]], f"/exit{number}/Not"),
            helper.make_node("Cast", [names["on"]], [numbers], f"/exit{number}/Cast", to=TensorProto.INT64),
            helper.make_node("ReduceSum", [numbers], [count], f"/exit{number}/ReduceSum", keepdims=0),
            helper.make_node("Greater", [count, zero], [names["any"]], f"/exit{number}/Greater"),
        ]

    def _rest(self, place: int, outputs: Sequence[str], on: str, live: Mapping[str, str]) -> _Part:
        """What is computed where some examples go on: their later exits, whose outputs replace the ones of this exit."""
        number = place + 1
        wanted = {name for stage in self._stages[number:] for name in stage.takes} & set(live)
        nodes: list[onnx.NodeProto] = []
        inner: dict[str, str] = {}
        for name in sorted(wanted):
            axis = self._axes[name]
            inner[name] = live[name] if axis is None else self._free(f"{name}/{number}")
            if axis is not None:
                nodes.append(helper.make_node("Compress", [live[name], on], [inner[name]], f"/exit{number}/Compress/{name}", axis=axis))
        later = self.part(number, inner)
        places, index = self._free(f"exit{number}/places"), self._free(f"exit{number}/index")
        nodes += later.nodes
        nodes += [
            helper.make_node("NonZero", [on], [places], f"/exit{number}/NonZero"),
            helper.make_node("Transpose", [places], [index], f"/exit{number}/Transpose"),
        ]
        merged = []
        for own, new in zip(outputs, later.outputs, strict=True):
            merged.append(self._free(f"exit{number}/merged"))
            nodes.append(helper.make_node("ScatterND", [own, index, new], [merged[-1]], f"/exit{number}/ScatterND"))
        return _Part(nodes, later.constants, merged)

    def _branch(self, name: str, part: _Part) -> onnx.GraphProto:
        nodes, constants = _pruned(part)
        outputs = [_info(found, spec.dtype, None) for found, spec in zip(part.outputs, self._outputs, strict=True)]
        return helper.make_graph(nodes, name, [], outputs, constants)

    def _inlined(self, place: int, live: Mapping[str, str]) -> tuple[_Part, str, dict[str, str]]:
        """The nodes of one stage under names that are free, with the names of its outputs, its confidence and what it hands on."""
        stage = self._stages[place]
        graph = onnx.GraphProto()
        graph.CopyFrom(stage.model.graph)
        names = {item.name: live[name] for item, name in zip(graph.input, stage.takes, strict=True)}
        known = {item.name: item for item in graph.initializer}
        for name in sorted(value_names(graph) - set(names) - {""}):
            own = known.get(name)
            around = self._constants.get(name)
            if own is not None and around is not None and own.SerializeToString() == around.SerializeToString():
                names[name] = name  # A weight that an earlier stage has, too.
            else:
                names[name] = self._free(name)
        kept = [item for item in graph.initializer if not (names[item.name] == item.name and item.name in self._constants)]
        for item in kept:
            copied = TensorProto()
            copied.CopyFrom(item)
            self._constants[names[item.name]] = copied
        rename(graph, names)
        for node in graph.node:
            node.name = self._free(node.name)
        outputs = [item.name for item in graph.output]
        count = len(self._outputs)
        carried = dict(zip(stage.gives, outputs[count + 1 :], strict=True))
        return _Part(list(graph.node), list(kept), outputs[:count]), outputs[count], carried

    def _free(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _pruned(part: _Part) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """The nodes and constants that the outputs need."""
    used = set(part.outputs)
    nodes = []
    for node in reversed(part.nodes):
        if not used.isdisjoint(node.output):
            nodes.append(node)
            used.update(node.input)
            for inner in subgraphs(node):
                used |= value_names(inner)
    return nodes[::-1], [item for item in part.constants if item.name in used]


def _info(name: str, dtype: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    kinds = {"bfloat16": TensorProto.BFLOAT16}
    kind = kinds.get(dtype) or helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
