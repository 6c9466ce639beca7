"""The settings of a network with gates: one for each alpha and threshold, and the controls that have files."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from engine.contract.figures import Setting
from engine.methods.dynamic.routing.network import SkippingNetwork
from engine.methods.dynamic.spec_skip import SkipRouting


class Alternatives(nn.Module):
    """The networks that an alpha each came to, and what the settings make of them."""

    def __init__(self, networks: Sequence[SkippingNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, *inputs: Tensor) -> Any:
        """What the first network computes."""
        return self.networks[0](*inputs)


@dataclass(frozen=True)
class Variant:
    """A setting, and how its network is made."""

    setting: Setting
    network: int
    """Its number among the alternatives."""
    threshold: float
    gates: bool = True


def variants_of(params: SkipRouting) -> list[Variant]:
    """The settings in their order."""
    made = []
    for number, alpha in enumerate(params.alphas):
        for threshold in params.thresholds:
            values: dict[str, float | str] = {"alpha": alpha, "threshold": threshold}
            name = f"alpha {alpha:g}" + (f" threshold {threshold:g}" if len(params.thresholds) > 1 else "")
            made.append(Variant(Setting(name=name, values=values), number, threshold))
    if "supervised" in params.controls:
        made.append(Variant(Setting(name="supervised", values={"control": "supervised"}), len(params.alphas), params.thresholds[0]))
    if "full" in params.controls:
        made.append(Variant(Setting(name="full", values={"control": "full"}), 0, 0.0, gates=False))
    return made


def chosen(module: Alternatives, variant: Variant) -> nn.Module:
    """A copy of one alternative as a setting has it."""
    network = module.networks[variant.network]
    assert isinstance(network, SkippingNetwork)
    return gated(network, variant) if variant.gates else copy.deepcopy(network).eval().without_gates()


def gated(network: SkippingNetwork, variant: Variant) -> SkippingNetwork:
    """A copy whose gates decide at the setting's threshold."""
    own = copy.deepcopy(network).eval()
    own.set_threshold(variant.threshold)
    return own
