"""Losses and right answers of batches, as a training takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from engine.contract.heads import Head
from engine.outputs.answers import share_right
from engine.tasks import task_of
from engine.training.batches import Batch, Examples, Outputs, as_list, batches

Measure = Callable[[Outputs, Batch], Tensor]
"""A mean over one batch, given the module's outputs."""
Loss = Measure
_TOGETHER = 64


def targets_loss(heads: Sequence[Head], label_smoothing: float = 0.0) -> Loss:
    """The loss of each head against its targets, as its task has it, times its weight; their sum, a mean over the batch."""

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        values = []
        for head in heads:
            own = [given[i] for i in head.indices]
            value = batch.target_loss(head, partial(task_of(head).loss, head, own, label_smoothing=label_smoothing))
            if value is not None:
                values.append(value if head.weight == 1 else head.weight * value)
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    return loss


def accuracy_of(heads: Sequence[Head]) -> Measure | None:
    """The share of right answers in a batch, the mean over the heads that decide; None where none does."""
    deciding = [head for head in heads if head.decides]
    if not deciding:
        return None

    def measure(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        shares = [share_right(head, given[head.index], target) for head in deciding if (target := batch.target(head)) is not None]
        return torch.stack(shares).mean()

    return measure


def mean_loss(module: nn.Module, examples: Examples, loss: Loss, names: Sequence[str], device: torch.device) -> float:
    """The loss of the module in evaluation mode, the mean over all examples."""
    return means(module, examples, (loss,), names, device)[0]


@torch.no_grad()
def means(module: nn.Module, examples: Examples, measures: Sequence[Measure], names: Sequence[str], device: torch.device) -> list[float]:
    """Several means over all examples, of the module in evaluation mode."""
    mode = module.training
    module.eval()
    totals = [0.0] * len(measures)
    for batch in batches(examples, names, _TOGETHER, device):
        outputs = module(*batch.inputs)
        totals = [total + float(measure(outputs, batch)) * len(batch.indices) for total, measure in zip(totals, measures, strict=True)]
    module.train(mode)
    return [total / examples.count for total in totals]
