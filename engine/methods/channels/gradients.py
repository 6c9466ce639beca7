"""Gradients of the loss of the finished network, for importances that rank by them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from engine.methods.context import Context
from engine.training.batches import Examples, batches
from engine.training.losses import Loss

EXAMPLES_COUNT = 1024
"""Training examples from which gradients are taken, drawn with the job's seed; all where there are fewer."""


def backpropagated(
    module: nn.Module,
    context: Context,
    *,
    size: int = 64,
    count: int = EXAMPLES_COUNT,
    loss: Loss | None = None,
    examples: Examples | None = None,
    seed: int | None = None,
) -> Iterator[int]:
    """Leave the gradient of the mean loss of one batch after the other in `parameter.grad`; yields the batch's number of examples.

    The module is in evaluation mode: it is the finished network whose loss is differentiated, without dropout, running statistics fixed.
    `seed` chooses the examples, by default the next one of the step. Afterwards the module is as it was, without gradients. Needs labels.
    """
    examples = examples or context.labelled("train")
    loss = loss or context.loss(module, examples)
    chosen = np.random.default_rng(context.new_seed() if seed is None else seed).permutation(examples.count)[:count]
    mode = module.training
    module.eval()
    for batch in batches(examples, context.input_names, size, context.device, np.sort(chosen)):
        module.zero_grad(set_to_none=True)
        loss(module(*batch.inputs), batch).backward()
        context.replicas.same_gradients(module)
        yield len(batch.indices)
    module.zero_grad(set_to_none=True)
    module.train(mode)
