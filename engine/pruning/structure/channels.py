"""Which channels of a network can be removed, and what goes with each of them.

The dependency graph of torch-pruning (Fang et al., DepGraph, CVPR 2023) finds the slices of all layers that a channel ties together
through residual connections, concatenations, depthwise convolutions or a flatten. Here they become plain data: groups of units, each
unit a set of channels that can only go together, with the slices ("parts") that vanish with them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.layers import CONVOLUTIONS, PRUNABLE
from engine.pruning.structure import heads

Inputs = tuple[Tensor, ...]
_MIXES_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention)
"""Layers that compute with all channels of an example at once: a masked channel still counts in them, a removed one does not."""


@dataclass(frozen=True)
class Part:
    """The slices of one layer or bare parameter that belong to a group: slice `indices[i]` goes with channel `channels[i]`."""

    layer: Any
    """The module, or the parameter itself."""
    outgoing: bool
    """Slices of the layer's outputs (rows, filters, normalized channels), not of its inputs."""
    indices: Tensor
    channels: Tensor
    dimension: int = 0
    """Where the slices of a bare parameter lie."""

    @property
    def producing(self) -> bool:
        """The layer computes these channels."""
        return self.outgoing and isinstance(self.layer, PRUNABLE)

    @property
    def consuming(self) -> bool:
        """The layer reads these channels through its weights."""
        return not self.outgoing and isinstance(self.layer, PRUNABLE)

    def rows(self, tensor: Tensor) -> Tensor:
        """The slices of `tensor`, which has the shape of the layer's weight, as a matrix with one row for each of `indices`."""
        index = self.indices.to(tensor.device)
        if isinstance(self.layer, CONVOLUTIONS):
            transposed, groups = self.layer.transposed, self.layer.groups
            if groups > 1 and not (self.outgoing or is_depthwise(self.layer)):
                # weight (out, in / groups, …): input i meets only the outputs of its own group.
                cells = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
                width = tensor.shape[1]
                return cells[torch.div(index, width, rounding_mode="floor"), :, index % width].flatten(1)
            along = 0 if is_depthwise(self.layer) else int(self.outgoing == transposed)
            return tensor.movedim(along, 0)[index].flatten(1)
        if isinstance(self.layer, nn.Linear):
            return tensor.movedim(0 if self.outgoing else 1, 0)[index].flatten(1)
        return tensor.movedim(self.dimension, 0)[index].reshape(len(index), -1)

    @property
    def weight(self) -> nn.Parameter | None:
        """The parameter that the slices are cut from, if the layer has one."""
        value = self.layer if isinstance(self.layer, nn.Parameter) else getattr(self.layer, "weight", None)
        return value if isinstance(value, nn.Parameter) else None


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


class ChannelGraph:
    """The dependency graph of one module in its present shape."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        import torch_pruning

        self.module = module
        self._pruning = torch_pruning
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        mode = module.training
        with torch.enable_grad():
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                module, example_inputs=inputs, forward_fn=lambda m, x: m(*x), output_transform=_marked_outputs, verbose=False
            )
        module.train(mode)
        self._names = {layer: name for name, layer in module.named_modules()}
        attentions = [self._heads_group(found) for found in heads.find(module, inputs)]
        whole = {name for group in attentions for name in group.layers}
        found = (self._group(item) for item in self._graph.get_all_groups(root_module_types=PRUNABLE))
        self.groups = [group for group in found if group is not None and not whole & set(group.layers)] + attentions

    def remove(self, group: ChannelGroup, channels: Sequence[int]) -> None:
        """Cut the channels out of every layer that they tie."""
        if group.heads:
            marked = torch.tensor(sorted(channels))
            for part in group.parts:
                cut_slices(part, part.indices[torch.isin(part.channels, marked)])
            return
        root = self.module.get_submodule(group.name)
        function = self._graph.get_pruner_of_module(root).prune_out_channels
        self._graph.get_pruning_group(root, function, sorted(channels)).prune(record_history=False)

    def _group(self, found: Any) -> ChannelGroup | None:
        """The group as plain data; None where its channels leave the network or cannot be cut evenly."""
        kinds = self._pruning.ops.OPTYPE
        parts, names, blocks = [], [], 1
        count = len(found[0].idxs)
        for item in found:
            node, handler = item.dep.target, item.dep.handler
            if node.type == kinds.OUTPUT:
                return None
            if any(root is None for root in item.root_idxs):
                return None
            outgoing = bool(self._graph.is_out_channel_pruning_fn(handler))
            layer = node.module
            if outgoing and isinstance(layer, PRUNABLE):
                names.append(self._names[layer])
            if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer):
                if layer.transposed:
                    return None
                blocks = math.lcm(blocks, layer.groups)
            if isinstance(layer, nn.GroupNorm):
                blocks = math.lcm(blocks, layer.num_groups)
            if isinstance(layer, nn.Parameter) or (isinstance(layer, nn.Module) and layer in self._names):
                indices, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
                parts.append(Part(layer, outgoing, indices, channels, node.pruning_dim if isinstance(layer, nn.Parameter) else 0))
        if count % blocks:
            return None
        units = torch.arange(count).reshape(blocks, count // blocks).T.contiguous()
        return ChannelGroup(names[0], tuple(dict.fromkeys(names)), units, tuple(parts))

    def _heads_group(self, found: heads.Heads) -> ChannelGroup:
        """The heads of an attention as units; a head has as many channels as its widest layer has rows for it."""
        width = max(len(lists[0]) for lists in found.producers.values())
        parts = []
        for side, outgoing in ((found.producers, True), (found.consumers, False)):
            for layer, lists in side.items():
                channels = [head * width + place for head, rows in enumerate(lists) for place in range(len(rows))]
                parts.append(Part(layer, outgoing, torch.tensor([row for rows in lists for row in rows]), torch.tensor(channels)))
        names = tuple(self._names[layer] for layer in found.producers)
        return ChannelGroup(names[0], names, torch.arange(found.count * width).reshape(found.count, width), tuple(parts), heads=True)


def is_depthwise(layer: nn.Module) -> bool:
    """A convolution that gives every input channel one filter of its own."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.out_channels == layer.in_channels and layer.groups > 1


