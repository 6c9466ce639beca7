"""Soft filter pruning (He et al., 2018): zero the weakest filters after every epoch, let them learn on, remove what is zero at last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.methods.channels.importance import magnitude_l1, magnitude_l2
from engine.methods.channels.removal import SEARCHED, Shrinkage, choose_groups, graph_inputs, tune
from engine.methods.context import Context
from engine.methods.pruning.spec import SoftFilterPruning
from engine.networks.network import Network
from engine.structure.channels import ChannelGroup
from engine.structure.constants import absorb
from engine.structure.graph import ChannelGraph
from engine.training.loop import Hooks, Moment

NORMS = {"magnitude_l1": magnitude_l1, "magnitude_l2": magnitude_l2}


def apply(network: Network, params: SoftFilterPruning, context: Context) -> Network:
    """Train a copy of the network softly pruned, then cut out the filters that are zero.

    Raises `pruning_impossible` where no channels can be removed.
    """
    context.phase("training")
    module = context.without_masks(network.module)
    inputs = graph_inputs(module, context)
    shrinkage = Shrinkage(module, inputs)
    graph = ChannelGraph(module, inputs)
    groups = choose_groups(graph.groups, graph, inputs, params, context)
    zero: dict[str, Tensor] = {}

    def after_epoch(moment: Moment, record: dict[str, float]) -> None:
        if moment.epoch % params.every_epochs == 0 or moment.iteration == moment.iterations:
            back = _zero_weakest(groups, zero, params)
            record["filters_revived_count"] = float(back)

    context.stage("before", module)
    with context.part(0.0, SEARCHED if params.finetune else 0.95):
        context.train(module, params, hooks=Hooks(on_epoch=(after_epoch,), memory=zero))
    if not zero:
        _zero_weakest(groups, zero, params)
    context.stage("zeroed", module)
    context.phase("pruning")
    gone = [(group, group.units[zero[group.name]].reshape(-1)) for group in groups]
    absorb(module, gone, inputs)
    for group, channels in gone:
        if len(channels):
            graph.remove(group, channels.tolist())
    context.stage("removed", module)
    tune(module, params.finetune, shrinkage, context)
    return network.with_module(module.cpu())


def _zero_weakest(groups: list[ChannelGroup], zero: dict[str, Tensor], params: SoftFilterPruning) -> int:
    """Zero the weakest filters of each group; returns how many of those zeroed before had come back to be kept."""
    revived = 0
    for group in groups:
        chosen = weakest(group, params)
        if group.name in zero:
            revived += int((~torch.isin(zero[group.name], chosen)).sum()) * group.units.shape[1]
        zero[group.name] = chosen
        silence(group, group.units[chosen].reshape(-1))
    return revived


@torch.no_grad()
def weakest(group: ChannelGroup, params: SoftFilterPruning) -> Tensor:
    """The units with the smallest norms, by rank: `pruning_ratio` of them, as far as `min_channels` allows."""
    norms = group.unit_sums(NORMS[params.importance](group)).cpu()
    width = group.units.shape[1]
    kept_count = max(1, -(-params.min_channels // width), len(norms) - round(params.pruning_ratio * len(norms)))
    return torch.sort(norms, stable=True).indices[: max(0, len(norms) - kept_count)]


@torch.no_grad()
def silence(group: ChannelGroup, channels: Tensor) -> None:
    """Zero the filters, and their biases, that produce the given channels; normalization behind them learns on as it is."""
    for part in group.parts:
        if not part.producing:
            continue
        places = part.indices[torch.isin(part.channels, channels)]
        along = int(getattr(part.layer, "transposed", False))
        for name, dimension in (("weight", along), ("bias", 0)):
            parameter = getattr(part.layer, name)
            if isinstance(parameter, nn.Parameter):
                parameter.index_fill_(dimension, places.to(parameter.device), 0.0)
