"""The dependency graph of a network: which channels can be removed, found by torch-pruning and proved by trying.

Layers whose channels the graph cannot follow are left whole and named; layers that it follows wrongly are found by `removable`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.methods.pruning.structure import heads
from engine.methods.pruning.structure.boundaries import Boundaries
from engine.methods.pruning.structure.buffers import as_buffers, as_parameters, constant_channels
from engine.methods.pruning.structure.channels import ChannelGroup, Inputs, Part, cut_slices, is_depthwise, mask_channels, own_parameters
from engine.methods.pruning.structure.walks import follow
from engine.networks.layers import CONVOLUTIONS, PRUNABLE

UNFOLLOWED = "the network does something with them that the dependency graph cannot follow"


class ChannelGraph:
    """The dependency graph of one module in its present shape.

    Args:
        module: The network.
        inputs: What it is traced with.
        only: Names of the groups that are asked for; by default all are found.
    """

    def __init__(self, module: nn.Module, inputs: Inputs, only: Collection[str] | None = None) -> None:
        import torch_pruning

        self.module = module
        self._pruning = torch_pruning
        self._names = {layer: name for name, layer in module.named_modules()}
        self._ends: dict[Any, str] = {}
        self.fixed: dict[str, str] = {}
        """Layers whose channels stay because the graph cannot follow them, with the reason; not those that make an output."""
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self._constants: list[tuple[nn.Module, str]] = []
        self._graph = self._traced(inputs)
        attentions = [self._heads_group(found) for found in heads.find(module, inputs)]
        whole = {name for group in attentions for name in group.layers}
        wanted = set(self._names.values() if only is None else only)
        self.groups = [group for group in self._groups(wanted - whole) if not whole & set(group.layers)]
        self.groups += [group for group in attentions if group.name in wanted]
        self.fixed = {name: reason for name, reason in self.fixed.items() if name not in whole}

    def _traced(self, inputs: Inputs) -> Any:
        """The dependency graph; where it cannot be drawn, one that ends at every reshape of channels."""
        found = constant_channels(self.module)
        try:
            if found:
                self._constants = found
                with as_parameters(found):
                    return self._trace(inputs, Boundaries())
        except Exception:  # Constants that only look like values of channels; as below.
            self._constants = []
        try:
            return self._trace(inputs, Boundaries())
        except Exception:  # torch-pruning fails in many ways on operations that it does not expect; all mean the same.
            return self._trace(inputs, Boundaries(wide=True))

    def _trace(self, inputs: Inputs, boundaries: Boundaries) -> Any:
        def forward(module: nn.Module, values: Inputs) -> list[Tensor]:
            with boundaries:
                outputs = _outputs(module.forward(*values))
            # Each output stands behind an operation that belongs to no module, so that the graph knows where channels leave.
            marked = [output * 1 for output in outputs if output.requires_grad]
            ends = [(value * 1, reason) for value, reason in boundaries.crossed]
            self._ends = {value.grad_fn: reason for value, reason in ends}
            return marked + [value for value, _ in ends]

        mode = self.module.training
        try:
            with torch.enable_grad():
                return self._pruning.DependencyGraph().build_dependency(
                    self.module, example_inputs=inputs, forward_fn=forward, verbose=False
                )
        finally:
            self.module.train(mode)

    def _groups(self, names: set[str]) -> list[ChannelGroup]:
        """The groups of these layers, each once."""
        found: list[ChannelGroup] = []
        seen: set[Any] = set()
        for layer in list(self._graph.module2node):
            if not isinstance(layer, PRUNABLE) or layer in seen or self._names[layer] not in names:
                continue
            seen.add(layer)
            pruner = self._graph.get_pruner_of_module(layer)
            try:
                tied = follow(self._graph, layer, pruner.prune_out_channels, list(range(pruner.get_out_channels(layer))))
            except Exception:  # As in `_traced`: the channels of this layer cannot be followed, others can.
                self.fixed[self._names[layer]] = UNFOLLOWED
                continue
            seen.update(item.dep.target.module for item in tied if self._graph.is_out_channel_pruning_fn(item.dep.handler))
            group = self._group(tied)
            if group is not None:
                found.append(group)
        return found

    def remove(self, group: ChannelGroup, channels: Sequence[int]) -> None:
        """Cut the channels out of every layer that they tie."""
        if group.heads:
            marked = torch.tensor(sorted(channels))
            for part in group.parts:
                cut_slices(part, part.indices[torch.isin(part.channels, marked)])
            return
        root = self.module.get_submodule(group.name)
        function = self._graph.get_pruner_of_module(root).prune_out_channels
        follow(self._graph, root, function, sorted(channels)).prune(record_history=False)
        as_buffers(self._constants)

    def _group(self, found: Any) -> ChannelGroup | None:
        """The group as plain data; None where its channels leave the network or cannot be cut evenly."""
        kinds = self._pruning.ops.OPTYPE
        parts, names, blocks = [], [], 1
        count = len(found[0].idxs)
        leaves, reason = False, ""
        for item in found:
            node, handler = item.dep.target, item.dep.handler
            if node.type == kinds.OUTPUT:
                leaves = True
                reason = reason or self._ends.get(node.grad_fn, "")
            if any(root is None for root in item.root_idxs) or not self._are_there(item):
                reason = UNFOLLOWED
            outgoing = bool(self._graph.is_out_channel_pruning_fn(handler))
            layer = node.module
            if outgoing and isinstance(layer, PRUNABLE):
                names.append(self._names[layer])
            if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer):
                reason = UNFOLLOWED if layer.transposed else reason
                blocks = math.lcm(blocks, layer.groups)
            if isinstance(layer, nn.GroupNorm):
                blocks = math.lcm(blocks, layer.num_groups)
            if not reason and (isinstance(layer, nn.Parameter) or (isinstance(layer, nn.Module) and layer in self._names)):
                indices, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
                parts.append(Part(layer, outgoing, indices, channels, node.pruning_dim if isinstance(layer, nn.Parameter) else 0))
        if count % blocks:
            reason = reason or f"layers in {blocks} groups read them, which {count} channels do not fill evenly"
        if reason:
            self.fixed |= dict.fromkeys(names, reason)
        if reason or leaves:
            return None
        units = torch.arange(count).reshape(blocks, count // blocks).T.contiguous()
        return ChannelGroup(names[0], tuple(dict.fromkeys(names)), units, tuple(parts))

    def _are_there(self, item: Any) -> bool:
        """Whether a layer has the channels that the graph says are tied."""
        node = item.dep.target
        if isinstance(node.module, nn.Parameter):
            count = node.module.shape[node.pruning_dim]
        elif node.module in self._names:
            pruner = self._graph.get_pruner_of_module(node.module)
            outgoing = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            count = pruner.get_out_channels(node.module) if outgoing else pruner.get_in_channels(node.module)
        else:
            return True
        return count is None or all(0 <= index < count for index in item.idxs)

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


def removable(module: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """Those of the named groups whose channels can really be cut out, found by trying on a copy.

    A group is kept out where the cut network does not run, changes the shape of an output, or computes something else than the
    network with the same channels masked: its graph does something with channels that the dependency graph does not see, such as a
    reshape to a fixed size, adding the network's input, or shuffling channels. Layer and group normalization count as masked where
    they normalize what is left; only of torch's own multi-head attention nothing but running and shapes is asked.
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
    """Cut every third unit of every named group out of a copy and compare with the same units masked."""
    cut, masked = (copy.deepcopy(module).eval() for _ in range(2))
    own_parameters(masked, [layer for layer in masked.modules() if isinstance(layer, PRUNABLE)])
    try:
        for exact in (True, False):
            graph = ChannelGraph(cut, inputs, names)
            chosen = [g for g in graph.groups if len(g.units) > 1 and is_maskable(g) == exact]
            if exact:
                wanted = {group.name: group.units[::3].reshape(-1).tolist() for group in chosen}
                _mask(ChannelGraph(masked, inputs, names), wanted)
            for group in chosen:
                graph.remove(group, group.units[::3].reshape(-1).tolist())
            with torch.no_grad():
                # A traced network prints what it fails with where it is called as a module.
                expected, got = _outputs(masked.forward(*inputs)), _outputs(cut.forward(*inputs))
            if [output.shape for output in got] != [output.shape for output in expected]:
                return False
            if exact and not all(_close(left, right) for left, right in zip(expected, got, strict=True)):
                return False
    except Exception:  # Whatever a cut network fails with, the answer is the same: these channels cannot be cut.
        return False
    return True