def removable(module: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """Those of the named groups whose channels can really be cut out, found by trying on a copy.

    A group is kept out where the cut network does not run, changes the shape of an output, or computes something else than the
    network with the same channels masked: its graph does something with channels that the dependency graph does not see, such as a
    reshape to a fixed size, adding the network's input, or shuffling channels.
    """
    if _agrees(module, inputs, names):
        return list(names)
    if len(names) == 1:
        return []
    half = len(names) // 2
    found = removable(module, inputs, names[:half]) + removable(module, inputs, names[half:])
    while found and not _agrees(module, inputs, found):
        found.pop()
    return found


def _agrees(module: nn.Module, inputs: Inputs, names: Sequence[str]) -> bool:
    """Cut one unit of every named group out of a copy and compare with the same units masked."""
    cut, masked = (copy.deepcopy(module).eval() for _ in range(2))
    try:
        for exact in (True, False):
            graph = ChannelGraph(cut, inputs)
            chosen = [g for g in graph.groups if g.name in names and len(g.units) > 1 and g.mixes != exact]
            if exact:
                wanted = {group.name: group.units[0].tolist() for group in chosen}
                _mask(ChannelGraph(masked, inputs), wanted)
            for group in chosen:
                graph.remove(group, group.units[0].tolist())
            with torch.no_grad():
                expected, got = _outputs(masked(*inputs)), _outputs(cut(*inputs))
            if [output.shape for output in got] != [output.shape for output in expected]:
                return False
            if exact and not all(_close(left, right) for left, right in zip(expected, got, strict=True)):
                return False
    except Exception:  # Whatever a cut network fails with, the answer is the same: these channels cannot be cut.
        return False
    return True


@torch.no_grad()
def _mask(graph: ChannelGraph, wanted: dict[str, list[int]]) -> None:
    for group in graph.groups:
        if group.name in wanted:
            mask_channels(group, torch.tensor(wanted[group.name]))


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
    chosen = Part(part.layer, part.outgoing, indices, indices, part.dimension)
    marks = torch.zeros_like(part.weight, dtype=torch.bool)
    # Mark entries through the same view that `rows` takes: positions are told apart by their number.
    numbers = torch.arange(part.weight.numel(), device=part.weight.device).reshape(part.weight.shape)
    marks.view(-1)[chosen.rows(numbers).reshape(-1)] = True
    part.weight[marks] = 0
    bias = getattr(part.layer, "bias", None)
    if part.outgoing and isinstance(bias, nn.Parameter):
        bias[indices] = 0
    if isinstance(part.layer, _BatchNorm) and part.layer.running_mean is not None:
        part.layer.running_mean[indices] = 0


@torch.no_grad()
def cut_slices(part: Part, gone: Tensor) -> None:
    """Cut slices out of a plain layer by hand, for what torch-pruning does not see or would keep."""
    layer = part.layer
    dimension = 0 if part.outgoing else 1
    kept = torch.ones(layer.weight.shape[dimension], dtype=torch.bool)
    kept[gone] = False
    index = kept.nonzero().flatten().to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.index_select(dimension, index))
    if part.outgoing and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.index_select(0, index))
    if isinstance(layer, _BatchNorm):
        layer.num_features = len(index)
        for name in ("running_mean", "running_var"):
            value = getattr(layer, name)
            if value is not None:
                setattr(layer, name, value.index_select(0, index))
    elif isinstance(layer, CONVOLUTIONS):
        setattr(layer, "out_channels" if part.outgoing else "in_channels", len(index))
    else:
        setattr(layer, "out_features" if part.outgoing else "in_features", len(index))


def _close(expected: Tensor, got: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(expected, got)
    scale = expected.abs().max().clamp_min(1e-6)
    return bool(((expected - got).abs().max() / scale) < 1e-3)


def _outputs(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _marked_outputs(outputs: Any) -> list[Tensor]:
    """Outputs behind an operation that belongs to no module, so that the graph knows where channels leave the network."""
    return [output * 1 for output in _outputs(outputs) if output.requires_grad]
