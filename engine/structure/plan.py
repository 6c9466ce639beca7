"""How many channels go, and which: one order of removal for the whole network, cut where the target is met.

Both scopes are an order of blocks (the fewest units that may go at once). Layer scope orders by rank within the layer, so that every
layer loses the same share; global scope orders by score. A ratio or a budget then is a place in this order, found exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from engine.networks.layers import CONVOLUTIONS, PRUNABLE
from engine.structure.channels import ChannelGroup, Inputs, is_single
from engine.structure.imagination import LOOKS_AT_VALUES, evaluated, imagined


@dataclass(frozen=True)
class Limits:
    """What a layer keeps whatever the target says."""

    min_channels: int = 1
    round_to: int = 1
    each: Mapping[str, int] = field(default_factory=dict)
    """What single groups are rounded to instead."""


@dataclass(frozen=True)
class Block:
    """Removing group `group`'s worst units up to number `end`, after the blocks before it."""

    key: float
    group: int
    end: int
    channels_count: int
    allowed: bool = True
    """False where the layer would fall below the limits."""


@dataclass(frozen=True)
class Ranked:
    """A group with its units from worst to best."""

    group: ChannelGroup
    order: Tensor
    scores: Tensor
    """Scores in that order."""
    removed_before: int
    """Units that earlier rounds removed, which count in the share of the original."""


Plan = list[int]
"""Number of units that each group loses, its worst ones."""


def rank(group: ChannelGroup, scores: Tensor, original_units: int) -> Ranked:
    """Sort the units of a group by score."""
    ordered = torch.sort(scores, stable=True)
    return Ranked(group, ordered.indices, ordered.values, original_units - len(group.units))


def blocks(ranked: Sequence[Ranked], *, together: bool, limits: Limits) -> list[Block]:
    """The order of removal: all scores `together` (global scope), or by rank within each group (layer scope).

    Blocks that the limits forbid are in it, marked; nothing removes them.
    """
    found = []
    for index, item in enumerate(ranked):
        width = item.group.units.shape[1]
        count = len(item.order)
        round_to = limits.each.get(item.group.name, limits.round_to)
        step = round_to // math.gcd(round_to, width)
        start = 0
        # The first block brings the layer to a multiple, each further one keeps it there.
        for end in range(count % step or step, count + 1, step):
            original = count + item.removed_before
            key = float(item.scores[start:end].mean()) if together else (item.removed_before + (start + end) / 2) / original
            allowed = end < count and (count - end) * width >= limits.min_channels
            found.append(Block(key, index, end, (end - start) * width, allowed))
            start = end
    return sorted(found, key=lambda block: block.key)


def plan_of(order: Sequence[Block], length: int, groups_count: int) -> Plan:
    """What the first `length` blocks remove."""
    plan = [0] * groups_count
    for block in order[:length]:
        plan[block.group] = max(plan[block.group], block.end)
    return plan


def for_share(order: Sequence[Block], ranked: Sequence[Ranked], share: float, original_channels: int, *, together: bool) -> int:
    """Length of the order that removes `share` of the original channels: of every layer, or of all `together`."""
    if not together:
        return sum(block.key < share for block in order)
    present = sum(item.group.channels_count for item in ranked)
    missing = share * original_channels - (original_channels - present)
    totals = list(accumulate((block.channels_count for block in order), initial=0))
    return min(range(len(totals)), key=lambda length: abs(totals[length] - missing))


def held_back(every: Sequence[Block], ranked: Sequence[Ranked], key: float) -> list[str]:
    """Layers that the limits keep from losing a block that comes before `key` in the order."""
    return list(dict.fromkeys(ranked[block.group].group.name for block in every if not block.allowed and block.key < key))


