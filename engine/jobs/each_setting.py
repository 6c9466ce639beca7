"""A step on a network with several settings."""

from __future__ import annotations

from dataclasses import replace

from engine.contract.method import MethodParams
from engine.formats.onnx.settings_network import SettingsNetwork
from engine.methods.step import StepContext, implementation
from engine.networks.network import Network


def apply_step(step: MethodParams, network: Network, context: StepContext) -> Network:
    """What the step makes of the network.

    A method that works on the ONNX graph takes the settings of one file one after the other; what it finds on the first is the step's
    report, and under `settings` stands what it found on each.
    """
    method = implementation(step)
    if not network.one_file or step.needs.trainable:
        return method(network, step, context)
    made = []
    reports = {}
    for number, setting in enumerate(network.settings):
        at = network.at(setting)
        with context.part(number / len(network.settings), (number + 1) / len(network.settings)):
            own = replace(context, network=at, work=context.work / f"setting{number}", reported={}, shown=[], files=[])
            own.work.mkdir(exist_ok=True)
            made.append((setting, method(at, step, own)))
        reports[setting.name] = own.reported
        if number == 0:
            context.reported.update(own.reported)
            context.shown.extend(own.shown)
            context.files.extend(own.files)
    context.report("settings", reports)
    return SettingsNetwork(made)
