"""Narrow copies of a network whose weights are slices of the wide one's: which places of each tensor a copy keeps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.structure.graph import ChannelGraph
from engine.structure.imagination import shared_copy


@dataclass(frozen=True)
class Slices:
    """Places of a tensor that a narrow copy keeps, ascending, by dimension; a dimension that is kept whole is missing."""

    kept: Mapping[int, Tensor]

    def of(self, value: Tensor) -> Tensor:
        """The kept part, contiguous, so that kernels see it as they see a tensor of its own. Gradients flow back into `value`."""
        last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
        for dimension, index in self.kept.items():
            size = len(index)
            if int(index[-1]) == size - 1:  # ascending: the first ones
                value = value.narrow(dimension, 0, size)
            else:
                value = value.index_select(dimension, index.to(value.device))
        return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def put(self, value: Tensor, part: Tensor) -> Tensor:
        """The whole tensor with another kept part. It is a new one: a backward pass may still look at the old."""
        places = [torch.arange(size) for size in value.shape]
        for dimension, index in self.kept.items():
            places[dimension] = index
        value = value.clone()
        value[torch.meshgrid(*places, indexing="ij")] = part
        return value

    @classmethod
    def found(cls, numbers: Tensor, shape: torch.Size) -> Slices:
        """From the flat places that are left of a tensor of `shape`."""
        kept = {}
        stride = 1
        for dimension in reversed(range(len(shape))):
            if numbers.shape[dimension] != shape[dimension]:
                line = numbers.movedim(dimension, -1).reshape(-1, numbers.shape[dimension])[0]
                kept[dimension] = line.div(stride, rounding_mode="floor") % shape[dimension]
            stride *= shape[dimension]
        return cls(dict(sorted(kept.items())))


@dataclass(frozen=True)
class Place:
    """A tensor of a narrow copy that is a slice of one of the wide network's."""

    layer: nn.Module
    """Of the narrow copy."""
    name: str
    """Of the tensor in its layer."""
    source: nn.Module
    """The same layer of the wide network."""
    slices: Slices

    @property
    def whole(self) -> Tensor:
        """The wide network's tensor."""
        value: Tensor = getattr(self.source, self.name)
        return value


def narrow(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> tuple[nn.Module, list[Place]]:
    """A copy of the graph's module with the given units of its groups, and which of its tensors are slices of the module's.

    Tensors that no group ties are the module's own, whole. A tensor that the cut computes anew (the scale of an RMSNorm over fewer
    channels, a table of places) is no slice: the copy has it for itself.
    """
    module = graph.module
    made, marked = shared_copy(module), _numbered(module)
    for twin in (made, marked):
        on = graph.on(twin)
        for group in on.groups:
            if group.name in kept and len(kept[group.name]) < len(group.units):
                left = torch.zeros(len(group.units), dtype=torch.bool)
                left[kept[group.name]] = True
                on.remove(group, group.units[~left].reshape(-1).tolist())
    wide, numbered = dict(module.named_modules()), dict(marked.named_modules())
    places = []
    for path, layer in made.named_modules():
        for name, _ in list(tensors_of(layer)):
            numbers, whole = getattr(numbered[path], name), getattr(wide[path], name, None)
            if whole is None or not whole.is_floating_point():
                continue
            if not (isinstance(layer, nn.RMSNorm) and numbers.shape != whole.shape):
                places.append(Place(layer, name, wide[path], Slices.found(numbers.detach().round().long(), whole.shape)))
    return made, places


def tensors_of(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A layer's own parameters and buffers, tied ones too."""
    yield from layer.named_parameters(recurse=False, remove_duplicate=False)
    yield from layer.named_buffers(recurse=False, remove_duplicate=False)


def _numbered(module: nn.Module) -> nn.Module:
    """A copy whose tensors hold the flat places of their own elements; those of integers are looked at while it is cut, and stay."""
    twins: dict[int, Any] = {}
    for value in (tensor for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()):
        numbers = torch.arange(value.numel(), dtype=torch.float64).reshape(value.shape)
        twins[id(value)] = nn.Parameter(numbers, requires_grad=False) if isinstance(value, nn.Parameter) else numbers
    return copy.deepcopy(module, twins)