def for_budget(order: Sequence[Block], groups_count: int, cost: Callable[[Plan], float], budget: float) -> int:
    """The shortest length whose cost is within the budget; the whole order where none is. Cost falls along the order."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if cost(plan_of(order, middle, groups_count)) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


class Costs:
    """Parameters and multiply-accumulate operations of a module, and what a plan would leave of them, without carrying it out."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        self._module = module
        self._positions = _positions(module, inputs)

    def params_count(self, ranked: Sequence[Ranked] = (), plan: Plan = ()) -> int:  # type: ignore[assignment]  # an empty one
        """Number of parameters."""
        parameters = set(self._module.parameters())
        total = sum(p.numel() for p in parameters)
        for layer, gone in _slices_gone(ranked, plan).items():
            if isinstance(layer, nn.Module):
                total += _left(layer, gone, parameters=True) - sum(p.numel() for p in layer.parameters(recurse=False))
            elif layer in parameters:  # a constant is none of them
                assert isinstance(layer, Tensor)
                total += math.prod(size - gone.get(place, 0) for place, size in enumerate(layer.shape)) - layer.numel()
        return total

    def macs_count(self, ranked: Sequence[Ranked] = (), plan: Plan = ()) -> int:  # type: ignore[assignment]  # an empty one
        """Multiply-accumulate operations of all convolutions, linear and recurrent layers for one example."""
        gone = _slices_gone(ranked, plan)
        return sum(positions * _operations(layer, gone) for layer, positions in self._positions.items())


_OUT, _IN = 0, 1


def _left(layer: nn.Module, gone: Mapping[int, int], *, parameters: bool) -> int:
    """Parameters of a layer, or its operations at one position, after output and input slices are gone."""
    out_gone, in_gone = gone.get(_OUT, 0), gone.get(_IN, 0)
    if isinstance(layer, CONVOLUTIONS):
        kernel, outputs = math.prod(layer.kernel_size), layer.out_channels - out_gone
        inputs = 1 if is_single(layer) else (layer.in_channels - in_gone) // layer.groups
        return outputs * inputs * kernel + (outputs if parameters and layer.bias is not None else 0)
    if isinstance(layer, nn.Linear):
        outputs = layer.out_features - out_gone
        return outputs * (layer.in_features - in_gone) + (outputs if parameters and layer.bias is not None else 0)
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings * (layer.embedding_dim - out_gone)
    return sum(p.numel() - out_gone for p in layer.parameters(recurse=False))


def _operations(layer: nn.Module, gone: Mapping[object, Mapping[int, int]]) -> int:
    """Those of a layer at one position; of a recurrent layer in one step."""
    if not isinstance(layer, nn.RNNBase):
        return _left(layer, gone.get(layer, {}), parameters=False)
    weights = [value for name, value in layer.named_parameters(recurse=False) if name.startswith("weight")]
    return sum(math.prod(size - gone.get(value, {}).get(place, 0) for place, size in enumerate(value.shape)) for value in weights)


def _slices_gone(ranked: Sequence[Ranked], plan: Plan) -> dict[object, dict[int, int]]:
    """Layer → number of output and of input slices that the plan cuts; bare parameter → those of each of its dimensions."""
    gone: dict[object, dict[int, int]] = {}
    for item, removed in zip(ranked, plan, strict=False):
        if not removed:
            continue
        marked = torch.zeros(item.group.channels_count, dtype=torch.bool)
        marked[item.group.units[item.order[:removed].cpu()].reshape(-1)] = True
        for part in item.group.parts:
            place = part.dimension if isinstance(part.layer, Tensor) else _OUT if part.outgoing else _IN
            counts = gone.setdefault(part.layer, {})
            counts[place] = counts.get(place, 0) + int(marked[part.channels].sum())
    return gone


def _positions(module: nn.Module, inputs: Inputs) -> dict[nn.Module, int]:
    """How often each layer's kernel is applied for one example."""
    with evaluated(module):
        twin = imagined(module)
        try:
            with torch.device("meta"):
                found = _applications(twin, tuple(value.to("meta") for value in inputs))
        except LOOKS_AT_VALUES:
            # It looks at values, which the meta device has not.
            twin, found = module, _applications(module, inputs)
    real = {layer: module.get_submodule(name) for name, layer in twin.named_modules()}
    return {real[layer]: count for layer, count in found.items()}


@torch.no_grad()
def _applications(module: nn.Module, inputs: Inputs) -> dict[nn.Module, int]:
    found: dict[nn.Module, int] = {}
    batch = len(inputs[0])

    def count(layer: nn.Module, received: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(layer, nn.RNNBase):
            positions = output[0].numel() // output[0].shape[-1]
        elif isinstance(layer, nn.Linear):
            positions = output.numel() // layer.out_features
        elif isinstance(layer, CONVOLUTIONS) and layer.transposed:
            positions = received[0].numel() // layer.in_channels
        else:
            positions = output.numel() // output.shape[1]
        found[layer] = found.get(layer, 0) + positions // batch

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, (*PRUNABLE, nn.RNNBase))]
    try:
        module.forward(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
