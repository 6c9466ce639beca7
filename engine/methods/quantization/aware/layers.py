"""Layers that read their weight and bias as the quantized file stores them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.methods.quantization.aware.fake import Weigher, WeightStep


class Constant(nn.Module):
    """A weight that no layer of the rebuilt network owns, as a layer that returns it."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


class RoundedLayer(nn.Module):
    """A layer whose weight, times a mask that holds zeros, is rounded in every forward pass; its gradient passes straight through."""

    keep: Tensor | None

    def __init__(self, layer: nn.Module, *, held: bool) -> None:
        """`held` keeps the weights that are zero now at zero."""
        super().__init__()
        assert isinstance(layer.weight, nn.Parameter)
        self.layer = layer
        self.register_buffer("keep", (layer.weight.detach() != 0).to(layer.weight) if held else None)
        self.step: WeightStep | None = None
        self.weigher: Weigher | None = None
        """Rounds as the file does, where the layer is quantized."""

    def round(self, step: WeightStep, weigher: Weigher) -> None:
        """Round from now on."""
        self.step, self.weigher = step, weigher

    def weight(self) -> Tensor:
        """The float weight."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight if self.keep is None else weight * self.keep

    def forward(self, *inputs: Any) -> Any:
        """The layer's output."""
        weight, bias = self.weight(), getattr(self.layer, "bias", None)
        stored, held = (weight, bias) if self.weigher is None else self.weigher.stored(weight, bias)
        seen = {"weight": stored} if held is None else {"weight": stored, "bias": held}
        return torch.func.functional_call(self.layer, seen, inputs)
