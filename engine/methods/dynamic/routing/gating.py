"""Gates put before the residual blocks of a traced network."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from engine.methods.dynamic.routing.blocks import ResidualBlock
from engine.methods.dynamic.routing.gates import Decision, Embedding, FeedForward, Head, Join
from engine.methods.dynamic.routing.network import DECISIONS, GATES, JOINS, Route, SkippingNetwork
from engine.methods.dynamic.spec_skip import SkipRouting


def with_gates(graph: fx.GraphModule, blocks: Sequence[ResidualBlock], params: SkipRouting) -> SkippingNetwork:
    """Put a gate before each of the blocks, in their order. The graph is changed in place; new weights come from torch's generator."""
    places = _Places(graph)
    gates, decisions, joins = nn.Module(), nn.ModuleList(), nn.ModuleList()
    for name, part in ((GATES, gates), (DECISIONS, decisions), (JOINS, joins)):
        graph.add_module(name, part)
    recurrent = params.gate == "recurrent"
    embeddings, heads = nn.ModuleList(), nn.ModuleList()
    if recurrent:
        gates.embeddings = embeddings
        gates.cell = nn.LSTMCell(params.embedding_size, params.hidden_size)
        gates.head = Head(params.hidden_size, params.gate_bias)
    else:
        gates.heads = heads
    state: fx.Node | None = None
    routes: list[Route] = []
    renamed: dict[fx.Node, fx.Node] = {}
    for number, block in enumerate(blocks):
        entry = renamed.get(block.entry, block.entry)
        if recurrent:
            channels = block.shape[block.channel_axis - 1]
            embeddings.append(Embedding(channels, block.channel_axis, params.embedding_size))
            embedded = places.call(f"{GATES}.embeddings.{number}", (entry,), after=[entry, state])
            state = places.call(f"{GATES}.cell", (embedded,) if state is None else (embedded, state), after=[embedded])
            hidden = places.function(operator.getitem, (state, 0), after=[state])
            probability = places.call(f"{GATES}.head", (hidden,), after=[hidden])
        else:
            first = params.gate == "feedforward_1"
            heads.append(FeedForward(block.shape, block.channel_axis, params.gate_bias, first=first))
            probability = places.call(f"{GATES}.heads.{number}", (entry,), after=[entry])
        decisions.append(Decision())
        joins.append(Join())
        decision = places.call(f"{DECISIONS}.{number}", (probability,), after=[probability])
        with graph.graph.inserting_before(block.addition):
            shortcut = renamed.get(block.shortcut, block.shortcut)
            join = graph.graph.call_module(f"{JOINS}.{number}", (shortcut, block.branch, decision))
        block.addition.replace_all_uses_with(join)
        graph.graph.erase_node(block.addition)
        renamed[block.addition] = join
        routes.append(_route(block, decision, join, renamed))
    graph.graph.lint()
    graph.recompile()
    return SkippingNetwork(graph, routes)


def _route(block: ResidualBlock, decision: fx.Node, join: fx.Node, renamed: Mapping[fx.Node, fx.Node]) -> Route:
    def name(node: fx.Node) -> str:
        return renamed.get(node, node).name

    rows = tuple(name(node) for node in block.rows)
    return Route(block.name, tuple(map(name, block.nodes)), rows, name(block.shortcut), name(block.branch), decision.name, join.name)


class _Places:
    """Puts nodes right behind the last of those that they read."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph.graph
        self._last_input = [node for node in self._graph.nodes if node.op == "placeholder"][-1]

    def call(self, target: str, args: tuple[Any, ...], *, after: Sequence[fx.Node | None]) -> fx.Node:
        """A layer's call."""
        with self._graph.inserting_after(self._anchor(after)):
            return self._graph.call_module(target, args)

    def function(self, target: Any, args: tuple[Any, ...], *, after: Sequence[fx.Node | None]) -> fx.Node:
        """A function's call."""
        with self._graph.inserting_after(self._anchor(after)):
            return self._graph.call_function(target, args)

    def _anchor(self, after: Sequence[fx.Node | None]) -> fx.Node:
        wanted = {*(node for node in after if node is not None), self._last_input}
        place: fx.Node = next(node for node in reversed(list(self._graph.nodes)) if node in wanted)
        return place
