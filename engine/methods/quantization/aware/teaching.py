"""Losses of trainings under rounding: targets, another network's answers, or both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.networks import masks
from engine.tasks import task_of
from engine.training.batches import Batch, Examples, Outputs, as_list
from engine.training.losses import Loss, targets_loss

_SEEN_EXAMPLES = 64


def taught(teacher: str, context: Context, examples: Examples, *, alpha: float, temperature: float, label_smoothing: float) -> Loss:
    """(1 - alpha) · loss(targets) + alpha · loss(answers of the teacher), output by output.

    Of class scores the latter is T² · KL(teacher at T ‖ network at T), of plain values the mean squared error over the teacher's variance.
    Source: Hinton, Vinyals, Dean, 2015.

    Raises:
        EngineError: `shape_mismatch` where the teacher cannot read the inputs or gives other outputs than the network.
    """
    network = masks.fold(context.teacher(teacher).module).to(context.device).eval()
    heads = context.reading()
    spreads = _met(teacher, network, heads, context, examples)
    trained = {head.name for head in context.trained_heads(examples)} if alpha < 1 else set()
    hard = {head.name: targets_loss([head.model_copy(update={"weight": 1.0})], label_smoothing) for head in heads}

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        with torch.no_grad():
            answers = as_list(network(*batch.inputs))
        values = []
        for head, spread in zip(heads, spreads, strict=True):
            wanted = task_of(head).soften(head, [answers[i] for i in head.indices], temperature)
            soft = task_of(head).match(head, [given[i] for i in head.indices], wanted, temperature) / spread
            value = soft if head.name not in trained else (1 - alpha) * hard[head.name](outputs, batch) + alpha * soft
            values.append(head.weight * value)
        return torch.stack(values).sum()

    return loss


@torch.no_grad()
def _met(name: str, teacher: nn.Module, heads: tuple[Head, ...], context: Context, examples: Examples) -> list[float]:
    """Ask the teacher a few examples; the variance of each output of plain values, 1 for classes, whose losses are in nats."""
    few = Batch.of(examples, np.arange(min(examples.count, _SEEN_EXAMPLES)), context.input_names, context.device)
    own = as_list(masks.fold(context.baseline.module).to(context.device).eval()(*few.inputs))
    try:
        answers = as_list(teacher(*few.inputs))
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(
            "shape_mismatch",
            f"The teacher {name} cannot read the network's inputs: {str(error).splitlines()[0]}",
            hint="Teacher and student take the same inputs.",
        ) from error
    shapes = [[list(output.shape[1:]) for output in side] for side in (answers, own)]
    if shapes[0] != shapes[1]:
        raise EngineError(
            "shape_mismatch",
            f"The teacher {name} gives outputs of shapes {shapes[0]}, the network of {shapes[1]}.",
            hint="A teacher must know the same classes, in the same order.",
        )
    found = []
    for head in heads:
        values = answers[head.index].float()
        variance = float((values - values.mean(dim=0, keepdim=True)).square().mean())
        found.append(1.0 if head.decides or variance <= 0 else variance)
    return found
