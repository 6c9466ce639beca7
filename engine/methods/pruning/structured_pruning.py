"""Structured pruning: whole channels are cut out, so that the dense network becomes smaller."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.errors import EngineError
from engine.contract.params import Budget
from engine.methods.channels import thinet
from engine.methods.channels.importance import unit_scores
from engine.methods.channels.own_normalization import lacks_normalization, own_normalization
from engine.methods.channels.removal import Shrinkage, choose_groups, graph_inputs, ratios_of
from engine.methods.channels.stopwatch import Stopwatch
from engine.methods.context import Context
from engine.methods.pruning.spec import CURVE_EXAMPLES, CURVE_RATIOS, StructuredPruning
from engine.methods.pruning.structure import curves
from engine.methods.pruning.structure.baselines import compare
from engine.methods.pruning.structure.group_sparsity import train_sparsely
from engine.networks import masks
from engine.networks.network import Network
from engine.structure.alignment import aligned, multiples
from engine.structure.channels import ChannelGroup, Inputs, mask_channels, own_parameters
from engine.structure.graph import ChannelGraph
from engine.structure.imagination import shared_copy
from engine.structure.plan import (
    Block,
    Costs,
    Limits,
    Plan,
    Ranked,
    blocks,
    for_budget,
    for_share,
    held_back,
    plan_of,
    rank,
)


def apply(network: Network, params: StructuredPruning, context: Context) -> Network:
    """Cut channels out of a copy of the network until the ratio or the budget is met, in rounds of removing and tuning.

    After round t of n, the share (1 - ratio)^(t/n) of the channels is left (or budget^(t/n) of the cost): every round keeps the same
    share of what was left. Layers keep at least `min_channels`; where that stands in the target's way, a warning says so.
    Raises `pruning_impossible` where no channel could be removed.
    """
    context.phase("pruning")
    module = masks.fold(network.module).to(context.device)
    inputs = graph_inputs(module, context)
    normalized = params.finetune is not None and _normalization(module, params, context)
    cutter = _Cutter(module, inputs, params, context)
    original = copy.deepcopy(module) if params.baselines else None
    if params.regularization is not None:
        context.stage("before", module)
    with context.part(0, 1 / (1 + len(params.baselines))):
        cutter.regularize()
        for number in context.rounds(params.iterations):
            suffix = f" {number}/{params.iterations}" if params.iterations > 1 else ""
            context.phase("pruning")
            cutter.cut(number / params.iterations, last=number == params.iterations)
            if number == 1 and params.regularization is None:
                # The job may still be measuring the uploaded network, whose figures these mostly are: what need not wait comes first.
                context.measured(module)
                context.stage("before", masks.plain(network.module, context.device))
            context.stage(f"pruned{suffix}", module)
            if params.finetune is not None:
                context.phase("training")
                with own_normalization(module, inputs, context) if normalized else nullcontext():
                    context.train(module, params.finetune)
                context.stage(f"tuned{suffix}", module)
    cutter.report()
    if original is not None:
        context.phase("baselines")
        with context.part(1 / (1 + len(params.baselines)), 1):
            compare(original, module, params, context, rounds=cutter.removed, inputs=inputs)
    return network.with_module(module.cpu())


def _normalization(module: nn.Module, params: StructuredPruning, context: Context) -> bool:
    """Whether the network is tuned with normalization of its own; a warning says where it has none and gets none."""
    if not lacks_normalization(module):
        return False
    if not params.insert_normalization:
        context.warn(
            "no_normalization",
            "This convolutional network has no normalization; exporters fold it into the convolutions. Tuning then hardly wins back what "
            "the removed channels cost. Export it so that normalization is kept (torch.onnx.export(model, ..., dynamo=False, "
            "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)), or set insert_normalization: true.",
        )
    return params.insert_normalization


class _Cutter:
    """One module on its way to the target."""

    def __init__(self, module: nn.Module, inputs: Inputs, params: StructuredPruning, context: Context) -> None:
        self._module, self._inputs, self._params, self._context = module, inputs, params, context
        self._together = params.scope == "global"
        self._shrinkage = Shrinkage(module, inputs)
        self.removed: list[dict[str, int]] = []
        """Units that each cut took from every group."""
        timed = params.budget is not None and params.budget.latency_ratio is not None
        self._stopwatch = Stopwatch(module, inputs, context) if timed else None
        self._graph = ChannelGraph(module, inputs)
        self._is_current = True
        groups = self._graph.groups
        if params.importance == "bn_scale":
            groups = [group for group in groups if any(isinstance(part.layer, _BatchNorm) for part in group.parts)]
        # Hidden units are cut where layers are named: a share of all convolutions and linear layers says nothing of states.
        named = bool(params.include) or isinstance(params.pruning_ratio, Mapping)
        groups = choose_groups(groups, self._graph, inputs, params, context, recurrent=named and params.importance != "thinet", named=named)
        self._channels = {group.name: group.channels_count for group in groups}
        self._channels_count = sum(group.channels_count for group in groups)
        self._shares: dict[str, float] = {}
        if params.pruning_ratio == "auto":
            self._shares = self._bearable_shares(groups)
        elif isinstance(params.pruning_ratio, dict):
            self._shares = ratios_of(groups, params.pruning_ratio, module, context)
        self._limits = self._limits_of(groups)

    def _limits_of(self, groups: list[ChannelGroup]) -> Limits:
        """Multiples by layer where they are measured, for what the target leaves of each layer at least."""
        params, context = self._params, self._context
        if params.round_to != "auto":
            return Limits(params.min_channels, params.round_to)
        ratio = params.pruning_ratio if isinstance(params.pruning_ratio, float) else 0.5
        if params.budget is not None:
            ratio = 1 - next(value for _, value in params.budget if value is not None)
        shares = {group.name: self._shares.get(group.name, ratio) for group in groups}
        each = aligned(groups, shares, context.replicas.once(lambda: multiples(context.threads)))
        context.report("round_to", {name: each[group.name] for group in groups for name in group.layers})
        return Limits(params.min_channels, 1, each)

    def regularize(self) -> None:
        """Train sparsely, where that was asked for."""
        if self._params.regularization is None:
            return
        self._context.phase("training")
        train_sparsely(self._module, self._chosen(), self._params.regularization, self._context)
        self._context.stage("regularized", self._module)

    def _chosen(self) -> list[ChannelGroup]:
        """The groups that were chosen, in their present shape."""
        if not self._is_current:
            self._graph, self._is_current = ChannelGraph(self._module, self._inputs), True
        return [group for group in self._graph.groups if group.name in self._channels]

    def _bearable_shares(self, groups: list[ChannelGroup]) -> dict[str, float]:
        """How much of each group may go by its own sensitivity curve."""
        params, context = self._params, self._context
        context.phase("analysing")
        scores = unit_scores(self._module, groups, params.importance, context, together=False)
        score = curves.scorer(context, CURVE_EXAMPLES)
        figures = score(self._module)
        found = {
            group.name: curves.channel_curve(self._module, self._inputs, group, scores=values, ratios=CURVE_RATIOS, score=score)
            for group, values in zip(groups, scores, strict=True)
        }
        curves.report(found, figures, context)
        quality = context.quality(context.held_out()[1])
        shares = {name: curves.bearable(points, figures, quality, params.max_drop) for name, points in found.items()}
        context.report("pruning_ratios", shares)
        return shares

    def cut(self, done: float, *, last: bool) -> None:
        """Remove channels until the share `done` of the way is gone."""
        params = self._params
        groups = self._chosen()
        scores = unit_scores(self._module, groups, params.importance, self._context, together=self._together)
        ranked = [rank(g, values, self._channels[g.name] // g.units.shape[1]) for g, values in zip(groups, scores, strict=True)]
        every = blocks(ranked, together=self._together, limits=self._limits)
        if params.budget is not None:
            plan = self._within_budget(params.budget, every, ranked, done, last=last)
        elif isinstance(params.pruning_ratio, float | None):
            plan = self._by_share(params.pruning_ratio or 0.5, every, ranked, done, last=last)
        else:
            plan = self._by_shares(every, ranked, done, last=last)
        if params.importance == "thinet":
            self._make_up(ranked, plan)
        _remove(self._graph, ranked, plan)
        self._is_current = False
        self.removed.append({item.group.name: count for item, count in zip(ranked, plan, strict=True)})

    def _make_up(self, ranked: list[Ranked], plan: Plan) -> None:
        """Rescale the readers of each group after the ones before it, whose channels are masked by then."""
        cut = [item.group for item, removed in zip(ranked, plan, strict=True) if removed]
        own_parameters(self._module, [part.layer for group in cut for part in group.parts if isinstance(part.layer, nn.Module)])
        for item, removed in zip(ranked, plan, strict=True):
            if removed:
                channels = item.group.units[item.order[:removed]].reshape(-1)
                thinet.rescale(self._module, item.group, channels, self._context)
                mask_channels(item.group, channels)

    def _by_shares(self, every: list[Block], ranked: list[Ranked], done: float, *, last: bool) -> Plan:
        shares = [1 - (1 - self._shares[item.group.name]) ** done for item in ranked]
        due = [block for block in every if block.key < shares[block.group]]
        order = [block for block in due if block.allowed]
        if last:
            self._tell(list(dict.fromkeys(ranked[block.group].group.name for block in due if not block.allowed)))
        return plan_of(order, len(order), len(ranked))

    def _by_share(self, ratio: float, every: list[Block], ranked: list[Ranked], done: float, *, last: bool) -> Plan:
        order = [block for block in every if block.allowed]
        share = 1 - (1 - ratio) ** done
        length = for_share(order, ranked, share, self._channels_count, together=self._together)
        reached = share if not self._together else order[length - 1].key if length else 0.0
        if last:
            self._tell(held_back(every, ranked, reached))
        return plan_of(order, length, len(ranked))

    def _tell(self, held: list[str]) -> None:
        params = self._params
        if held:
            self._context.warn(
                "pruning_limited",
                f"These layers keep more channels than the target asks for, because of min_channels ({params.min_channels}), round_to "
                f"({params.round_to}) or because no layer is emptied: {', '.join(held)}.",
                layers=held,
            )

    def _within_budget(self, budget: Budget, every: list[Block], ranked: list[Ranked], done: float, *, last: bool) -> Plan:
        order = [block for block in every if block.allowed]
        figure, share = next((name, value) for name, value in budget if value is not None)
        cost = self._cost(figure, ranked)
        plan = plan_of(order, for_budget(order, len(ranked), cost, share**done), len(ranked))
        left = cost(plan)
        if last and left > share:
            self._context.warn(
                "budget_missed",
                f"min_channels, round_to and the layers that cannot be pruned leave a {figure} of {left:.3f}, more than {share:g}.",
                figure=figure,
                left=left,
            )
        if last:
            self._context.metric(figure, left)
        return plan

    def _cost(self, figure: str, ranked: list[Ranked]) -> Callable[[Plan], float]:
        """What a plan leaves, as a share of what the step was given."""
        if figure == "latency_ratio":
            return lambda plan: self._time(ranked, plan)
        costs = Costs(self._module, self._inputs)
        count = costs.params_count if figure == "params_ratio" else costs.macs_count
        before = self._shrinkage.before[figure.replace("ratio", "count")]
        return lambda plan: count(ranked, plan) / before

    def _time(self, ranked: list[Ranked], plan: Plan) -> float:
        assert self._stopwatch is not None
        candidate = shared_copy(self._module)
        _remove(self._graph.on(candidate), ranked, plan)
        return self._stopwatch.latency_ratio(candidate)

    def report(self) -> None:
        """Say what is left of every layer and of the whole. Raises `pruning_impossible` where nothing was removed."""
        self._shrinkage.report(self._module, self._context)
        if not any(count for cut in self.removed for count in cut.values()):
            raise EngineError(
                "pruning_impossible",
                "Nothing was removed: the wanted share is less than one channel of any layer, or min_channels and round_to keep them all.",
                hint="Raise pruning_ratio, or lower min_channels and round_to.",
            )


def _remove(graph: ChannelGraph, ranked: list[Ranked], plan: Plan) -> None:
    for item, removed in zip(ranked, plan, strict=True):
        if removed:
            graph.remove(item.group, item.group.units[item.order[:removed]].reshape(-1).tolist())
