"""Which weights get a few levels, and how layers come to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.contract.errors import EngineError
from engine.contract.params import LayerChoice
from engine.formats.onnx.packed import Indexed
from engine.methods.context import Context
from engine.networks import masks
from engine.networks.layers import select
from engine.networks.masks import Mask


class Levels(Protocol):
    """A parametrization of a weight with a few levels."""

    def indexed(self, weight: Tensor) -> Indexed:
        """What a file stores of a weight."""


L = TypeVar("L", bound=nn.Module)


def chosen(module: nn.Module, params: LayerChoice, context: Context) -> list[str]:
    """Names of the weights of the chosen layers, each weight once. Raises `nothing_quantized` where there are none."""
    selection = select(module, include=params.include, ignore=params.ignore)
    context.unmatched(selection.unmatched_ignores)
    names = masks.weights_of(selection.layers)
    if not names:
        raise EngineError("nothing_quantized", "No layer with weights is left to quantize.", hint="Check include and ignore.")
    return names


def hold_zeros(module: nn.Module, names: list[str]) -> dict[str, Mask]:
    """Hold what is zero among the named weights at zero, as pruning left it; returns the masks of those that have any."""
    found = {}
    for name in names:
        weight = getattr(masks.owner(module, name), name.rpartition(".")[2]).detach()
        if 0 < int((weight == 0).sum()) < weight.numel():
            found[name] = Mask(weight != 0)
    masks.hold(module, found)
    return found


def attach(module: nn.Module, names: list[str], make: Callable[[nn.Module, Tensor], L]) -> dict[str, L]:
    """Let every layer that has one of the named weights see what a parametrization makes of it, masks being applied before.

    Args:
        module: Changed in place.
        names: Of the weights.
        make: The parametrization for a layer and the weight that it sees now.
    """
    found = {}
    for name in names:
        layer = masks.owner(module, name)
        levels = make(layer, getattr(layer, name.rpartition(".")[2]).detach()).eval()
        for sharer, attribute in masks.sharers(module, masks.stored(layer, name.rpartition(".")[2])):
            parametrize.register_parametrization(sharer, attribute, levels, unsafe=True)
        found[name] = levels
    return found


@torch.no_grad()
def indexed(module: nn.Module, levels: Mapping[str, Levels]) -> dict[str, Indexed]:
    """What a file stores of each weight."""
    found = {}
    for name, item in levels.items():
        layer, attribute = masks.owner(module, name), name.rpartition(".")[2]
        value: Tensor = masks.stored(layer, attribute)
        for step in layer.parametrizations[attribute]:  # type: ignore[index]  # torch takes attributes of a module for tensors and modules
            if step is item:
                break
            value = step(value)
        found[name] = item.indexed(value)
    return found
