"""Layers: which slices of their weights belong to which channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from engine.networks.layers import CONVOLUTIONS
from engine.structure.following.follower import CROSSED, Follower, LayerRule
from engine.structure.following.recurrent import recurrent
from engine.structure.following.ties import varying


def linear(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Reads and writes the last dimension; channels elsewhere pass by."""
    assert isinstance(layer, nn.Linear)
    value = args[0]
    found: list[Tensor] = []
    for numbers in follower.families(value):
        if value.dim() - 1 in varying(numbers):
            follower.reads(layer, follower.aligned(numbers, -1), outgoing=False)
        else:
            found.append(numbers.narrow(-1, 0, 1).expand(result.shape))
    found.append(follower.outputs_of(layer, layer.out_features).expand(result.shape))
    follower.give(result, found)


def convolution(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Reads and writes one dimension; positions are mixed. Grouped ones lose the same from each group."""
    assert isinstance(layer, CONVOLUTIONS)
    value = args[0]
    along = value.dim() - len(layer.kernel_size) - 1
    found: list[Tensor] = []
    read: Tensor | None = None
    for numbers in follower.families(value):
        if along in varying(numbers):
            read = follower.aligned(numbers, along)
        elif varying(numbers) == {0} and along == 1:
            found.append(numbers[(slice(None), *[slice(0, 1)] * (value.dim() - 1))].expand(result.shape))
        else:
            follower.ties.fix(numbers, CROSSED)
    written = _written(follower, layer, read)
    if written is not None:
        shape = [-1 if dimension == along else 1 for dimension in range(result.dim())]
        found.append(written.reshape(shape).expand(result.shape))
    follower.give(result, found)


def _written(follower: Follower, layer: nn.Module, read: Tensor | None) -> Tensor | None:
    """The numbers of the output channels."""
    assert isinstance(layer, CONVOLUTIONS)
    width = layer.in_channels // layer.groups
    if layer.groups > 1 and width == 1:
        # Each group reads one channel, and goes with it.
        numbers = torch.zeros(layer.in_channels, dtype=torch.int64) if read is None else read
        numbers = numbers.repeat_interleave(layer.out_channels // layer.groups)
        follower.reads(layer, numbers, outgoing=True)
        return numbers
    if read is not None:
        follower.reads(layer, _even(follower, read, layer.groups), outgoing=False)
    return _even(follower, follower.outputs_of(layer, layer.out_channels), layer.groups)


def _even(follower: Follower, numbers: Tensor, groups: int) -> Tensor:
    if groups > 1:
        rows = numbers.reshape(groups, -1)
        follower.ties.tie(rows, rows[:1].expand(rows.shape), f"layers in {groups} groups read them")
    return numbers


def per_channel(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Batch and instance normalization, PReLU with a slope a channel: one weight for each index of dimension 1."""
    value = args[0]
    along = 1 if value.dim() > 1 else 0
    for numbers in follower.families(value):
        if along in varying(numbers):
            follower.reads(layer, follower.aligned(numbers, along), outgoing=True)
    follower.give(result, follower.families(value))


def slope(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """PReLU."""
    assert isinstance(layer, nn.PReLU)
    if layer.num_parameters > 1:
        per_channel(follower, layer, args, result)
    else:
        follower.give(result, follower.families(args[0]))


def group_norm(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Normalizes groups of channels, which lose the same each."""
    assert isinstance(layer, nn.GroupNorm)
    for numbers in follower.families(args[0]):
        if 1 in varying(numbers):
            follower.reads(layer, _even(follower, follower.aligned(numbers, 1), layer.num_groups), outgoing=True)
        else:
            follower.ties.fix(numbers, CROSSED)
    follower.give(result, [numbers for numbers in follower.families(args[0]) if 1 in varying(numbers)])


def last_normalized(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Layer and root-mean-square normalization. Over the places of a head they read no channels: that is known later."""
    assert isinstance(layer, nn.LayerNorm | nn.RMSNorm)
    value, count = args[0], len(layer.normalized_shape)

    def decide(numbers: Tensor) -> None:
        if value_rank - 1 in varying(follower.known(numbers)):
            follower.reads(layer, follower.aligned(numbers, -1), outgoing=True)

    value_rank = value.dim()
    for numbers in follower.families(value):
        if count > 1 and varying(numbers) & set(range(value_rank - count, value_rank)):
            follower.ties.fix(numbers, "they are normalized together with positions")
        elif value_rank - 1 in varying(numbers):
            follower.wait(lambda numbers=numbers: decide(numbers))  # type: ignore[misc]  # of this turn of the loop
    follower.give(result, follower.families(value))


def embedding(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Tensor) -> None:
    """Writes the last dimension."""
    assert isinstance(layer, nn.Embedding)
    follower.fix(args[0], CROSSED)
    follower.give(result, [follower.outputs_of(layer, layer.embedding_dim).expand(result.shape)])


LAYERS: dict[Any, LayerRule] = {
    nn.Linear: linear,
    CONVOLUTIONS: convolution,
    _BatchNorm: per_channel,
    _InstanceNorm: per_channel,
    nn.PReLU: slope,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: last_normalized,
    nn.RMSNorm: last_normalized,
    nn.Embedding: embedding,
    nn.RNNBase: recurrent,
}
