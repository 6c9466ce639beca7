"""ThiNet (Luo et al., 2017): remove the channels that the next layer misses least, and scale the others to make up for them.

At sampled places of the next layer's output, before its bias, y = Σ_c x_c: each channel's own contribution. Channels are removed
greedily so that Σ (Σ_{c removed} x_c)² stays small (equation 6), and the kept channels of the kernel are multiplied by the w that
minimises Σ (y - Σ w_c·x_c)² (equation 7).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.methods.context import Context
from engine.networks.layers import CONVOLUTIONS
from engine.structure.channels import ChannelGroup, Part, is_single
from engine.training.batches import batches

PLACES_PER_EXAMPLE = 10
EXAMPLES_PER_CLASS = 10
SAMPLES_PER_CHANNEL = 4
"""Places for every channel that has to be scaled, at least: more equations than unknowns."""
RIDGE = 1e-6
"""Share of the mean power of a channel that keeps the least squares solvable where channels contribute the same."""

Contributions = Mapping[Part, Tensor]
"""For each reader, one row per sampled place and one column per input index of the part."""


def scores(module: nn.Module, groups: Sequence[ChannelGroup], context: Context) -> list[Tensor]:
    """One score a unit: the share of the next layer's power that is lost when it goes, after the units below it.

    Raises `pruning_impossible` where nothing reads a group through a convolution or linear layer.
    """
    found = []
    sampled = contributions(module, groups, context)
    for group in groups:
        parts = readers(group)
        if not parts:
            raise EngineError(
                "pruning_impossible",
                f"thinet ranks channels by what the next layer reads, but no convolution or linear layer reads those of {group.name}.",
                hint="Name the layer in ignore, or choose another importance.",
            )
        gram = torch.stack([_gram(group, part, sampled[part]) for part in parts]).sum(0)
        found.append(greedy(gram))
    return found


def greedy(gram: Tensor) -> Tensor:
    """Scores from the matrix of x_a·x_b summed over all samples, (units, units): cumulated loss over all power, in order of removal.

    Each step removes the unit with which the loss of all removed ones together is smallest. Losses may fall where errors cancel; the
    score keeps the order all the same.
    """
    count = len(gram)
    power = gram.sum().clamp_min(1e-30)
    left = torch.ones(count, dtype=torch.bool, device=gram.device)
    cross = torch.zeros(count, dtype=gram.dtype, device=gram.device)
    found = torch.zeros(count, dtype=gram.dtype, device=gram.device)
    loss, highest = 0.0, 0.0
    for place in range(count):
        losses = torch.where(left, loss + 2 * cross + gram.diagonal(), torch.inf)
        unit = int(losses.argmin())
        loss = float(losses[unit])
        highest = max(highest, loss / float(power))
        # The small rise keeps the order of units that cost nothing.
        found[unit] = highest + 1e-6 * place
        left[unit] = False
        cross += gram[:, unit]
    return found.cpu()


@torch.no_grad()
def rescale(module: nn.Module, group: ChannelGroup, removed: Tensor, context: Context) -> None:
    """Scale, in place, the kernels that read the kept channels of the group so that they make up for the removed ones."""
    kept_channels = torch.ones(group.channels_count, dtype=torch.bool)
    kept_channels[removed] = False
    for part, matrix in contributions(module, [group], context).items():
        kept = kept_channels[part.channels]
        by_channel = _per_channel(group, part, matrix)
        columns = torch.unique(part.channels[kept])
        wanted = by_channel.sum(1)
        chosen = by_channel[:, columns]
        factors = torch.ones(group.channels_count, dtype=chosen.dtype, device=chosen.device)
        factors[columns] = least_squares(chosen, wanted)
        _multiply(part, factors.float())


def least_squares(matrix: Tensor, wanted: Tensor) -> Tensor:
    """w that minimises |matrix·w - wanted|², drawn a little towards one so that it stays determined."""
    gram = matrix.T @ matrix
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-30)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factors: Tensor = torch.linalg.solve(gram + ridge * eye, matrix.T @ wanted + ridge)
    return factors


def readers(group: ChannelGroup) -> list[Part]:
    """The parts through which convolutions and linear layers read the group's channels."""
    return [part for part in group.parts if part.consuming and not is_single(part.layer)]


