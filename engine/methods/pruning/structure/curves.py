"""Sensitivity curves: what is left of the accuracy when one layer alone is pruned, more and more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.methods.context import Context
from engine.methods.pruning.magnitude_pruning import keep_best
from engine.methods.pruning.structure.channels import ChannelGroup, Inputs, mask_channels
from engine.methods.pruning.structure.graph import ChannelGraph
from engine.metrics.evaluation import label_metrics
from engine.networks.masks import Mask
from engine.training.batches import Examples, Indices, predict

Score = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Point:
    """The network with one layer pruned."""

    ratio: float
    """Share that was asked for; counts are rounded."""
    pruned_count: int
    top1: float
    cross_entropy: float

    def to_json(self) -> dict[str, Any]:
        """The point as a row of the report."""
        return asdict(self)


def scorer(context: Context, examples_count: int) -> Score:
    """Measures top-1 accuracy and cross-entropy on validation examples, the same ones every time; test examples decide nothing."""
    _, validation = context.held_out()
    examples = _Chosen(validation, np.sort(context.rng().permutation(validation.count)[:examples_count]))

    def score(module: nn.Module) -> dict[str, float]:
        answers = predict(module, examples, context.input_names, context.device)
        assert answers.labels is not None
        return label_metrics(answers.outputs, answers.labels)

    return score


class _Chosen:
    """Some examples of a split."""

    def __init__(self, examples: Examples, chosen: Indices) -> None:
        self.count = len(chosen)
        self.labels = None if examples.labels is None else examples.labels[chosen]
        self._examples, self._chosen = examples, chosen

    def batch(self, indices: Indices) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.int64] | None]:
        """Inputs and labels of the examples at `indices`."""
        return self._examples.batch(self._chosen[indices])


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
        points.append(Point(pruned[0], pruned[1], figures["top1"], figures["cross_entropy"]))
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
        points.append(Point(ratio, pruned, figures["top1"], figures["cross_entropy"]))
    return points


def bearable(curve: Iterable[Point], top1: float, max_drop: float) -> float:
    """The largest ratio up to which no point of the curve loses more than `max_drop` against `top1`; 0 where the first one does."""
    reached = 0.0
    for point in sorted(curve, key=lambda point: point.ratio):
        # A rounding error in the difference of two shares must not decide.
        if top1 - point.top1 > max_drop + 1e-9:
            break
        reached = point.ratio
    return reached


def report(curves: Mapping[str, Sequence[Point]], figures: Mapping[str, float], context: Context) -> None:
    """Put the curves and the unpruned figures into the step's report, and each curve into a series."""
    context.report("sensitivity", {"unpruned": dict(figures), "curves": {k: [point.to_json() for point in v] for k, v in curves.items()}})
    for name, points in curves.items():
        for point in points:
            context.metric(f"sensitivity.{name}.top1", point.top1, step=round(100 * point.ratio))


def _counts(ratios: Sequence[float], most: int, total: int) -> list[tuple[float, int]]:
    return [(ratio, min(most, round(ratio * total))) for ratio in sorted(ratios)]
