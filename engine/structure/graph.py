"""The dependency graph of a network: groups of channels that can be cut out of it, and the cutting.

Every channel that a layer computes gets a number, and the numbers are followed through one run of the network, element by element:
what meets in an element, or reads through the same slice of a weight, can only go together (DepGraph, Fang et al., CVPR 2023, found by
what operations do instead of by their kind). Heads of attention, halves of gated units, flattened or shuffled channels are all the same
to it. Layers whose channels cannot go are left whole and named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from engine.structure.channels import ChannelGroup, Inputs, Part, is_single
from engine.structure.cutting import cut_slices, refresh
from engine.structure.following import elementwise, layers, products, reductions, shaping
from engine.structure.following.follower import Follower
from engine.structure.following.ties import Ties, essence, varying
from engine.structure.grouping import Grouping
from engine.structure.imagination import LOOKS_AT_VALUES, evaluated, holds_places, imagined
from engine.structure.resizing import as_sum, kept_by, resize
from engine.structure.sharing import tie, tied

_RULES = elementwise.RULES | shaping.RULES | products.RULES | reductions.RULES


class ChannelGraph:
    """The dependency graph of one module in its present shape.

    Args:
        module: The network.
        inputs: What it is run with.
        only: Names of the groups that are asked for; by default all are found.
    """

    def __init__(self, module: nn.Module, inputs: Inputs, only: Collection[str] | None = None) -> None:
        with evaluated(module):
            try:
                if holds_places(module):
                    raise NotImplementedError
                drawn = imagined(module)
                outputs = self._followed(drawn, tuple(value.to("meta") for value in inputs))
            except LOOKS_AT_VALUES:
                drawn = module  # It looks at values, such as places of a table, which the meta device has not.
                outputs = self._followed(drawn, inputs)
        self._follower.fix(outputs, "")
        self._follower.settle()
        found = Grouping(self._follower, {layer: name for name, layer in drawn.named_modules()}, only)
        self.groups = found.groups
        self.fixed = found.fixed
        """Layers whose channels stay, with the reason; not those that make an output."""
        self._roots, self._numbers = found.roots, found.numbers
        self._bind(drawn)
        if drawn is not module:
            self.__dict__ = self.on(module).__dict__

    def _followed(self, module: nn.Module, inputs: Inputs) -> Any:
        self._follower = Follower(module, Ties(), _RULES, layers.LAYERS, shaping.MAKING)
        return self._follower.run(inputs)

    def _bind(self, module: nn.Module) -> None:
        self.module = module
        self._gone = torch.zeros(len(self._roots), dtype=torch.bool)
        self._left: dict[tuple[int, bool, int], Tensor] = {}
        self._single = {layer for layer in module.modules() if is_single(layer)}
        self._holders: dict[int, list[tuple[nn.Module, str]]] = {}
        for owner in module.modules():
            for name, value in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                self._holders.setdefault(id(value), []).append((owner, name))
        self._nodes = {node.name: node for node in module.graph.nodes} if isinstance(module, fx.GraphModule) else {}
        self._arguments = {
            made.node.name: tuple(self._nodes[made.node.name].args) for made in self._follower.resized if made.node.name in self._nodes
        }

    def on(self, twin: nn.Module) -> ChannelGraph:
        """The same graph for a copy of the module as it was when the graph was drawn, which may share tensors with it."""
        graph = object.__new__(ChannelGraph)
        graph.__dict__.update(self.__dict__)
        modules = dict(twin.named_modules())
        layers_there = {layer: modules[name] for name, layer in self.module.named_modules()}
        tensors = {
            id(value): getattr(layers_there[owner], name)
            for key, places in self._holders.items()
            for owner, name in places[:1]
            for value in [getattr(owner, name)]
            if id(value) == key
        }

        def moved(part: Part) -> Part:
            layer = tensors[id(part.layer)] if isinstance(part.layer, Tensor) else layers_there[part.layer]
            owner = None if part.owner is None else layers_there[part.owner]
            return Part(layer, part.outgoing, part.indices, part.channels, part.dimension, owner)

        graph.groups = [
            ChannelGroup(group.name, group.layers, group.units, tuple(moved(part) for part in group.parts), group.heads)
            for group in self.groups
        ]
        graph._bind(twin)
        return graph

    def remove(self, group: ChannelGroup, channels: Sequence[int]) -> None:
        """Cut the channels out of every layer that they tie, and out of the sizes that a traced network has written down.

        The group may be that of another drawing of the same network: its name says which one is meant. A weight of several layers that lose the same
        of it stays one.
        """
        group = next(own for own in self.groups if own.name == group.name)
        together = tied(group)
        marked = torch.tensor(sorted(channels))
        for part in group.parts:
            key = (id(part.layer), part.outgoing, part.dimension)
            length = _length(part)
            left = self._left.get(key, torch.arange(length))
            gone = torch.isin(left, part.indices[torch.isin(part.channels, marked)])
            self._left[key] = left[~gone]
            if isinstance(part.layer, Tensor):
                self._cut_bare(part, gone.nonzero().flatten())
            else:
                cut_slices(part, gone.nonzero().flatten(), single=part.layer in self._single)
        for owner in {part.owner for part in group.parts if isinstance(part.owner, nn.RNNBase)}:
            refresh(owner)
        tie(together)
        newly = self._numbers[group.name][torch.isin(group.units[:, 0], marked)]
        self._gone[newly] = True
        if isinstance(self.module, fx.GraphModule):
            self._resize(self.module, newly)

    def _cut_bare(self, part: Part, gone: Tensor) -> None:
        for owner, name in self._holders[id(part.layer)]:
            value = getattr(owner, name)
            if isinstance(owner, tuple(layers.LAYERS)) and owner is not part.owner:
                continue
            kept = torch.ones(value.shape[part.dimension], dtype=torch.bool)
            kept[gone] = False
            left = value.detach().index_select(part.dimension, kept.nonzero().flatten().to(value.device))
            setattr(owner, name, nn.Parameter(left, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else left)

    def _resize(self, module: fx.GraphModule, newly: Tensor) -> None:
        kept = kept_by(self._roots, self._gone)
        fresh = torch.zeros_like(self._gone)
        fresh[newly] = True

        def touched(families: Iterable[Tensor]) -> bool:
            return any(bool(fresh[self._roots[essence(numbers)[0]]].any()) for numbers in families)

        changed = False
        for made in self._follower.resized:
            if touched((*made.source, *(numbers for _, found in made.results for numbers in found))):
                node = self._nodes[made.node.name]
                changed |= resize(module, node, self._arguments[node.name], made, kept)
        for mean, shape, over in self._follower.averaged:
            node = self._nodes[mean.name]
            if touched(over) and not node._erased:
                value = as_sum(module.graph, node, shape, {dimension for numbers in over for dimension in varying(numbers)})
                self._arguments = {name: _with(value, node, given) for name, given in self._arguments.items()}
                changed = True
        if changed:
            module.recompile()


def _with(value: fx.Node, old: fx.Node, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a node with one value put in the place of another."""
    replaced: Any = fx.node.map_arg(arguments, lambda item: value if item is old else item)
    return tuple(replaced)


def _length(part: Part) -> int:
    """Slices that a layer has now along the part's dimension."""
    layer = part.layer
    if isinstance(layer, Tensor):
        return layer.shape[part.dimension]
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return int(layer.normalized_shape[0])
    names = ("out_channels", "out_features", *_WIDTHS) if part.outgoing else ("in_channels", "in_features")
    return next(int(getattr(layer, name)) for name in names if hasattr(layer, name))


_WIDTHS = ("num_features", "num_channels", "num_parameters", "embedding_dim")


def leaves(value: Any) -> list[Tensor]:
    """The tensors among a network's outputs."""
    return [item for item in tree_leaves(value) if isinstance(item, Tensor)]
