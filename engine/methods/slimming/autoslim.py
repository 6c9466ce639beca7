"""AutoSlim (Yu, Huang, 2019): the width of every layer, found by slimming a trained supernet greedily."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from torch import nn

from engine.contract.display import Column, Curve, Line, Table
from engine.methods.channels.removal import Shrinkage
from engine.methods.channels.stopwatch import Stopwatch
from engine.methods.context import Context
from engine.methods.slimming.sandwich import sandwich_rule, train_together
from engine.methods.slimming.spec import AutoSlim
from engine.methods.slimming.spec_slimmable import LEVELS
from engine.methods.slimming.supernet import Supernet, calibrate
from engine.methods.slimming.switchable import Switchable
from engine.networks.initialization import initialize
from engine.networks.network import UNNAMED, Network
from engine.structure.plan import Costs
from engine.training.batch_norm import has_running_statistics, recalibrate
from engine.training.batches import Chosen, Examples

_TRAINED, _SEARCHED = 0.5, 0.7
"""Shares of the step's progress at which the supernet is trained and the widths are found."""
Counts = dict[str, int]
"""Units of each group."""


def apply(network: Network, params: AutoSlim, context: Context) -> Network:
    """Train a supernet of a copy of the network, find the widths for the budget, and train the network that has them.

    What a `slimmable` step before it trained is the supernet as it is; more training goes on from there.

    Every layer keeps one unit at least, whatever `smallest` says. A budget that no widths meet is told by a warning.
    """
    context.phase("training")
    supernet = Supernet(network.module, params, context)
    shrinkage = Shrinkage(supernet.module, supernet.inputs)
    context.stage("before", supernet.module)
    with context.part(0.0, _TRAINED):
        _train(supernet, params, context)
    context.stage("supernet", supernet.module)
    context.phase("analysing")
    with context.part(_TRAINED, _SEARCHED):
        counts = _Search(supernet, params, context).run()
    supernet.cut_to(counts)
    module = supernet.module
    if params.start == "new":
        initialize(module, "default", context.new_seed())
    elif has_running_statistics(module):
        recalibrate(module, context.split("train"), context.input_names, context.device)
    context.stage("slimmed", module)
    if params.finetune is not None:
        context.phase("training")
        with context.part(_SEARCHED, 1.0):
            context.train(module, params.finetune)
        context.stage("tuned", module)
    shrinkage.report(module, context)
    return network.with_module(module.cpu(), settings=UNNAMED)


def _train(supernet: Supernet, params: AutoSlim, context: Context) -> None:
    """The supernet's module at every width, with in-place distillation and shared scales; in place."""
    every = [supernet.counts(1 - (1 - params.smallest) * level / LEVELS, one_at_least=True) for level in range(LEVELS + 1)]
    different = [counts for place, counts in enumerate(every) if counts not in every[:place]]
    switchable = Switchable(supernet.graph, [supernet.units(counts) for counts in different[1:]], own_scales=False)
    seed = context.new_seed()
    choose = sandwich_rule(range(len(different)), params.samples, seed)
    train_together(switchable, params, choose, context, distill=True, seed=seed)
    calibrate(switchable, range(1), context)
    switchable.eval()


class Cut(TypedDict):
    """One layer that was made narrower, and what the network then cost."""

    layer: str
    units: int
    cost: float
    risk: float


class _Search:
    """Takes channels away from one layer after the other."""

    def __init__(self, supernet: Supernet, params: AutoSlim, context: Context) -> None:
        self._supernet, self._params, self._context = supernet, params, context
        _, held_out = context.held_out()
        self._scored = _some(held_out, params.examples_count, context)
        self._measured = _some(context.split("train"), params.examples_count, context)
        self._risk = context.risk(held_out)
        self._figure, self._share = next((name, value) for name, value in params.budget if value is not None)
        self._cost = self._cost_of(supernet.module)

    def _cost_of(self, module: nn.Module) -> Callable[[nn.Module], float]:
        """Cost of a narrower network, as a share of the whole one's."""
        if self._figure == "latency_ratio":
            return Stopwatch(module, self._supernet.inputs, self._context).latency_ratio
        count: Callable[[Costs], int] = Costs.params_count if self._figure == "params_ratio" else Costs.macs_count
        whole = count(Costs(module, self._supernet.inputs))
        return lambda narrow: count(Costs(narrow, self._supernet.inputs)) / whole

    def run(self) -> Counts:
        """Units of each group within the budget, or the least that there may be."""
        supernet, params = self._supernet, self._params
        full, least = supernet.counts(1.0), supernet.counts(params.smallest, one_at_least=True)
        steps = {name: max(1, round(params.step * count)) for name, count in full.items()}
        counts, left = dict(full), 1.0
        path: list[Cut] = []
        while left > self._share:
            tries = [name for name in counts if counts[name] > least[name]]
            if not tries:
                self._context.warn(
                    "budget_missed",
                    f"At {params.smallest:g} of every layer's channels the network still has a {self._figure} of {left:.3f}, more than "
                    f"{self._share:g}. Lower smallest, or raise the budget.",
                    figure=self._figure,
                    left=left,
                )
                break
            risks = {name: self._loss(counts | {name: max(least[name], counts[name] - steps[name])}) for name in tries}
            best = min(risks, key=lambda name: self._risk.loss(0.0, risks[name]))
            counts[best] = max(least[best], counts[best] - steps[best])
            left = self._cost(self._module(counts))
            path.append({"layer": best, "units": counts[best], "cost": left, "risk": risks[best]})
            self._context.progress((1 - left) / (1 - self._share), f"{self._figure} {left:.2f}")
        self._report(full, counts, path)
        return counts

    def _module(self, counts: Counts) -> nn.Module:
        narrow = self._supernet.copied()
        narrow.cut(counts)
        return narrow.module.eval()

    def _loss(self, counts: Counts) -> float:
        module = self._module(counts)
        if has_running_statistics(module):
            recalibrate(module, self._measured, self._context.input_names, self._context.device)
        return self._context.score(module, self._scored)[self._risk.name]

    def _report(self, full: Counts, counts: Counts, path: list[Cut]) -> None:
        context = self._context
        context.report("path", path)
        context.report("units", {name: {"before": full[name], "after": count} for name, count in counts.items()})
        if path:
            context.metric(self._figure, path[-1]["cost"])
            points = tuple(sorted((row["cost"], row["risk"]) for row in path))
            context.show(
                Curve(
                    title="Greedy slimming",
                    x=Column(title=self._figure.replace("_", " "), unit="share"),
                    y=Column(title=f"validation {self._risk.spoken or self._risk.name.replace('_', ' ')}"),
                    lines=(Line(name="supernet", points=points),),
                )
            )
        rows = tuple((name, full[name], count) for name, count in counts.items())
        units = (Column(title="layer"), Column(title="units before", unit="count"), Column(title="units after", unit="count"))
        context.show(Table(title="Units of each layer", columns=units, rows=rows))


def _some(examples: Examples, count: int, context: Context) -> Examples:
    return Chosen(examples, np.sort(context.rng().permutation(examples.count)[:count]))