@torch.no_grad()
def contributions(module: nn.Module, groups: Sequence[ChannelGroup], context: Context) -> Contributions:
    """What each input index adds to the output of its reader, at random places and filters of training examples."""
    parts = [part for group in groups for part in readers(group)]
    layers = list(dict.fromkeys(part.layer for part in parts))
    examples = context.split("train")
    rng = context.rng()
    widest = max((group.channels_count for group in groups), default=1)
    classes = max((head.classes_count or 0 for head in context.reading()), default=0) or 10
    wanted = max(classes * EXAMPLES_PER_CLASS, -(-SAMPLES_PER_CHANNEL * widest // PLACES_PER_EXAMPLE))
    chosen = np.sort(rng.permutation(examples.count)[:wanted])
    places = -(-max(PLACES_PER_EXAMPLE * len(chosen), SAMPLES_PER_CHANNEL * widest) // len(chosen))
    rows: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def look(layer: nn.Module, received: tuple[Tensor, ...], output: Tensor) -> None:
        rows[layer].append(_sample(layer, received[0], output, places, rng))

    hooks = [layer.register_forward_hook(look) for layer in layers]
    mode = module.training
    module.eval()
    try:
        for batch in batches(examples, context.input_names, 64, context.device, chosen):
            module(*batch.inputs)
    finally:
        module.train(mode)
        for hook in hooks:
            hook.remove()
    joined = {layer: torch.cat(found).double() for layer, found in rows.items()}
    return {part: joined[part.layer][:, part.indices.to(joined[part.layer].device)] for part in parts}


def _sample(layer: nn.Module, inputs: Tensor, outputs: Tensor, places: int, rng: np.random.Generator) -> Tensor:
    """(examples · places, input indices): contributions to outputs chosen at random, without the bias."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, CONVOLUTIONS) and layer.transposed:
        return _sample_transposed(layer, inputs, outputs, places, rng)
    filters = rng.integers(0, len(weight), (len(inputs), places))
    if not isinstance(layer, CONVOLUTIONS):
        flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        where = rng.integers(0, flat.shape[1], (len(inputs), places))
        rows = torch.arange(len(inputs))[:, None]
        return (flat[rows, torch.from_numpy(where)] * weight[torch.from_numpy(filters)]).flatten(0, 1)
    padded = _padded(layer, inputs)
    width = layer.in_channels // layer.groups
    found = inputs.new_zeros(len(inputs), places, layer.in_channels)
    for example, place in itertools.product(range(len(inputs)), range(places)):
        corner = [int(rng.integers(0, size)) * stride for size, stride in zip(outputs.shape[2:], layer.stride, strict=True)]
        window: tuple[slice, ...] = tuple(
            slice(start, start + dilation * (kernel - 1) + 1, dilation)
            for start, dilation, kernel in zip(corner, layer.dilation, layer.kernel_size, strict=True)
        )
        number = int(filters[example, place])
        first = number // (layer.out_channels // layer.groups) * width
        patch = padded[example, first : first + width][(slice(None), *window)]
        found[example, place, first : first + width] = (patch * weight[number]).flatten(1).sum(1)
    return found.flatten(0, 1)


def _sample_transposed(layer: nn.Module, inputs: Tensor, outputs: Tensor, places: int, rng: np.random.Generator) -> Tensor:
    """The same for a transposed convolution: each input channel by itself, through a few filters."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    apply = {3: nn.functional.conv_transpose1d, 4: nn.functional.conv_transpose2d, 5: nn.functional.conv_transpose3d}[weight.ndim]
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation")}
    found = []
    for example in inputs:
        filters = torch.from_numpy(rng.integers(0, weight.shape[1], places))
        alone = apply(example[None], weight[:, filters], groups=len(weight), **options)
        where = torch.from_numpy(rng.integers(0, outputs[0, 0].numel(), places))
        found.append(alone.reshape(len(weight), places, -1)[:, torch.arange(places), where].T)
    return torch.cat(found)


def _padded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs with the convolution's own padding around them."""
    assert isinstance(layer, CONVOLUTIONS)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)


def _per_channel(group: ChannelGroup, part: Part, matrix: Tensor) -> Tensor:
    """Columns of a part summed per channel: a flattened channel has one column per position."""
    total = matrix.new_zeros(len(matrix), group.channels_count)
    return total.index_add_(1, part.channels.to(matrix.device), matrix)


def _gram(group: ChannelGroup, part: Part, matrix: Tensor) -> Tensor:
    channels = _per_channel(group, part, matrix)
    units = channels[:, group.units.to(channels.device)].sum(2)
    return units.T @ units


def _multiply(part: Part, factors: Tensor) -> None:
    """Multiply the slices of the reader's kernel by the factors of their channels."""
    layer = part.layer
    index = part.indices.to(factors.device)
    by_index = torch.ones(layer.in_channels if isinstance(layer, CONVOLUTIONS) else layer.in_features, device=factors.device)
    by_index[index] = factors[part.channels.to(factors.device)]
    if not isinstance(layer, CONVOLUTIONS) or layer.groups == 1:
        shape = [1] * layer.weight.ndim
        shape[0 if getattr(layer, "transposed", False) else 1] = -1
        layer.weight.mul_(by_index.reshape(shape))
        return
    width = layer.in_channels // layer.groups
    per_group = by_index.reshape(layer.groups, 1, width).expand(-1, layer.out_channels // layer.groups, -1).flatten(0, 1)
    layer.weight.mul_(per_group.reshape(*per_group.shape, *(1 for _ in layer.weight.shape[2:])))