def is_maskable(group: ChannelGroup) -> bool:
    """Whether masking can be made the same as cutting for every layer of the group."""
    layers = [part.layer for part in group.parts]
    return not any(
        isinstance(layer, nn.MultiheadAttention) or (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1)
        for layer in layers
    )


def _mask(graph: ChannelGraph, wanted: dict[str, list[int]]) -> None:
    for group in graph.groups:
        if group.name in wanted:
            mask_as_cut(group, torch.tensor(wanted[group.name]))


def mask_as_cut(group: ChannelGroup, channels: Tensor) -> None:
    """`mask_channels`, after which layer and group normalization leave the channels out, too: hooks make them normalize the others."""
    mask_channels(group, channels)
    for part in group.parts:
        if isinstance(part.layer, nn.LayerNorm | nn.GroupNorm):
            part.layer.register_forward_hook(_over_kept(part.layer, part.indices[torch.isin(part.channels, channels)]))


def _over_kept(layer: nn.LayerNorm | nn.GroupNorm, gone: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    count = layer.normalized_shape[0] if isinstance(layer, nn.LayerNorm) else layer.num_channels
    along = -1 if isinstance(layer, nn.LayerNorm) else 1
    kept = torch.tensor([place for place in range(count) if place not in set(gone.tolist())])

    def normalize(_: nn.Module, received: tuple[Tensor, ...], output: Tensor) -> Tensor:
        index = kept.to(output.device)
        values = received[0].index_select(along, index)
        weight, bias = (None if item is None else item[index] for item in (layer.weight, layer.bias))
        if isinstance(layer, nn.LayerNorm):
            normal = functional.layer_norm(values, (len(index),), weight, bias, layer.eps)
        else:
            normal = functional.group_norm(values, layer.num_groups, weight, bias, layer.eps)
        return torch.zeros_like(output).index_copy(along, index, normal)

    return normalize


def _close(expected: Tensor, got: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(expected, got)
    scale = expected.abs().max().clamp_min(1e-6)
    return bool(((expected - got).abs().max() / scale) < 1e-3)


def _outputs(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
