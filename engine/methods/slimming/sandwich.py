"""Training all widths of a switchable network at once: the sum of their losses (Yu et al., 2019), the sandwich rule (Yu, Huang, 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.params import TrainingFields
from engine.methods.context import Context
from engine.methods.slimming.switchable import Switchable
from engine.tasks import task_of
from engine.training.batches import Batch, Outputs, as_list
from engine.training.loop import Hooks, Moment
from engine.training.losses import Loss

Choose = Callable[[int], Sequence[int]]
"""The widths of an optimizer step, by the number of steps before it; the widest first."""


class Sandwich(nn.Module):
    """In training, the outputs of all chosen widths one after the other; else those of the widest."""

    def __init__(self, network: Switchable, choose: Choose) -> None:
        super().__init__()
        self.network, self._choose = network, choose
        self.iteration = torch.zeros((), dtype=torch.long)
        """Optimizer steps done."""
        self.chosen: Sequence[int] = ()
        """The widths of the last forward pass."""

    def forward(self, *inputs: Tensor) -> Any:
        """A list of tensors in training: as many for each width as the network has outputs."""
        if not self.training:
            return self.network(*inputs)
        self.chosen = self._choose(int(self.iteration))
        return self._at(self.chosen, *inputs)

    def looked_at(self, widest: list[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """What a look at validation examples compares, where the widest's outputs are there: those of the same widths each time."""
        self.chosen = self._choose(0)
        return [*widest, *self._at(self.chosen[1:], *inputs)]

    def _at(self, numbers: Sequence[int], *inputs: Tensor) -> list[Tensor]:
        return [output for number in numbers for output in as_list(self.network.at(number, *inputs))]


def train_together(
    network: Switchable, training: TrainingFields, choose: Choose, context: Context, *, distill: bool, seed: int, report: bool = True
) -> None:
    """Train every width in place: the gradient of a step is the sum of the gradients of the widths that `choose` names.

    With `distill` the widest learns the targets, and every other width the widest's answers alone (in-place distillation).
    """
    sandwich = Sandwich(network, choose)
    examples = context.labelled("train")
    hard = context.loss(sandwich, examples, training.label_smoothing)

    def follow(moment: Moment) -> None:
        sandwich.iteration.fill_(moment.iteration)

    context.train(
        sandwich,
        training,
        loss=summed(sandwich, hard, soft(context) if distill else None),
        hooks=Hooks(on_step=(follow,), memory={"iteration": sandwich.iteration}),
        seed=seed,
        report=report,
    )


def summed(sandwich: Sandwich, hard: Loss, match: Callable[[list[Tensor], list[Tensor]], Tensor] | None) -> Loss:
    """The sum of the widths' losses; with `match`, the narrower ones are compared with the widest's outputs instead."""

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        if not sandwich.training:
            given = sandwich.looked_at(given, batch.inputs)
        size = len(given) // len(sandwich.chosen)
        each = [given[place * size : (place + 1) * size] for place in range(len(sandwich.chosen))]
        if match is None:
            return torch.stack([hard(part, batch) for part in each]).sum()
        widest = [output.detach() for output in each[0]]
        return torch.stack([hard(each[0], batch), *(match(part, widest) for part in each[1:])]).sum()

    return loss


def soft(context: Context) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """The loss of outputs against other outputs, head by head, at temperature 1."""
    heads = context.reading()

    def match(given: list[Tensor], wanted: list[Tensor]) -> Tensor:
        values = []
        for head in heads:
            task = task_of(head)
            answers = task.soften(head, [wanted[i] for i in head.indices], 1.0)
            value = task.match(head, [given[i] for i in head.indices], answers, 1.0)
            values.append(value if head.weight == 1 else head.weight * value)
        return torch.stack(values).sum()

    return match


def all_widths(count: int) -> Choose:
    """Every width in every step."""
    every = tuple(range(count))
    return lambda iteration: every


def sandwich_rule(candidates: Sequence[int], samples: int, seed: int) -> Choose:
    """The widest (the first of `candidates`), the narrowest (the last), and random ones between them: `samples` in all."""

    def choose(iteration: int) -> Sequence[int]:
        between = np.random.default_rng([seed, iteration]).choice(
            candidates[1:-1], size=min(samples - 2, len(candidates) - 2), replace=False
        )
        return (candidates[0], *(int(number) for number in between), candidates[-1])

    return choose
