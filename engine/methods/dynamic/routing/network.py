"""A network whose residual blocks have gates: masked while it learns, with branches that are really left out when it answers."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.formats.onnx.conditional import conditional
from engine.formats.onnx.export import export_onnx
from engine.methods.dynamic.routing.gates import Decision, Head, Mode, Reading, RoutedNorm, Step
from engine.networks.network import Signature
from engine.networks.routed import NEAR, RoutedModule

GATES, DECISIONS, JOINS = "gates", "decisions", "joins"
"""Names of the parts of a network with gates."""
_SUREST = 1e-6
"""Probabilities nearer to 0 or 1 count as this."""


@dataclass(frozen=True)
class Route:
    """One block that may be skipped, by the names of the graph's nodes."""

    name: str
    branch: tuple[str, ...]
    """What is computed for the branch alone, in order."""
    rows: tuple[str, ...]
    """What the branch reads that has examples in its first dimension."""
    shortcut: str
    output: str
    """Of the branch."""
    decision: str
    join: str


class SkippingNetwork(RoutedModule):
    """A traced network with gates.

    In training every branch is computed for all examples, and its decisions mask it; in evaluation each branch runs on those examples
    only that take it, which gives the same.
    """

    def __init__(self, graph: fx.GraphModule, routes: Sequence[Route]) -> None:
        super().__init__()
        self.network = graph
        self.routes = tuple(routes)

    def forward(self, *inputs: Tensor) -> Any:
        """What the network computes, and the decisions of the batch in `decisions`."""
        return self.network(*inputs) if self.training else Skipping(self.network, self.routes).run(*inputs)

    @property
    def decisions(self) -> list[Decision]:
        """One a route, in order."""
        return [part for part in self.network.get_submodule(DECISIONS).children() if isinstance(part, Decision)]

    @property
    def gate_parameters(self) -> list[nn.Parameter]:
        """Of the gates alone."""
        return list(self.network.get_submodule(GATES).parameters())

    def borderline(self, *inputs: Tensor) -> Tensor:
        """Whether a block is about as likely to run as it has to be."""
        self(*inputs)
        probabilities, _ = self.last()
        thresholds = torch.stack([decision.threshold for decision in self.decisions])
        return ((probabilities - thresholds).abs() <= NEAR).any(1)

    def learn(self, mode: Mode) -> None:
        """How decisions are taken in training from now on."""
        for decision in self.decisions:
            decision.mode = mode
        for part in self.modules():
            if isinstance(part, Reading):
                part.detached = mode == "sample"

    @torch.no_grad()
    def reopen(self, inputs: Sequence[Tensor], size: float) -> None:
        """Scale the log odds of gates down to a mean size on these inputs, where they are larger. Gates that share a head are scaled alike."""
        self.eval()(*inputs)
        sizes = torch.logit(self.last()[0].double(), eps=_SUREST).abs().mean(0)
        heads = [part for part in self.network.get_submodule(GATES).modules() if isinstance(part, Head)]
        groups = [sizes] if len(heads) == 1 else sizes[:, None]
        for head, each in zip(heads, groups, strict=True):
            factor = min(1.0, size / max(float(each.mean()), _SUREST))
            head.weight.mul_(factor)
            head.bias.mul_(factor)
        self.forget()

    def set_threshold(self, value: float) -> None:
        """The probability from which a block runs."""
        for decision in self.decisions:
            decision.threshold.fill_(value)

    def forget(self) -> None:
        """Let go of the last batch."""
        for decision in self.decisions:
            decision.probability = decision.taken = decision.given = None

    def last(self) -> tuple[Tensor, Tensor]:
        """Probabilities and decisions of the last batch, both (N, routes)."""
        parts = [(decision.probability, decision.taken) for decision in self.decisions]
        found = [(probability, taken) for probability, taken in parts if probability is not None and taken is not None]
        probabilities, taken = zip(*found, strict=True)
        return torch.stack(probabilities, 1), torch.stack(taken, 1)

    @contextmanager
    def masks(self) -> Iterator[None]:
        """Inside, batch normalizations of branches learn from the examples that take them."""
        swap_norms(self.network, {name: norm for name, layer in self._norms() if (norm := RoutedNorm.instead_of(layer)) is not None})
        self._give_decisions(inside=True)
        try:
            yield
        finally:
            self._give_decisions(inside=False)
            parts = [(name, part) for name, part in self.network.named_modules() if isinstance(part, RoutedNorm)]
            swap_norms(self.network, {name: part.restored() for name, part in parts})
            self.forget()

    def without_gates(self) -> fx.GraphModule:
        """The network that runs every block; it shares the weights."""
        graph = fx.GraphModule(self.network, self.network.graph.__deepcopy__())
        nodes = {node.name: node for node in graph.graph.nodes}
        for route in self.routes:
            join = nodes[route.join]
            with graph.graph.inserting_before(join):
                nodes[route.join] = graph.graph.call_function(operator.add, (nodes[route.shortcut], nodes[route.output]))
            join.replace_all_uses_with(nodes[route.join])
        graph.graph.eliminate_dead_code()
        graph.delete_all_unused_submodules()
        graph.recompile()
        return graph.train(self.training)

    def write_onnx(self, signature: Signature, path: Path, *, half: bool) -> None:
        """One file in which every branch stands in an If, and runs on the examples that take it."""
        self.eval()
        export_onnx(self._compact(), signature, path, half=half)
        model, found = conditional(onnx.load(path))
        if found != len(self.routes):
            raise EngineError(
                "export_failed",
                f"{found} of {len(self.routes)} blocks were found again in the exported graph.",
                hint="Please report this with the spec.",
                category="internal",
            )
        onnx.save_model(model, str(path))

    def _compact(self) -> fx.GraphModule:
        """The network with recurrent gates of as few operations as they can have; it shares all other weights."""
        gates = self.network.get_submodule(GATES)
        if not isinstance(cell := getattr(gates, "cell", None), nn.LSTMCell):
            return self.network
        step = Step(cell)
        compact = nn.Module()
        compact.cell, compact.head = step, gates.head
        compact.embeddings = nn.ModuleList(step.embedding(part, cell) for part in gates.embeddings.children())  # type: ignore[union-attr, arg-type]  # torch takes attributes of a module for tensors and modules
        graph = fx.GraphModule(self.network, self.network.graph)
        setattr(graph, GATES, compact.eval())
        return graph.eval()

    def _norms(self) -> list[tuple[str, nn.Module]]:
        inside = {name for route in self.routes for name in route.branch}
        targets = {str(node.target) for node in self.network.graph.nodes if node.name in inside and node.op == "call_module"}
        return [(name, self.network.get_submodule(name)) for name in sorted(targets)]

    def _give_decisions(self, *, inside: bool) -> None:
        nodes = {node.name: node for node in self.network.graph.nodes}
        for route in self.routes:
            for node in (nodes[name] for name in route.branch):
                if node.op == "call_module" and isinstance(self.network.get_submodule(str(node.target)), RoutedNorm):
                    node.args = (node.args[0], nodes[route.decision]) if inside else node.args[:1]
        self.network.recompile()


