"""Quantizes every setting of a network (widths, exits) by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.contract.figures import Setting
from engine.formats.onnx.several import SeveralGraphs
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext


def each_setting(network: Network, context: StepContext, make: Callable[[Network, StepContext], Network]) -> Network:
    """What `make` makes of the network, or of each of its settings where it has several.

    What is reported of the first setting stands in the step's report itself, and what is reported of all of them below `settings`.
    """
    if len(network.settings) == 1:
        return make(network, context)
    members: list[tuple[Setting, Network]] = []
    reports = {}
    count = len(network.settings)
    for place, setting in enumerate(network.settings):
        with context.part(place / count, (place + 1) / count):
            work = context.work / f"setting{place}"
            work.mkdir(exist_ok=True)
            own = replace(context, work=work, reported={}, shown=[] if place else context.shown)
            members.append((setting, make(network.at(setting), own)))
            reports[setting.name] = own.reported
    context.reported.update(reports[network.settings[0].name])
    context.report("settings", reports)
    return SeveralGraphs(members)
