"""The proof by trying that channels can be cut out: a network without them computes what it computes with them masked."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from engine.networks.layers import PRUNABLE
from engine.process.memory import give_back_memory
from engine.structure.channels import ChannelGroup, Inputs, Part, own_parameters, zero_slices
from engine.structure.graph import ChannelGraph, leaves
from engine.structure.imagination import evaluated, shared_copy

_LARGE = 2**24
"""Parameters from which what one trial leaves behind is given back before the next."""


def removable(module: nn.Module, inputs: Inputs, names: Sequence[str], graph: ChannelGraph | None = None) -> list[str]:
    """Those of the named groups whose channels can really be cut out, found by trying: all at once, and by halves where that fails.

    A group is kept out where the cut network does not run, changes the shape of an output, or computes something else than the
    network with the same channels masked. Layer and group normalization count as masked where they normalize what is left.
    """
    graph = graph or ChannelGraph(module, inputs)
    groups = [group for group in graph.groups if group.name in names]
    if isinstance(module, fx.GraphModule) and all(value.dim() and len(value) == len(inputs[0]) for value in inputs):
        inputs = tuple(value[:1] for value in inputs)  # An imported network takes any batch.
    found = {group.name for group in _removable(graph, inputs, groups)}
    return [name for name in names if name in found]


def _removable(graph: ChannelGraph, inputs: Inputs, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    if not groups or _agrees(graph, inputs, groups):
        return list(groups)
    if len(groups) == 1:
        return []
    half = len(groups) // 2
    found = _removable(graph, inputs, groups[:half]) + _removable(graph, inputs, groups[half:])
    while found and not _agrees(graph, inputs, found):
        found.pop()
    return found


def _agrees(graph: ChannelGraph, inputs: Inputs, groups: Sequence[ChannelGroup]) -> bool:
    """Cut units of every group out of a copy and compare with the same units masked.

    Neighbouring groups lose different shares, so that it shows where a network's own code takes for granted that they are as wide.
    """
    wanted = {group.name: group.units[place % 2 :: 3 - place % 2].reshape(-1) for place, group in enumerate(groups)}
    try:
        with torch.no_grad(), evaluated(graph.module):
            cut = shared_copy(graph.module)
            shrinking = graph.on(cut)
            for group in shrinking.groups:
                if group.name in wanted:
                    shrinking.remove(group, wanted[group.name].tolist())
            got = leaves(cut.forward(*inputs))
            del cut, shrinking
            if sum(tensor.numel() for tensor in graph.module.parameters()) > _LARGE:
                give_back_memory()
            masked = shared_copy(graph.module)
            chosen = [group for group in graph.on(masked).groups if group.name in wanted]
            with _masked(masked, chosen, wanted):
                # A traced network prints what it fails with where it is called as a module.
                expected = leaves(masked.forward(*inputs))
    except Exception:  # Whatever a cut network fails with, the answer is the same: these channels cannot be cut.
        return False
    if [output.shape for output in got] != [output.shape for output in expected]:
        return False
    return all(_close(left, right) for left, right in zip(expected, got, strict=True))


@contextmanager
def _masked(module: nn.Module, groups: Sequence[ChannelGroup], wanted: Mapping[str, Tensor]) -> Iterator[None]:
    """The module with the wanted channels of each group masked, after which layer and group normalization leave them out, too.

    Masks are written into the tensors that `module` may share: what they overwrite is put back. In a traced network a layer is masked
    while it is called, so that no more than one layer's weights are held twice. Tied weights are masked apart.
    """
    own_parameters(module, [layer for layer in module.modules() if isinstance(layer, PRUNABLE)])
    looked_up = (
        {id(operator.attrgetter(str(node.target))(module)) for node in module.graph.nodes if node.op == "get_attr"}
        if isinstance(module, fx.GraphModule)
        else None
    )
    while_called: dict[nn.Module, list[tuple[Part, Tensor]]] = defaultdict(list)
    overwritten: list[tuple[Tensor, Tensor]] = []
    for group in groups:
        for part in group.parts:
            layer, indices = part.layer, part.indices[torch.isin(part.channels, wanted[group.name])]
            normalize_what_is_left(part, indices)
            if isinstance(layer, nn.Module) and looked_up is not None and looked_up.isdisjoint(map(id, _tensors(layer))):
                while_called[layer].append((part, indices))
            else:
                overwritten += [(tensor, tensor.detach().clone()) for tensor in _tensors(layer)]
                zero_slices(part, indices)
    for layer, slices in while_called.items():
        _mask_while_called(layer, slices)
    try:
        yield
    finally:
        for tensor, before in reversed(overwritten):
            tensor.data.copy_(before)


def _mask_while_called(layer: nn.Module, slices: Sequence[tuple[Part, Tensor]]) -> None:
    overwritten: list[tuple[Tensor, Tensor]] = []

    def mask(*_: Any) -> None:
        overwritten.extend((tensor, tensor.detach().clone()) for tensor in _tensors(layer))
        for part, indices in slices:
            zero_slices(part, indices)

    def restore(*_: Any) -> None:
        while overwritten:
            tensor, before = overwritten.pop()
            tensor.data.copy_(before)

    layer.register_forward_pre_hook(mask)
    layer.register_forward_hook(restore, always_call=True)


def _tensors(layer: nn.Module | Tensor) -> list[Tensor]:
    return [layer] if isinstance(layer, Tensor) else [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def normalize_what_is_left(part: Part, gone: Tensor) -> None:
    """A hook makes layer and group normalization leave these slices out, as if they were cut."""
    if isinstance(part.layer, nn.LayerNorm | nn.GroupNorm):
        part.layer.register_forward_hook(_over_kept(part.layer, gone))


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
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(expected, got)
    scale = expected.abs().max().clamp_min(1e-6)
    return bool(((expected - got).abs().max() / scale) < 1e-3)
