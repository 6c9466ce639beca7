"""Which channels of a network can be removed, and what goes with each of them, as plain data.

Groups of units, each unit a set of channels that can only go together, with the slices of all layers ("parts") that vanish with them
through residual connections, concatenations, depthwise convolutions or a flatten (as in DepGraph, Fang et al., CVPR 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.networks.layers import CONVOLUTIONS, PRUNABLE

Inputs = tuple[Tensor, ...]
_MIXES_CHANNELS = (nn.LayerNorm, nn.GroupNorm)
"""Layers that compute with all channels of an example at once: a masked channel still counts in them, a removed one does not."""


@dataclass(frozen=True)
class Part:
    """The slices of one layer or bare parameter that belong to a group: slice `indices[i]` goes with channel `channels[i]`."""

    layer: Any
    """The module, or the parameter or buffer itself."""
    outgoing: bool
    """Slices of the layer's outputs (rows, filters, normalized channels), not of its inputs."""
    indices: Tensor
    channels: Tensor
    dimension: int = 0
    """Where the slices of a bare parameter lie."""
    owner: nn.Module | None = None
    """The recurrent layer that a bare parameter belongs to."""

    @property
    def producing(self) -> bool:
        """The layer computes these channels."""
        return self.outgoing and (isinstance(self.layer, PRUNABLE) or self.owner is not None)

    @property
    def consuming(self) -> bool:
        """A convolution or linear layer reads these channels through its weights."""
        return not self.outgoing and isinstance(self.layer, PRUNABLE)

    @property
    def recurrent(self) -> bool:
        """A recurrent layer reads these channels, or its own units, through its weights."""
        return not self.outgoing and self.owner is not None

    def rows(self, tensor: Tensor) -> Tensor:
        """The slices of `tensor`, which has the shape of the layer's weight, as a matrix with one row for each of `indices`."""
        index = self.indices.to(tensor.device)
        if isinstance(self.layer, CONVOLUTIONS):
            return _filters(self.layer, tensor, index, outgoing=self.outgoing)
        if isinstance(self.layer, nn.Linear):
            return tensor.movedim(0 if self.outgoing else 1, 0)[index].flatten(1)
        if isinstance(self.layer, nn.Embedding):
            return tensor.movedim(1, 0)[index].flatten(1)
        return tensor.movedim(self.dimension, 0)[index].reshape(len(index), -1)

    @property
    def along(self) -> int | None:
        """The dimension of the weight that the slices lie in; None where each stands once for every group of a convolution."""
        if isinstance(self.layer, CONVOLUTIONS):
            along = int(self.outgoing == self.layer.transposed)
            return along if self.layer.groups == 1 or along == 0 else None
        if isinstance(self.layer, nn.Linear):
            return 0 if self.outgoing else 1
        return 1 if isinstance(self.layer, nn.Embedding) else self.dimension

    def powers(self, power: int) -> Tensor:
        """For each slice the sum of its weights' absolute values to the `power` (1 or 2)."""
        weight = self.weight
        assert weight is not None
        if self.along is None:
            return self.rows(weight).abs().pow(power).sum(1)
        others = [place for place in range(weight.dim()) if place != self.along]
        norms = torch.linalg.vector_norm(weight, power, others) if others else weight.abs()
        return norms.pow(power)[self.indices.to(weight.device)]

    @property
    def weight(self) -> Tensor | None:
        """The parameter or buffer that the slices are cut from, if the layer has one."""
        if isinstance(self.layer, Tensor):
            return self.layer
        value = getattr(self.layer, "weight", None)
        return value if isinstance(value, nn.Parameter) else None


def _filters(layer: Any, tensor: Tensor, index: Tensor, *, outgoing: bool) -> Tensor:
    """Rows of a convolution's kernel, (out, in / groups, …) or transposed (in, out / groups, …)."""
    along = int(outgoing == layer.transposed)
    if layer.groups == 1 or along == 0:
        return tensor.movedim(along, 0)[index].flatten(1)
    if is_single(layer):
        return tensor.flatten(0, 1)[index].flatten(1)
    # Slice i of the second dimension stands once for each group.
    cells = tensor.reshape(layer.groups, tensor.shape[0] // layer.groups, *tensor.shape[1:])
    width = tensor.shape[1]
    return cells[torch.div(index, width, rounding_mode="floor"), :, index % width].flatten(1)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are ranked together because each of them ties the same layers."""

    name: str
    """Name of the layer that produces the channels (the first one, where several do)."""
    layers: tuple[str, ...]
    """Names of all convolutions and linear layers that produce them."""
    units: Tensor
    """Channels of each unit, (units, channels of a unit); one channel a unit unless grouped convolutions or norms tie several."""
    parts: tuple[Part, ...]
    heads: bool = False
    """The units are heads of an attention."""

    @property
    def channels_count(self) -> int:
        """Number of channels in the group."""
        return self.units.numel()

    @property
    def mixes(self) -> bool:
        """A layer computes with all channels of an example at once, so that a channel that carries zero still counts in it."""
        return any(isinstance(part.layer, _MIXES_CHANNELS) for part in self.parts)

    def unit_sums(self, values: Tensor) -> Tensor:
        """Sum per unit of one value per channel."""
        return values[self.units.to(values.device)].sum(dim=1)

    def per_channel(self, parts: Iterable[tuple[Part, Tensor]]) -> Tensor:
        """Sum per channel over parts that each have one value per slice."""
        total: Tensor | None = None
        for part, values in parts:
            if total is None:
                total = torch.zeros(self.channels_count, dtype=values.dtype, device=values.device)
            total.index_add_(0, part.channels.to(values.device), values)
        return torch.zeros(self.channels_count) if total is None else total


def is_single(layer: nn.Module) -> bool:
    """A convolution whose groups read one input channel each: depthwise, with one filter a channel or several."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1


def own_parameters(module: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Give each of the module's `layers` parameters of its own, as cutting does: what is tied to others changes with them otherwise."""
    chosen = set(layers)
    uses = [(layer, name, value) for layer in module.modules() for name, value in layer.named_parameters(recurse=False)]
    left = Counter(id(value) for _, _, value in uses)
    for layer, name, value in uses:
        if layer in chosen and left[id(value)] > 1:
            left[id(value)] -= 1
            setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))


@torch.no_grad()
def mask_channels(group: ChannelGroup, channels: Tensor) -> None:
    """Zero everything that goes with the channels, in place: without layers that mix channels, the same as cutting them."""
    for part in group.parts:
        zero_slices(part, part.indices[torch.isin(part.channels, channels)])


@torch.no_grad()
def zero_slices(part: Part, indices: Tensor) -> None:
    """Mask slices of a part in place, so that the channel carries zero and nobody reads it."""
    if part.weight is None:
        return
    if part.along is not None:
        part.weight.index_fill_(part.along, indices.to(part.weight.device), 0)
    else:
        _zero_cells(part, part.weight, indices)
    bias = getattr(part.layer, "bias", None)
    if part.outgoing and isinstance(bias, nn.Parameter):
        bias[indices] = 0
    if isinstance(part.layer, _BatchNorm) and part.layer.running_mean is not None:
        part.layer.running_mean[indices] = 0


def _zero_cells(part: Part, weight: Tensor, indices: Tensor) -> None:
    chosen = Part(part.layer, part.outgoing, indices, indices, part.dimension)
    marks = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    # Mark entries through the same view that `rows` takes: positions are told apart by their number.
    numbers = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
    marks.view(-1)[chosen.rows(numbers).reshape(-1)] = True
    weight[marks] = 0
