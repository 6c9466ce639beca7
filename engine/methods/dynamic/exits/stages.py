"""Cuts a network with exits into stages: each computes what the next exit needs, and nothing that an earlier stage computed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from engine.contract.errors import EngineError
from engine.methods.dynamic.exits.values import Traced, Value


@dataclass(frozen=True)
class Exit:
    """Where the answers of one exit come from."""

    name: str
    """For people: the layer that it stands behind."""
    outputs: tuple[fx.Node, ...]
    """One for each output of the network."""
    confidence: fx.Node


@dataclass(frozen=True)
class Carried:
    """A tensor that a later stage reads."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def batch_axis(self) -> int | None:
        """The dimension that counts examples; None where it is the same for all of them."""
        return self.shape.index(None) if None in self.shape else None


@dataclass(frozen=True)
class Plan:
    """What one stage reads and gives besides the answers of its exit."""

    takes: tuple[str, ...]
    """Names of network inputs and carried tensors, in the order of the stage's arguments."""
    gives: tuple[Carried, ...]
    """In the order of the stage's results behind the outputs and the confidence."""


def cut(traced: Traced, exits: Sequence[Exit], inputs: Sequence[str]) -> list[tuple[fx.GraphModule, Plan]]:
    """The stages, one for each exit.

    A stage takes tensors and returns a tuple: the exit's outputs, its confidence, and what later stages read. Numbers and what belongs to
    the network are never handed on. Layers are shared with the traced network. Raises `exit_position_invalid` where a tensor that
    a later stage reads mixes the examples, so that the network cannot go on with some of them.
    """
    names = dict(zip((node for node in traced.graph.nodes if node.op == "placeholder"), inputs, strict=True))
    stage_of = _stages(traced, exits)
    made: dict[fx.Node, str] = {}
    takes: list[list[fx.Node]] = []
    for place in range(len(exits)):
        own = [node for node, stage in stage_of.items() if stage == place]
        takes.append(_read(traced, own, exits[place], stage_of, place))
        for node in takes[-1]:
            if node not in names:
                made.setdefault(node, node.name)
    found = []
    for place, end in enumerate(exits):
        gives = [node for node in made if stage_of[node] == place]
        for node in gives:
            _check(node, traced.values.get(node), end)
        module = _stage(traced, end, takes[place], gives, {node for node, stage in stage_of.items() if stage == place})
        carried = tuple(
            Carried(made[node], traced.values[node].shape, str(traced.values[node].dtype).removeprefix("torch.")) for node in gives
        )
        found.append((module, Plan(tuple(names.get(node) or made[node] for node in takes[place]), carried)))
    return found


def _stages(traced: Traced, exits: Sequence[Exit]) -> dict[fx.Node, int]:
    """The first stage that needs each node, in the graph's order; not of inputs, and of what is computed where it is read."""
    first: dict[fx.Node, int] = {}
    for place, end in enumerate(exits):
        for node in traced.before((*end.outputs, end.confidence)):
            first.setdefault(node, place)
    # The parts of a result that has several are taken out where it is computed.
    for node in traced.graph.nodes:
        if node in traced.parts and node in first:
            for user in node.users:
                if user in first and user.target is operator.getitem:
                    first[user] = first[node]
    return {node: first[node] for node in traced.graph.nodes if node in first and node.op != "placeholder" and not traced.repeated(node)}


def _read(traced: Traced, own: Sequence[fx.Node], end: Exit, stage_of: Mapping[fx.Node, int], place: int) -> list[fx.Node]:
    """What a stage reads of the inputs and of earlier stages, in a fixed order."""
    found: dict[fx.Node, None] = {}

    def visit(node: fx.Node) -> None:
        if node.op == "placeholder" or (node in stage_of and stage_of[node] < place):
            found.setdefault(node)
        elif node not in stage_of:
            for item in node.all_input_nodes:
                visit(item)

    for node in own:
        for item in node.all_input_nodes:
            visit(item)
    for node in (*end.outputs, end.confidence):
        visit(node)
    return list(found)


def _stage(traced: Traced, end: Exit, takes: Sequence[fx.Node], gives: Sequence[fx.Node], own: set[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    known = {node: graph.placeholder(node.name) for node in takes}

    def copied(node: fx.Node) -> fx.Node:
        if node not in known:
            for item in node.all_input_nodes:
                copied(item)
            known[node] = graph.node_copy(node, lambda item: known[item])
        return known[node]

    for node in traced.graph.nodes:
        if node in own:
            copied(node)
    graph.output(tuple(copied(node) for node in (*end.outputs, end.confidence, *gives)))
    return fx.GraphModule(traced.module, graph, class_name="Stage").eval()


def _check(node: fx.Node, value: Value | None, end: Exit) -> None:
    if value is None or value.mixed:
        shape = "" if value is None else f" of shape {list(value.shape)}"
        raise EngineError(
            "exit_position_invalid",
            f"What the network computes behind the exit at {end.name!r} reads {node.name!r}{shape}, in which the "
            "examples are not a dimension of their own: it cannot go on with some of them.",
            hint="Choose another position, or leave positions at auto.",
            details={"position": end.name, "value": node.name},
        )


def joined(stages: Sequence[tuple[fx.GraphModule, Plan]], last: int, inputs: Sequence[str], outputs: int) -> fx.GraphModule:
    """The network that always stops at exit `last`, from 0, without the exits before it."""
    graph = fx.Graph()
    known = {name: graph.placeholder(f"input_{place}") for place, name in enumerate(inputs)}
    layers: dict[str, object] = {}
    for module, plan in stages[: last + 1]:
        arguments = (node for node in module.graph.nodes if node.op == "placeholder")
        results = graph.graph_copy(module.graph, dict(zip(arguments, (known[name] for name in plan.takes), strict=True)))
        assert isinstance(results, tuple)
        known |= {item.name: node for item, node in zip(plan.gives, results[outputs + 1 :], strict=True)}
        answers = results[:outputs]
        for name, layer in (*module.named_modules(), *module.named_parameters(), *module.named_buffers()):
            layers.setdefault(name, layer)
    graph.output(answers[0] if outputs == 1 else tuple(answers))
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    return fx.GraphModule({name: layers[name] for name in targets}, graph, class_name="Exit").eval()


def run(module: fx.GraphModule, plan: Plan, live: Mapping[str, Tensor], outputs: int) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    """One stage: the exit's outputs, its confidence, and what it carries on."""
    results = module(*(live[name] for name in plan.takes))
    carried = {item.name: value for item, value in zip(plan.gives, results[outputs + 1 :], strict=True)}
    return list(results[:outputs]), results[outputs], carried


def selected(value: Tensor, axis: int | None, rows: Tensor) -> Tensor:
    """The rows of a carried tensor."""
    return value if axis is None else torch.index_select(value, axis, rows)
