"""Sensitivity analysis (Li et al., 2017, section 3.2): every layer pruned alone, the network left as it is."""

from __future__ import annotations

import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.methods.channels.importance import unit_scores
from engine.methods.channels.removal import choose_groups, graph_inputs
from engine.methods.context import Context
from engine.methods.pruning.spec import Sensitivity
from engine.methods.pruning.structure.curves import Point, Score, channel_curve, report, scorer, weight_curve
from engine.networks import masks
from engine.networks.layers import select
from engine.networks.network import Network
from engine.structure.graph import ChannelGraph


def apply(network: Network, params: Sensitivity, context: Context) -> Network:
    """Draw the curves; returns the given network.

    Raises `pruning_impossible` where there is nothing to prune.
    """
    context.phase("analysing")
    module = masks.fold(network.module).to(context.device).eval()
    score = scorer(context, params.examples_count)
    draw = _channels if params.unit == "channels" else _weights
    report(draw(module, params, score, context), score(module), context)
    return network


def _channels(module: nn.Module, params: Sensitivity, score: Score, context: Context) -> dict[str, list[Point]]:
    inputs = graph_inputs(module, context)
    graph = ChannelGraph(module, inputs)
    groups = choose_groups(graph.groups, graph, inputs, params, context)
    scores = unit_scores(module, groups, params.importance, context, together=False)
    return {
        group.name: channel_curve(module, inputs, group, scores=values, ratios=params.ratios, score=score)
        for group, values, _ in zip(groups, scores, context.rounds(len(groups)), strict=True)
    }


def _weights(module: nn.Module, params: Sensitivity, score: Score, context: Context) -> dict[str, list[Point]]:
    selection = select(module, include=params.include, ignore=params.ignore)
    context.unmatched(selection.unmatched_ignores)
    if not selection.layers:
        raise EngineError("pruning_impossible", "No layer is left to analyse.", hint="Check include and ignore.")
    curves = {}
    for (name, layer), _ in zip(selection.layers.items(), context.rounds(len(selection.layers)), strict=True):
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        random = params.importance == "random"
        scores = torch.rand(weight.shape, generator=context.generator()).to(weight.device) if random else weight.detach().abs()
        curves[name] = weight_curve(module, weight, scores=scores, ratios=params.ratios, score=score)
    return curves
