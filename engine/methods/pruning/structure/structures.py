"""Structures that one factor can switch off: neurons (channels), groups of grouped convolutions, residual blocks.

Each factor multiplies weights, so that it can be folded into them. A channel's factor stands on the layers that read it: behind
batch normalization, where a factor on the filter itself would be normalized away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from engine.contract.params import LayerChoice
from engine.networks.layers import CONVOLUTIONS, matches
from engine.structure.blocks import Block, remove_blocks
from engine.structure.channels import ChannelGroup, Inputs, Part, is_single
from engine.structure.cutting import cut_slices
from engine.structure.graph import ChannelGraph

Remove = Callable[[nn.Module, Inputs, list[int]], nn.Module]


@dataclass(frozen=True)
class Structures:
    """Things of one kind in one place, each with its own factor."""

    name: str
    kind: str
    count: int
    readers: tuple[tuple[nn.Module, str, Tensor], ...]
    """Layer, name of its parameter, and for each of its entries the number of its factor, or `count` for none; broadcastable."""
    remove: Remove
    """Takes the structures with the given numbers out of a module whose factors were folded."""
    channels_per_structure: int = 1


class Factors(nn.Module):
    """The factors of one place, all of them one at first."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(count))


class Scaled(nn.Module):
    """Parametrization weight ↦ weight · factor, the same factors for all readers of a structure."""

    index: Tensor

    def __init__(self, factors: Factors, index: Tensor) -> None:
        super().__init__()
        self.factors = factors
        self.register_buffer("index", index)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees."""
        padded = torch.cat([self.factors.values, self.factors.values.new_ones(1)])
        return weight * padded[self.index]


def attach(structures: Structures) -> Factors:
    """Put the factors in place; the module computes what it did before."""
    factors = Factors(structures.count)
    for layer, name, index in structures.readers:
        device = getattr(layer, name).device
        parametrize.register_parametrization(layer, name, Scaled(factors.to(device), index.to(device)))
    return factors


def neurons(group: ChannelGroup) -> Structures | None:
    """The channels of a group; None where something else than weights reads them in a way that a factor of zero does not stop."""
    if group.mixes or any(part.recurrent for part in group.parts) or not any(_reads(part) for part in group.parts):
        return None
    owner = torch.empty(group.channels_count, dtype=torch.long)
    owner[group.units] = torch.arange(len(group.units))[:, None].expand_as(group.units)

    def remove(module: nn.Module, inputs: Inputs, dead: list[int]) -> nn.Module:
        graph = ChannelGraph(module, inputs, [group.name])
        (present,) = graph.groups
        graph.remove(present, present.units[dead].reshape(-1).tolist())
        return module

    readers = _readers(group, owner, len(group.units))
    return Structures(group.name, "neuron", len(group.units), readers, remove, group.units.shape[1])


def conv_groups(module: nn.Module, groups: Sequence[ChannelGroup], choice: LayerChoice) -> list[Structures]:
    """The groups of every grouped convolution whose inputs nobody else reads, and whose outputs nothing else is added to."""
    found = []
    for name, layer in module.named_modules():
        if not (isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not layer.transposed and not is_single(layer)):
            continue
        before = next((g for g in groups if [part.layer for part in g.parts if part.consuming] == [layer]), None)
        behind = next((g for g in groups if g.layers == (name,)), None)
        chosen = (not choice.include or any(matches(p, name, layer) for p in choice.include)) and not any(
            matches(p, name, layer) for p in choice.ignore
        )
        if chosen and before and behind and not behind.mixes and all(_sliceable(part, layer) for part in (*before.parts, *behind.parts)):
            owner = torch.arange(layer.out_channels) // (layer.out_channels // layer.groups)
            readers = _readers(behind, owner, layer.groups)
            found.append(Structures(name, "group", layer.groups, readers, _group_remover(name), layer.out_channels // layer.groups))
    return found


def block(module: nn.Module, found: Block) -> Structures:
    """One residual block: a factor on everything that its last layer adds to the shortcut."""
    tail = module.get_submodule(found.tail)
    names = [name for name in ("weight", "bias") if isinstance(getattr(tail, name), nn.Parameter)]
    readers = tuple((tail, name, torch.zeros((), dtype=torch.long)) for name in names)
    return Structures(found.tail, "block", 1, readers, lambda module, _, dead: remove_blocks(module, {found.tail}) if dead else module)


def _readers(group: ChannelGroup, owner: Tensor, count: int) -> tuple[tuple[nn.Module, str, Tensor], ...]:
    """Everything that reads the group's channels; `owner` is the number of each channel's factor."""
    indices: dict[nn.Module, Tensor] = {}
    for part in group.parts:
        if _reads(part):
            layer = part.layer
            shape = (*layer.weight.shape[:2], *(1 for _ in layer.weight.shape[2:]))
            positions = torch.arange(math.prod(shape)).reshape(shape)
            rows = part.rows(positions)
            index = indices.setdefault(layer, torch.full(shape, count))
            index.view(-1)[rows] = owner[part.channels][:, None].expand_as(rows)
    return tuple((layer, "weight", _narrow(index)) for layer, index in indices.items())


def _narrow(index: Tensor) -> Tensor:
    """One row or column for all, where they are the same."""
    for dimension in (0, 1):
        first = index.narrow(dimension, 0, 1)
        if bool((index == first).all()):
            index = first
    return index


def _reads(part: Part) -> bool:
    return part.consuming and not is_single(part.layer)


def _sliceable(part: Part, conv: nn.Module) -> bool:
    layer = part.layer
    plain = isinstance(layer, CONVOLUTIONS) and layer.groups == 1 and not layer.transposed
    return layer is conv or plain or isinstance(layer, nn.Linear | _BatchNorm)


def _group_remover(name: str) -> Remove:
    def remove(module: nn.Module, inputs: Inputs, dead: list[int]) -> nn.Module:
        conv = module.get_submodule(name)
        assert isinstance(conv, CONVOLUTIONS)
        groups = ChannelGraph(module, inputs).groups
        before = next(g for g in groups if [part.layer for part in g.parts if part.consuming] == [conv])
        behind = next(g for g in groups if g.layers == (name,))
        number = conv.groups
        for group in (before, behind):
            width = group.channels_count // number
            gone = torch.isin(torch.arange(group.channels_count) // width, torch.tensor(dead))
            for part in group.parts:
                if not (part.layer is conv and part.consuming):
                    cut_slices(part, part.indices[gone[part.channels]])
        conv.groups = number - len(dead)
        conv.in_channels = conv.in_channels // number * conv.groups
        return module

    return remove
