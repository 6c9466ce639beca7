"""Sparse structure selection (Huang, Wang, 2018): factors that learn which neurons, groups and blocks a network needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.methods.channels.removal import SEARCHED, Shrinkage, choose_groups, graph_inputs, tune
from engine.methods.context import Context
from engine.methods.pruning.spec import SparseStructureSelection
from engine.methods.pruning.structure.structures import Factors, Structures, attach, block, conv_groups, neurons
from engine.networks import masks
from engine.networks.layers import select
from engine.networks.network import Network
from engine.structure.blocks import find_blocks
from engine.structure.channels import Inputs
from engine.structure.graph import ChannelGraph
from engine.training.loop import Hooks, Moment, iterations_of, learning_rate


class ProximalSteps:
    """Accelerated proximal gradient for one vector of factors λ (section 3.3 of the paper, equations 9 to 12).

    z = λ - η·g;  v ← S(z) - λ + μ·v;  λ ← S(z) + μ·v, with S the soft threshold at η·γ. Two steps after S(z) became zero, λ is zero.
    """

    def __init__(self, values: nn.Parameter, gamma: float, momentum: float) -> None:
        self._values, self._gamma, self._momentum = values, gamma, momentum
        self.velocity = torch.zeros_like(values)
        """What the steps so far have built up; another process may put it back."""

    @torch.no_grad()
    def __call__(self, rate: float) -> None:
        """One step with the gradient that is there; it is taken away, so that the ordinary optimizer leaves the factors alone."""
        assert self._values.grad is not None
        shrunk = soft_threshold(self._values - rate * self._values.grad, rate * self._gamma)
        self.velocity.copy_(shrunk - self._values + self._momentum * self.velocity)
        self._values.copy_(shrunk + self._momentum * self.velocity)
        self._values.grad = None


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """sign(v) · max(|v| - threshold, 0): the proximal operator of the L1 norm."""
    return values.sign() * (values.abs() - threshold).clamp_min(0)


def apply(network: Network, params: SparseStructureSelection, context: Context) -> Network:
    """Train a copy of the network with factors, fold them into the weights, and take out what they made zero.

    Raises `pruning_impossible` where the network has none of the wanted structures.
    """
    context.phase("training")
    module = context.without_masks(network.module)
    inputs = graph_inputs(module, context)
    shrinkage = Shrinkage(module, inputs)
    found = _find(module, inputs, params, context)
    factors = [attach(structures) for structures in found]
    steps = [ProximalSteps(item.values, params.penalty, params.structure_momentum) for item in factors]
    _warn_where_zero_is_out_of_reach(params, context)

    def before_step(moment: Moment) -> None:
        rate = _rate(params, moment.iteration - 1, moment.iterations)
        for step in steps:
            step(rate)

    def after_epoch(moment: Moment, record: dict[str, float]) -> None:
        record["structures_zero_count"] = float(sum(int((item.values == 0).sum()) for item in factors))

    context.stage("before", module)
    with context.part(0.0, SEARCHED if params.finetune else 0.95):
        memory = {f"velocity.{number}": step.velocity for number, step in enumerate(steps)}
        context.train(module, params, hooks=Hooks(before_optimizer_step=(before_step,), on_epoch=(after_epoch,), memory=memory))
    context.stage("selected", module)
    context.phase("pruning")
    module = masks.fold(module)
    for structures, item in zip(found, factors, strict=True):
        dead = _dead(structures, item, params)
        if dead:
            module = structures.remove(module, inputs, dead)
    context.stage("removed", module)
    _report(found, factors, context)
    tune(module, params.finetune, shrinkage, context)
    return network.with_module(module.cpu())


def _find(module: nn.Module, inputs: Inputs, params: SparseStructureSelection, context: Context) -> list[Structures]:
    """Structures in the order in which they can be removed: blocks last, as that changes the graph."""
    graph = ChannelGraph(module, inputs)
    groups = graph.groups
    grouped = conv_groups(module, groups, params) if "group" in params.structures else []
    found: list[Structures] = []
    if "neuron" in params.structures:
        # Channels inside of a grouped convolution whose groups have factors go with these.
        taken = {id(layer) for structures in grouped for layer in (module.get_submodule(structures.name),)}
        free = [group for group in groups if not any(id(part.layer) in taken for part in group.parts)]
        for group in choose_groups(free, graph, inputs, params, context):
            structures = neurons(group)
            if structures is not None:
                found.append(structures)
    found += grouped
    if "block" in params.structures:
        included = select(module, include=params.include).layers
        allowed = select(module, ignore=params.ignore).layers
        found += [
            block(module, item)
            for item in find_blocks(module)
            if any(name in included for name in item.layers) and all(name in allowed for name in item.layers)
        ]
    if not found:
        raise EngineError(
            "pruning_impossible",
            f"This network has no {' or '.join(params.structures)} that a factor could switch off.",
            hint="Choose other structures, and check include and ignore.",
        )
    return found


def _dead(structures: Structures, factors: Factors, params: SparseStructureSelection) -> list[int]:
    """Numbers of the structures whose factor is zero, as far as the layer may lose them; blocks may all go."""
    dead = (factors.values == 0).nonzero().flatten().tolist()
    if structures.kind == "block":
        return dead
    kept_count = max(1, -(-params.min_channels // structures.channels_per_structure))
    return dead[: max(0, structures.count - kept_count)]


def _rate(params: SparseStructureSelection, iteration: int, total: int) -> float:
    """Rate of the factors in the step number `iteration`, from 0."""
    return params.factor_rate * learning_rate(params, iteration, total) / params.learning_rate


def _warn_where_zero_is_out_of_reach(params: SparseStructureSelection, context: Context) -> None:
    total = iterations_of(params, context.labelled("train").count)
    reach = params.penalty * sum(_rate(params, step, total) for step in range(total)) / (1 - params.structure_momentum)
    if reach < 1:
        context.warn(
            "sparsity_unreachable",
            f"In {total} steps the penalty moves a factor by at most {reach:.2g}, so factors that start at one will hardly reach zero: "
            "train longer, or raise structure_learning_rate or the penalty.",
            reach=reach,
        )


def _report(found: Sequence[Structures], factors: Sequence[Factors], context: Context) -> None:
    values = [item.values.detach().cpu() for item in factors]
    context.report(
        "structures",
        {
            f"{item.kind} {item.name}": {"total_count": item.count, "zero_count": int((v == 0).sum()), "factors": v.tolist()}
            for item, v in zip(found, values, strict=True)
        },
    )
    zero = sum(int((v == 0).sum()) for v in values)
    context.metric("structures_zero_ratio", zero / sum(item.count for item in found))
    emptied = [item.name for item, v in zip(found, values, strict=True) if item.kind != "block" and not v.any()]
    if emptied:
        context.warn(
            "structures_all_zero",
            f"Every factor of these layers became zero, so nothing passes through them any more: {', '.join(emptied)}. Lower the penalty, "
            "or train for fewer steps.",
            layers=emptied,
        )
    if not zero:
        context.warn("nothing_selected", "No factor became zero, so nothing was removed: raise the penalty, or train longer.")
