"""Sensitivity curves: what is left of the quality when one layer alone is pruned, more and more."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.display import Column, Curve, Line
from engine.contract.json import JsonObject
from engine.contract.metric import Key, Metric, first_of
from engine.methods.context import Context
from engine.methods.pruning.magnitude_pruning import keep_best
from engine.networks.masks import Mask
from engine.structure.channels import ChannelGroup, Inputs, mask_channels
from engine.structure.graph import ChannelGraph
from engine.training.batches import Chosen

Score = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Point:
    """The network with one layer pruned."""

    ratio: float
    """Share that was asked for; counts are rounded."""
    pruned_count: int
    figures: Mapping[str, float]
    """Metrics against the targets of validation examples, by name."""

    def to_json(self) -> JsonObject:
        """The point as a row of the report."""
        return {"ratio": self.ratio, "pruned_count": self.pruned_count, **self.figures}


def scorer(context: Context, examples_count: int) -> Score:
    """Measures the metrics of the outputs' tasks on validation examples, the same ones every time; test examples decide nothing."""
    _, validation = context.held_out()
    examples = Chosen(validation, np.sort(context.rng().permutation(validation.count)[:examples_count]))

    def score(module: nn.Module) -> dict[str, float]:
        return context.score(module, examples)

    return score


def channel_curve(
    module: nn.Module, inputs: Inputs, group: ChannelGroup, *, scores: Tensor, ratios: Sequence[float], score: Score
) -> list[Point]:
    """Mask (or cut, where layers mix channels) the worst units of one group; the module is as before afterwards."""
    order = torch.sort(scores, stable=True).indices
    count = len(order)
    points = []
    for pruned in _counts(ratios, count - 1, count):
        channels = group.units[order[: pruned[1]]].reshape(-1)
        if group.mixes:
            candidate = copy.deepcopy(module)
            graph = ChannelGraph(candidate, inputs, [group.name])
            (same,) = graph.groups
            if len(channels):
                graph.remove(same, channels.tolist())
            figures = score(candidate)
        else:
            before = copy.deepcopy(module.state_dict())
            mask_channels(group, channels)
            figures = score(module)
            module.load_state_dict(before)
        points.append(Point(pruned[0], pruned[1], figures))
    return points


@torch.no_grad()
def weight_curve(module: nn.Module, weight: Tensor, *, scores: Tensor, ratios: Sequence[float], score: Score) -> list[Point]:
    """Zero the worst entries of one weight in place; it is as before afterwards."""
    before = weight.clone()
    points = []
    for ratio, pruned in _counts(ratios, weight.numel(), weight.numel()):
        weight.mul_(keep_best(scores, Mask.full(weight), weight.numel() - pruned).keep)
        figures = score(module)
        weight.copy_(before)
        points.append(Point(ratio, pruned, figures))
    return points


def bearable(curve: Iterable[Point], whole: Mapping[str, float], metric: Metric, max_drop: float) -> float:
    """The largest ratio up to which no point of the curve is worse than `whole` by more than `max_drop`; 0 where the first one is."""
    reached = 0.0
    for point in sorted(curve, key=lambda point: point.ratio):
        # A rounding error in the difference of two shares must not decide.
        if metric.loss(whole[metric.name], point.figures.get(metric.name, math.nan)) <= max_drop + 1e-9:
            reached = point.ratio
        else:
            break
    return reached


def report(curves: Mapping[str, Sequence[Point]], figures: Mapping[str, float], context: Context) -> None:
    """Put the curves and the unpruned figures into the step's report, and each curve into a series."""
    context.report("sensitivity", {"unpruned": dict(figures), "curves": {k: [point.to_json() for point in v] for k, v in curves.items()}})
    shown = first_of(f"validation.{name}" for name in figures)
    name = Key.parse(shown).name if shown is not None else ""
    if shown is not None:
        lines = tuple(
            Line(name=layer, points=tuple((point.ratio, point.figures[name]) for point in points if name in point.figures))
            for layer, points in curves.items()
        )
        title = f"Quality with one layer pruned (whole: {figures[name]:.4g})"
        context.show(Curve(title=title, x=Column(title="pruned", unit="share"), y=Column.of(shown), lines=lines))
    for layer, points in curves.items():
        measured = [point for point in points if name in point.figures]
        if measured:
            half = min(measured, key=lambda point: abs(point.ratio - 0.5))
            tried = f"{100 * half.ratio:.3g} % of its channels removed"
            context.sensitive(layer, tried=tried, key=f"validation.{name}", value=half.figures[name], whole=figures[name])
        for point in points:
            if name in point.figures:
                context.metric(f"sensitivity.{layer}.{name}", point.figures[name], step=round(100 * point.ratio))


def _counts(ratios: Sequence[float], most: int, total: int) -> list[tuple[float, int]]:
    return [(ratio, min(most, round(ratio * total))) for ratio in sorted(ratios)]
