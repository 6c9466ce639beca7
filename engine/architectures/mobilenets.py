"""What the MobileNets have in common: how widths are rounded, and how weights begin (Sandler et al., MobileNetV2, CVPR 2018)."""

from __future__ import annotations

from torch import nn


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of eight that is not more than ten percent smaller."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def initialize(network: nn.Module) -> None:
    """He-normal convolutions and a narrow head, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