class Skipping(fx.Interpreter):
    """Runs a network with gates in which every branch computes the examples that take it, and nothing where there are none."""

    def __init__(self, network: fx.GraphModule, routes: Sequence[Route]) -> None:
        super().__init__(network, garbage_collect_values=False)
        self._nodes = {node.name: node for node in network.graph.nodes}
        self._inside = {name for route in routes for name in route.branch}
        self._joins = {route.join: route for route in routes}

    def run_node(self, n: fx.Node) -> Any:
        """Branches wait for their join."""
        if n.name in self._inside:
            return None
        route = self._joins.get(n.name)
        return super().run_node(n) if route is None else self._join(route)

    def _join(self, route: Route) -> Tensor:
        shortcut: Tensor = self.env[self._nodes[route.shortcut]]
        places = self.env[self._nodes[route.decision]].nonzero().flatten()
        if len(places) == 0:
            return shortcut
        everything = len(places) == len(shortcut)
        kept = {name: self.env[self._nodes[name]] for name in route.rows}
        try:
            if not everything:
                self.env.update({self._nodes[name]: value.index_select(0, places) for name, value in kept.items()})
            for name in route.branch:
                node = self._nodes[name]
                self.env[node] = super().run_node(node)
            branch: Tensor = self.env[self._nodes[route.output]]
        finally:
            self.env.update({self._nodes[name]: value for name, value in kept.items()})
            for name in route.branch:
                self.env[self._nodes[name]] = None
        if everything:
            return shortcut + branch
        joined: Tensor = shortcut.index_copy(0, places, shortcut.index_select(0, places) + branch)
        return joined


def swap_norms(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers in the places of others, by name."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer)
