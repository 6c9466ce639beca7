"""Network slimming (Liu et al., 2017): scales of batch normalization are trained towards zero, and the channels of the smallest ones go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.display import Bar, Bars
from engine.contract.errors import EngineError
from engine.methods.channels import own_normalization
from engine.methods.channels.removal import SEARCHED, Shrinkage, choose_groups, graph_inputs
from engine.methods.context import Context
from engine.methods.slimming.spec import NetworkSlimming
from engine.networks.network import Network
from engine.structure.channels import ChannelGroup, Inputs, own_parameters
from engine.structure.constants import absorb
from engine.structure.graph import ChannelGraph
from engine.structure.plan import Limits, blocks, for_share, held_back, plan_of, rank
from engine.training.loop import Hooks, Moment, iterations_of, learning_rate

NEAR_ZERO = 0.01
"""Scales below this count as switched off in the report."""
_MOST_SCALES = 20_000
"""Scales of larger networks are not listed in the report."""
Scales = Mapping[nn.Module, Tensor]
"""Absolute scale of every channel, by the normalization, or by the convolution behind which one was put for the training."""


def apply(network: Network, params: NetworkSlimming, context: Context) -> Network:
    """Train a copy of the network sparsely, remove the channels of the smallest scales, and tune it, as many times as there are passes.

    After pass t of n, the share (1 - ratio)^(t/n) of the channels is left. Raises `normalization_missing` where there are no scales,
    `pruning_impossible` where no channel could be removed.
    """
    context.phase("training")
    module = context.without_masks(network.module)
    slimmer = _Slimmer(module, graph_inputs(module, context), params, context)
    context.stage("before", module)
    for number in context.rounds(params.passes):
        suffix = f" {number}/{params.passes}" if params.passes > 1 else ""
        with context.part(0.0, SEARCHED if params.finetune else 1.0):
            scales = slimmer.train()
        context.stage(f"sparse{suffix}", module)
        context.phase("pruning")
        slimmer.cut(scales, number / params.passes, last=number == params.passes)
        context.stage(f"pruned{suffix}", module)
        context.phase("training")
        if params.finetune is not None:
            with context.part(SEARCHED, 1.0), slimmer.normalized():
                context.train(module, params.finetune)
            context.stage(f"tuned{suffix}", module)
    slimmer.report()
    return network.with_module(module.cpu())


class _Slimmer:
    """One module on its way to the target."""

    def __init__(self, module: nn.Module, inputs: Inputs, params: NetworkSlimming, context: Context) -> None:
        self._module, self._inputs, self._params, self._context = module, inputs, params, context
        self._shrinkage = Shrinkage(module, inputs)
        graph = ChannelGraph(module, inputs)
        scaled = [group for group in graph.groups if any(isinstance(part.layer, _BatchNorm) for part in group.parts)]
        self._inserted = not scaled and params.insert_normalization
        if self._inserted:
            layers = own_normalization.normalizable(module, inputs)
            scaled = [group for group in graph.groups if any(part.producing and part.layer in layers for part in group.parts)]
        if not scaled:
            raise _no_scales(self._inserted)
        groups = choose_groups(scaled, graph, inputs, params, context)
        self._channels = {group.name: group.channels_count for group in groups}
        self._passes: list[dict[str, Any]] = []

    def _groups(self, graph: ChannelGraph) -> list[ChannelGroup]:
        return [group for group in graph.groups if group.name in self._channels]

    def normalized(self) -> Any:
        """While active, the convolutions of a network without normalization have one of their own, if that is wanted."""
        if not self._inserted:
            return nullcontext()
        return own_normalization.own_normalization(self._module, self._inputs, self._context)

    def train(self) -> Scales:
        """Train with the penalty; returns the scales, and leaves the module without the normalization that was put into it."""
        groups = self._groups(ChannelGraph(self._module, self._inputs))
        with self.normalized():
            norms = self._norms(groups)
            parameters = [norm.weight for norm in norms.values()]
            if self._params.gamma_init is not None:
                for scale in parameters:
                    nn.init.constant_(scale, self._params.gamma_init)
            _warn_where_zero_is_out_of_reach(parameters, self._params, self._context)
            self._context.train(self._module, self._params, hooks=penalty(parameters, self._params))
            return {layer: norm.weight.detach().abs().cpu() for layer, norm in norms.items()}

    def _norms(self, groups: Sequence[ChannelGroup]) -> dict[nn.Module, Any]:
        """The normalizations whose scales are penalized, by the layer that the graph knows."""
        parts = [part for group in groups for part in group.parts]
        if self._inserted:
            convolutions = dict.fromkeys(part.layer for part in parts if part.producing)
            return {layer: getattr(layer, own_normalization.NAME) for layer in convolutions if hasattr(layer, own_normalization.NAME)}
        return {part.layer: part.layer for part in parts if isinstance(part.layer, _BatchNorm) and part.layer.affine}

    def cut(self, scales: Scales, done: float, *, last: bool) -> None:
        """Remove the channels of the smallest scales until the share `done` of the way is gone."""
        params = self._params
        graph = ChannelGraph(self._module, self._inputs)
        groups = [group for group in self._groups(graph) if any(part.layer in scales for part in group.parts)]
        together = params.scope == "global"
        ranked = [rank(g, unit_scales(g, scales), self._channels[g.name] // g.units.shape[1]) for g in groups]
        every = blocks(ranked, together=together, limits=Limits(params.min_channels, params.round_to))
        order = [block for block in every if block.allowed]
        share = 1 - (1 - params.pruning_ratio) ** done
        length = for_share(order, ranked, share, sum(self._channels.values()), together=together)
        reached = (order[length - 1].key if length else 0.0) if together else share
        if last and (held := held_back(every, ranked, reached)):
            self._context.warn(
                "pruning_limited",
                f"These layers keep more channels than their scales ask for, because of min_channels ({params.min_channels}), round_to "
                f"({params.round_to}) or because no layer is emptied: {', '.join(held)}.",
                layers=held,
            )
        plan = plan_of(order, length, len(ranked))
        gone = [
            (item.group, item.group.units[item.order[:removed]].reshape(-1)) for item, removed in zip(ranked, plan, strict=True) if removed
        ]
        if params.absorb_bias:
            own_parameters(self._module, [part.layer for group, _ in gone for part in group.parts if isinstance(part.layer, nn.Module)])
            silence(gone)
            absorb(self._module, gone, self._inputs)
        for group, channels in gone:
            graph.remove(group, channels.tolist())
        values = torch.cat([item.scores for item in ranked])
        self._passes.append(
            {
                "near_zero_share": float((values < NEAR_ZERO).float().mean()),
                "threshold": reached if together else None,
                "scales": {item.group.name: item.scores.tolist() for item in ranked} if len(values) <= _MOST_SCALES else None,
                "removed": {item.group.name: len(item.group.units[0]) * removed for item, removed in zip(ranked, plan, strict=True)},
            }
        )

    def report(self) -> None:
        """Say what is left of every layer and of the whole. Raises `pruning_impossible` where nothing was removed."""
        self._shrinkage.report(self._module, self._context)
        removed = {name: sum(found["removed"].get(name, 0) for found in self._passes) for name in self._channels}
        self._context.report("passes", self._passes)
        self._context.metric("near_zero_share", self._passes[-1]["near_zero_share"])
        bars = tuple(Bar(name=name, values=(count, count - removed[name])) for name, count in self._channels.items())
        self._context.show(Bars(title="Channels", unit="count", series=("before", "after"), bars=bars))
        if not any(removed.values()):
            raise EngineError(
                "pruning_impossible",
                "Nothing was removed: the wanted share is less than one channel of any layer, or min_channels and round_to keep them all.",
                hint="Raise pruning_ratio, or lower min_channels and round_to.",
            )


def unit_scales(group: ChannelGroup, scales: Scales) -> Tensor:
    """Score of every unit of the group: the mean of the scales of all its channels, where several layers scale it of all of them."""
    found = [(part, scales[part.layer][part.indices]) for part in group.parts if part.outgoing and part.layer in scales]
    sums = group.unit_sums(group.per_channel(found))
    counts = group.unit_sums(group.per_channel((part, torch.ones_like(values)) for part, values in found))
    return sums / counts.clamp_min(1)


def penalty(scales: Sequence[nn.Parameter], params: NetworkSlimming) -> Hooks:
    """The L1 penalty on the scales: its subgradient with `sgd` (section 3 of the paper), a soft threshold of each step otherwise."""

    @torch.no_grad()
    def subgradient(moment: Moment) -> None:
        for scale in scales:
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=params.penalty)

    @torch.no_grad()
    def shrink(moment: Moment) -> None:
        step = learning_rate(params, moment.iteration - 1, moment.iterations) * params.penalty
        for scale in scales:
            scale.copy_(scale.sign() * (scale.abs() - step).clamp_min(0))

    return Hooks(before_optimizer_step=(subgradient,)) if params.optimizer == "sgd" else Hooks(on_step=(shrink,))


@torch.no_grad()
def silence(gone: Sequence[tuple[ChannelGroup, Tensor]]) -> None:
    """Zero the scales of channels, or the filters of those without, in place: what they say from then on is one constant."""
    for group, channels in gone:
        normalized = any(isinstance(part.layer, _BatchNorm) for part in group.parts)
        for part in group.parts:
            indices = part.indices[torch.isin(part.channels, channels)]
            if isinstance(part.layer, _BatchNorm) and part.layer.affine:
                part.layer.weight[indices] = 0
            elif part.producing and not normalized and part.along is not None and part.weight is not None:
                part.weight.index_fill_(part.along, indices.to(part.weight.device), 0)


def _warn_where_zero_is_out_of_reach(scales: Sequence[nn.Parameter], params: NetworkSlimming, context: Context) -> None:
    """A scale moves by no more than all steps of the penalty together; where that is less than the usual scale, none gets to zero."""
    total = iterations_of(params, context.labelled("train").count)
    momentum = params.momentum if params.optimizer == "sgd" else 0.0
    reach = params.penalty * sum(learning_rate(params, step, total) for step in range(total)) / (1 - min(momentum, 1 - 1e-6))
    usual = float(torch.cat([scale.detach().abs().flatten() for scale in scales]).median())
    if reach < usual:
        context.warn(
            "sparsity_unreachable",
            f"In {total} steps the penalty moves a scale by {reach:.2g} at most, and half of the scales are above {usual:.2g}: hardly any gets "
            "near zero, and what is removed is little more than a guess. Raise penalty, learning_rate or epochs.",
            reach=reach,
            usual=usual,
        )


def _no_scales(wanted: bool) -> EngineError:
    return EngineError(
        "normalization_missing",
        "This network has no batch normalization whose scales could be learned"
        + (", and no convolution that one could be put behind." if wanted else ": exporters fold it into the convolutions before it."),
        hint="Export it so that normalization is kept (torch.onnx.export(model, ..., dynamo=False, "
        "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)), "
        + ("or use structured_pruning." if wanted else "set insert_normalization: true, or use structured_pruning."),
    )
