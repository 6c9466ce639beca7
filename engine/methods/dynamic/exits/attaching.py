"""From a network to its form with exits: its own ones (MSDNet), or ones that are attached to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.dynamic.exits.confidence import Confidence
from engine.methods.dynamic.exits.heads import ExitHead, channels_last, head_width
from engine.methods.dynamic.exits.network import ExitNetwork
from engine.methods.dynamic.exits.positions import Positions
from engine.methods.dynamic.exits.stages import Exit, cut
from engine.methods.dynamic.exits.values import Traced, traced
from engine.methods.dynamic.spec_exits import EarlyExit

OWN_EXITS = "exits"
"""Method of a module that has exits of its own: it gives their outputs, the last exit's at the end."""


def with_exits(
    module: nn.Module, params: EarlyExit, heads: Sequence[Head], *, inputs: Sequence[Tensor], names: Sequence[str], seed: int
) -> tuple[ExitNetwork, list[str]]:
    """The network with all of its exits, and what each of them is called.

    Args:
        module: A copy of the network, which is changed: its layers become those of the result.
        params: Where exits stand, and what they are made of.
        heads: How its outputs are read.
        inputs: At least three examples.
        names: Of the inputs.
        seed: Initial weights of what is attached.

    Raises:
        EngineError: `layer_not_found`, `exit_after_last_layer`, `exit_position_invalid`, `no_exit_position`, `exits_impossible`.
    """
    module = module.eval()
    own = callable(getattr(module, OWN_EXITS, None))
    if own and params.positions != "auto":
        raise EngineError(
            "exit_position_invalid",
            "The network has exits of its own; positions cannot add others.",
            hint="Leave positions at auto, or upload the network as ONNX to attach exits to it.",
        )
    graph = traced(module, OWN_EXITS if own else "forward")
    frozen = frozenset(name for name, _ in module.named_modules() if name) if params.backbone == "keep" and not own else frozenset[str]()
    seen = Traced(graph, inputs)
    axes = dict(zip(names, (seen.values[node].batch_axis for node in graph.graph.nodes if node.op == "placeholder"), strict=True))
    exits = _own(seen, heads, params) if own else _attached(seen, heads, params, inputs, seed)
    seen = Traced(graph, inputs)
    network = ExitNetwork(cut(seen, exits, names), axes, len(exits[-1].outputs), frozen=frozen)
    if params.backbone == "keep":
        attached = {id(p) for layer in network.modules() if isinstance(layer, ExitHead) for p in layer.parameters()}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in attached)
    return network.eval(), [item.name for item in exits]


def _own(seen: Traced, heads: Sequence[Head], params: EarlyExit) -> list[Exit]:
    (output,) = (node for node in seen.graph.nodes if node.op == "output")
    found = []
    for place, node in enumerate(output.args[0]):
        assert isinstance(node, fx.Node)
        found.append(Exit(f"classifier {place + 1}", (node,), _confidence(seen, (node,), heads, params, place + 1)))
    return found


def _attached(seen: Traced, heads: Sequence[Head], params: EarlyExit, inputs: Sequence[Tensor], seed: int) -> list[Exit]:
    positions = Positions(seen, inputs)
    places = positions.spread(params.exits) if params.positions == "auto" else positions.named(params.positions)
    (output,) = (node for node in seen.graph.nodes if node.op == "output")
    ends = (output.args[0],) if isinstance(output.args[0], fx.Node) else tuple(output.args[0])
    by_index = {index: head for head in heads for index in head.indices}
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, (name, node) in enumerate(places, 1):
            shape = [size or 1 for size in seen.values[node].shape[1:]]
            last = channels_last(seen.module, node)
            width = head_width(params.head, shape, last=last, width=params.head_channels, whole=positions.whole)
            outputs = []
            after = node
            for index, end in enumerate(ends):
                head = ExitHead(shape, by_index[index], seen.values[end].shape[1:], last=last, width=width)
                target = f"exit{number}" if len(ends) == 1 else f"exit{number}_{index}"
                after = _added(seen, target, head, (node,), after)
                outputs.append(after)
            found.append(Exit(name, tuple(outputs), _confidence(seen, outputs, heads, params, number)))
    found.append(Exit("end of the network", ends, _confidence(seen, ends, heads, params, len(places) + 1)))
    return found


def _confidence(seen: Traced, outputs: Sequence[fx.Node], heads: Sequence[Head], params: EarlyExit, number: int) -> fx.Node:
    order = {node: place for place, node in enumerate(seen.graph.nodes)}
    last = max(outputs, key=lambda node: order[node])
    return _added(seen, f"confidence{number}", Confidence(heads, params.confidence), tuple(outputs), last)


def _added(seen: Traced, target: str, layer: nn.Module, read: Sequence[fx.Node], after: fx.Node) -> fx.Node:
    """Call a new layer behind a node of the graph."""
    while hasattr(seen.module, target):
        target += "_"
    seen.module.add_module(target, layer.eval())
    with seen.graph.inserting_after(after):
        return seen.graph.call_module(target, tuple(read))
