"""Where exits are attached: behind the layers that a spec names, or spread over the multiply-accumulates of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.formats.onnx.counting import multiplications, on_meta
from engine.methods.dynamic.exits.values import Traced
from engine.networks.layers import layer_not_found, matches

_BEHIND = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.Dropout,
    nn.Dropout2d, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.PReLU,
)  # fmt: skip
"""Layers that belong to the one before them: an exit stands behind them."""


class Positions:
    """The places of one network behind which an exit can stand."""

    def __init__(self, traced: Traced, inputs: Sequence[Tensor]) -> None:
        self._traced = traced
        self._order = {node: place for place, node in enumerate(traced.graph.nodes)}
        (output,) = (node for node in traced.graph.nodes if node.op == "output")
        self._ends = output.all_input_nodes
        self._needed = traced.before(self._ends)
        self._spent = _spent(traced.module, [value[:1] if value.ndim else value for value in inputs])
        self.whole = sum(self._spent.values())
        """Multiply-accumulates of one example."""
        self._macs = {node: sum(self._spent[item] for item in traced.before([node])) for node in self._needed}

    def named(self, patterns: Sequence[str]) -> list[tuple[str, fx.Node]]:
        """The places that patterns name, with the layer of each, in the order in which the network computes them.

        Raises `layer_not_found`, `exit_after_last_layer` and `exit_position_invalid`.
        """
        layers = {name: layer for name, layer in self._traced.module.named_modules() if name}
        calls = [node for node in self._traced.graph.nodes if node.op == "call_module" and node in self._needed]
        found: dict[fx.Node, str] = {}
        for pattern in patterns:
            own = [node for node in calls if matches(pattern, str(node.target), layers[str(node.target)])]
            if not own:
                raise layer_not_found(f"positions: {pattern!r}", pattern, dict.fromkeys(str(node.target) for node in calls))
            last = own[-1]
            node = self._behind(last)
            name = str(last.target)
            self._check(node, name)
            if node in found:
                raise EngineError(
                    "exit_position_invalid",
                    f"positions: {pattern!r} and {found[node]!r} stand at the same place, behind {name!r}.",
                    hint="Name each place once.",
                    details={"position": name},
                )
            found[node] = name
        ordered = sorted(found, key=lambda node: self._order[node])
        return [(found[node], node) for node in ordered]

    def spread(self, count: int) -> list[tuple[str, fx.Node]]:
        """`count` places at equal distances in multiply-accumulates, or as many as there are.

        Places through which everything later passes are preferred: nothing else has to be carried on. Raises `no_exit_position`.
        """
        fit = [node for node in self._needed if self._fits(node)]
        fit.sort(key=lambda node: self._order[node])
        narrow = [node for node in fit if self._is_narrow(node)]
        # Of several places with the same cost before them, the last one has seen normalization and activation.
        best = {self._macs[node]: node for node in narrow or fit}
        if not best:
            raise EngineError(
                "no_exit_position",
                "The network has no place for an exit: before its last layer with weights there is nothing of which an answer could be made.",
                hint="Early exits need a network of at least two layers with weights.",
            )
        chosen: dict[int, fx.Node] = {}
        for place in range(1, count + 1):
            wanted = self.whole * place / (count + 1)
            left = [macs for macs in best if macs not in chosen]
            if left:
                nearest = min(left, key=lambda macs: abs(macs - wanted))
                chosen[nearest] = best[nearest]
        return [(self._name(chosen[macs]), chosen[macs]) for macs in sorted(chosen)]

    def _fits(self, node: fx.Node) -> bool:
        value = self._traced.values.get(node)
        return (
            value is not None
            and node.op not in ("placeholder", "get_attr", "output")
            and value.batch_axis == 0
            and value.dtype.is_floating_point
            and len(value.shape) >= 2
            and 0 < self._macs[node] < self.whole
        )

    def _is_narrow(self, node: fx.Node) -> bool:
        """Whether all that is computed later reads this value alone, of what was computed before it."""
        before = self._traced.before([node])
        crossing = {item for item in before if any(user in self._needed and user not in before for user in item.users)}
        return {item for item in crossing if not self._traced.repeated(item)} == {node}

    def _behind(self, node: fx.Node) -> fx.Node:
        """The end of the normalization, activation and sums that only this value goes into."""
        while True:
            users = [user for user in node.users if user in self._needed]
            if len(users) != 1 or not self._same_form(node, users[0]):
                return node
            node = users[0]

    def _same_form(self, node: fx.Node, user: fx.Node) -> bool:
        if user.op == "output" or user not in self._traced.values or self._traced.values[user].shape != self._traced.values[node].shape:
            return False
        if user.op == "call_module":
            return isinstance(self._traced.module.get_submodule(str(user.target)), _BEHIND)
        # A sum of branches counts no multiplication; what its other branch costs is part of the block.
        return self._spent.get(user, 0) == 0

    def _check(self, node: fx.Node, name: str) -> None:
        value = self._traced.values.get(node)
        if self._macs[node] >= self.whole:
            raise EngineError(
                "exit_after_last_layer",
                f"An exit behind {name!r} would save nothing: no layer that multiplies comes after it.",
                hint="Name earlier layers, or leave positions at auto.",
                details={"position": name},
            )
        if value is None or value.batch_axis != 0 or not value.dtype.is_floating_point or len(value.shape) < 2:
            raise EngineError(
                "exit_position_invalid",
                f"Behind {name!r} there are no features of single examples"
                + ("." if value is None else f", but {str(value.dtype).removeprefix('torch.')} values of shape {list(value.shape)}."),
                hint="Choose a layer that gives one vector or feature map an example, or leave positions at auto.",
                details={"position": name},
            )

    def _name(self, node: fx.Node) -> str:
        """The last layer before a place, for people."""
        before = self._traced.before([node])
        calls = [item for item in before if item.op == "call_module" and self._spent.get(item, 0)] or [
            item for item in before if item.op == "call_module"
        ]
        return str(max(calls, key=lambda item: self._order[item]).target) if calls else node.name


def _spent(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Mapping[fx.Node, int]:
    """Multiply-accumulates of each node, for one example."""
    empty = on_meta(module)
    assert isinstance(empty, fx.GraphModule)
    counts: list[int] = []

    class Counting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            before = counter.get_total_flops()
            result = super().run_node(n)
            counts.append((int(counter.get_total_flops()) - int(before)) // 2)
            return result

    with torch.device("meta"), multiplications(empty) as counter:
        Counting(empty, garbage_collect_values=True).run(*(value.to("meta") for value in inputs))
    assert len(counts) == len(module.graph.nodes)
    assert math.isfinite(sum(counts))
    return dict(zip(module.graph.nodes, counts, strict=True))
