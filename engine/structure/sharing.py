"""Layers that share a weight: which cuts leave it to them, and which would leave each of them with one of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from engine.structure.channels import ChannelGroup


def sharers(module: nn.Module) -> dict[int, int]:
    """How many layers read a weight, by its id, where several do."""
    found: dict[int, int] = defaultdict(int)
    for layer in module.modules():
        for value in layer.parameters(recurse=False):
            if value.dim() > 1:
                found[id(value)] += 1
    return {key: count for key, count in found.items() if count > 1}


def unties(group: ChannelGroup, shared: Mapping[int, int]) -> bool:
    """Whether cutting the group takes other slices from one of the layers that share a weight than from another."""
    readers: dict[int, list[Slices]] = defaultdict(list)
    for layer, slices in _slices(group).items():
        for value in layer.parameters(recurse=False):
            if id(value) in shared:
                readers[id(value)].append(slices)
    return any(len(found) < shared[weight] or len(set(found)) > 1 for weight, found in readers.items())


def tied(group: ChannelGroup) -> list[list[tuple[nn.Module, str]]]:
    """Weights of layers of the group that are one weight, and of which cutting the group takes the same slices."""
    readers: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for layer in {id(part.layer): part.layer for part in group.parts if isinstance(part.layer, nn.Module)}.values():
        for name, value in layer.named_parameters(recurse=False):
            readers[id(value)].append((layer, name))
    several = [found for found in readers.values() if len(found) > 1]
    if not several:
        return []
    slices, alike = _slices(group), defaultdict[tuple[int, Slices], list[tuple[nn.Module, str]]](list)
    for number, found in enumerate(several):
        for layer, name in found:
            alike[number, slices[layer]].append((layer, name))
    return [found for found in alike.values() if len(found) > 1]


def tie(places: Sequence[Sequence[tuple[nn.Module, str]]]) -> None:
    """Give the places of each list the first one's parameter."""
    for (first, name), *others in places:
        value = getattr(first, name)
        for layer, other in others:
            if getattr(layer, other).shape == value.shape:
                setattr(layer, other, value)


Slices = frozenset[tuple[int | None, tuple[int, ...], tuple[int, ...]]]
"""What a group takes of a layer: along which dimension, and which slice goes with which channel."""


def _slices(group: ChannelGroup) -> dict[nn.Module, Slices]:
    found: dict[nn.Module, set[tuple[int | None, tuple[int, ...], tuple[int, ...]]]] = defaultdict(set)
    for part in group.parts:
        if isinstance(part.layer, nn.Module):
            found[part.layer].add((part.along, tuple(part.indices.tolist()), tuple(part.channels.tolist())))
    return {layer: frozenset(slices) for layer, slices in found.items()}
