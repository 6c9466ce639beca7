"""Channels that carry one constant: what they add to their readers moves into these readers' biases before they are cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from engine.networks.layers import CONVOLUTIONS
from engine.structure.channels import ChannelGroup, Inputs, Part, is_single


@torch.no_grad()
def absorb(module: nn.Module, removed: Iterable[tuple[ChannelGroup, Tensor]], inputs: Inputs) -> None:
    """Add to the biases of all readers what the given channels, constant over examples and positions, contribute; in place.

    A zero filter behind batch normalization emits relu(β), say. Exact where no zero padding lies between; at padded borders the
    reader saw less of the constant than its bias now gives. A reader without a bias gets one. Other readers than linear layers and
    convolutions are left alone.
    """
    reads: dict[nn.Module, list[Tensor]] = {}
    for group, channels in removed:
        for part in group.parts:
            if _absorbs(part):
                reads.setdefault(part.layer, []).append(part.indices[torch.isin(part.channels, channels.cpu())])
    for layer, levels in _levels(module, list(reads), inputs).items():
        places = torch.cat(reads[layer]).to(levels.device)
        shift = _response(layer, levels, places)
        bias = layer._parameters["bias"]
        layer.bias = nn.Parameter(shift if bias is None else bias + shift)


def _absorbs(part: Part) -> bool:
    layer = part.layer
    plain = isinstance(layer, CONVOLUTIONS) and not layer.transposed and not is_single(layer)
    return part.consuming and (plain or isinstance(layer, nn.Linear))


def _levels(module: nn.Module, layers: list[nn.Module], inputs: Inputs) -> Mapping[nn.Module, Tensor]:
    """Mean of every input channel of the given layers over examples and positions."""
    found: dict[nn.Module, Tensor] = {}

    def look(layer: nn.Module, received: tuple[Tensor, ...]) -> None:
        values = received[0].movedim(1, -1) if isinstance(layer, CONVOLUTIONS) else received[0]
        found[layer] = values.reshape(-1, values.shape[-1]).mean(0)

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    mode = module.training
    try:
        module.eval()
        module(*inputs)
    finally:
        module.train(mode)
        for hook in hooks:
            hook.remove()
    return found


def _response(layer: nn.Module, levels: Tensor, places: Tensor) -> Tensor:
    """What the layer's outputs owe to the given input channels at the given levels."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    kept = torch.zeros_like(levels)
    kept[places] = levels[places]
    kernel = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    if not isinstance(layer, CONVOLUTIONS) or layer.groups == 1:
        return kernel @ kept
    per_group = kernel.reshape(layer.groups, -1, kernel.shape[1]) @ kept.reshape(layer.groups, -1, 1)
    return per_group.reshape(-1)
