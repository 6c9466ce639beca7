"""Cutting slices out of layers, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from engine.networks.layers import CONVOLUTIONS
from engine.structure.channels import Part, is_single


@torch.no_grad()
def cut_slices(part: Part, gone: Tensor, *, single: bool | None = None) -> None:
    """Cut slices out of a layer: its weights, what goes with them, and the sizes that it knows of itself.

    `single` says whether the groups of a convolution read one channel each; while several cuts are made, that is what it was before.
    """
    layer = part.layer
    if isinstance(layer, CONVOLUTIONS):
        _cut_convolution(layer, gone, outgoing=part.outgoing, single=is_single(layer) if single is None else single)
        return
    if isinstance(layer, nn.RMSNorm):
        _keep_scale(layer, len(gone))
    narrowed(layer, "weight", gone, 0 if part.outgoing and not isinstance(layer, nn.Embedding) else 1)
    if part.outgoing:
        for name in ("bias", "running_mean", "running_var"):
            narrowed(layer, name, gone, 0)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels -= len(gone)
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = (layer.normalized_shape[0] - len(gone),)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters -= len(gone)
    elif isinstance(layer, _NormBase):
        layer.num_features -= len(gone)


def _cut_convolution(layer: Any, gone: Tensor, *, outgoing: bool, single: bool) -> None:
    along = int(outgoing == layer.transposed)
    before = layer.in_channels, layer.out_channels
    wide = layer.weight.shape[1]
    if single:
        multiple = layer.out_channels // layer.groups
        narrowed(layer, "weight", torch.unique(gone // multiple) if layer.transposed else gone, 0)
        narrowed(layer, "bias", gone, 0)
        layer.out_channels = before[1] - len(gone)
        layer.groups = layer.in_channels = layer.out_channels // multiple
        return
    narrowed(layer, "weight", gone if layer.groups == 1 or along == 0 else torch.unique(gone % wide), along)
    if outgoing:
        narrowed(layer, "bias", gone, 0)
        layer.out_channels = before[1] - len(gone)
    else:
        layer.in_channels = before[0] - len(gone)


def _keep_scale(layer: nn.RMSNorm, count: int) -> None:
    """The mean of squares is taken over fewer channels afterwards; scale and ε make up for it, as those that go carry zero."""
    ratio = layer.normalized_shape[0] / (layer.normalized_shape[0] - count)
    weight: Any = getattr(layer, "weight", None)
    scale = torch.ones(layer.normalized_shape) if weight is None else weight.detach()
    layer.elementwise_affine, layer.weight = True, nn.Parameter(scale * ratio**0.5)
    layer.eps = (torch.finfo(scale.dtype).eps if layer.eps is None else layer.eps) * ratio


def narrowed(owner: nn.Module, name: str, gone: Tensor, dimension: int) -> None:
    """Put the slices of a parameter or buffer that stay in its place, if there is one."""
    value = getattr(owner, name, None)
    if not isinstance(value, Tensor):
        return
    kept = torch.ones(value.shape[dimension], dtype=torch.bool)
    kept[gone] = False
    left = value.detach().index_select(dimension, kept.nonzero().flatten().to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(owner, name, nn.Parameter(left, requires_grad=value.requires_grad))
    else:
        setattr(owner, name, left)


def refresh(layer: nn.RNNBase) -> None:
    """Tell a recurrent layer the sizes of its weights."""
    first: Any = layer.weight_ih_l0
    layer.input_size, layer.hidden_size = first.shape[1], first.shape[0] // _GATES.get(type(layer).__name__, 1)
    layer.flatten_parameters()


_GATES = {"LSTM": 4, "GRU": 3}
