"""The best state of a training, by its loss and its right answers on examples that it does not see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.contract.json import JsonObject
from engine.methods.context import Context
from engine.training.batches import Examples
from engine.training.loop import Moment
from engine.training.losses import Loss, Measure, accuracy_of, means, targets_loss


@dataclass(frozen=True)
class Offered:
    """What a state came to on the examples."""

    loss: float
    right: float | None
    """Share of right answers, where the outputs decide."""

    def document(self) -> JsonObject:
        """As it stands in the step's report."""
        return {"validation.loss": self.loss, **({} if self.right is None else {"validation.accuracy": self.right})}


class Best:
    """Keeps the state of least loss among those in which no output answers fewer examples right, or loses more by itself, than in the
    first; lives in the memory of the training, so that another attempt goes on with it."""

    def __init__(self, module: nn.Module, examples: Examples, loss: Loss, context: Context) -> None:
        """`examples` are those on which states are compared; the state of now is the first."""
        self._examples, self._context = examples, context
        heads = context.trained_heads(examples)
        right = accuracy_of(heads)
        own = [*[accuracy_of([head]) for head in heads], *[_minus(targets_loss([head])) for head in heads]] if len(heads) > 1 else []
        self._measures: tuple[Measure, ...] = (loss, *[measure for measure in (right, *own) if measure is not None])
        self.memory: dict[str, Tensor] = {
            "best.loss": torch.tensor(math.inf, dtype=torch.float64),
            "best.right": torch.zeros((), dtype=torch.float64),
            "best.least": torch.full((len(self._measures) - 1,), -math.inf, dtype=torch.float64),
            "best.epoch": torch.zeros(()),
        }
        self.memory |= {f"best.state.{name}": value.detach().clone() for name, value in module.state_dict().items()}
        self._decides = right is not None
        self.first = self.offer(module, 0)

    @property
    def found(self) -> Offered:
        """Of the best state."""
        return Offered(float(self.memory["best.loss"]), float(self.memory["best.right"]) if self._decides else None)

    @property
    def epoch(self) -> int:
        """After which it was the state; 0 is the beginning."""
        return int(self.memory["best.epoch"])

    def after_epoch(self, moment: Moment, record: dict[str, float]) -> None:
        """For the hooks of a training."""
        record["validation.loss"] = self.offer(moment.module, moment.epoch).loss

    def offer(self, module: nn.Module, epoch: int) -> Offered:
        """Compare the present state; returns what it came to."""
        values: list[float] = self._context.replicas.once(
            lambda: means(module, self._examples, self._measures, self._context.input_names, self._context.device)
        )
        loss, others = values[0], torch.tensor(values[1:], dtype=torch.float64)
        right = values[1] if self._decides else None
        if epoch == 0:
            self.memory["best.least"].copy_(others)
        if loss < float(self.memory["best.loss"]) and bool((others >= self.memory["best.least"]).all()):
            for name, value in (("best.loss", loss), ("best.right", right or 0.0), ("best.epoch", epoch)):
                self.memory[name].fill_(value)
            for name, value in module.state_dict().items():
                self.memory[f"best.state.{name}"].copy_(value)
        return Offered(loss, right)

    def restore(self, module: nn.Module) -> None:
        """Put the best state back."""
        start = "best.state."
        module.load_state_dict({name.removeprefix(start): value for name, value in self.memory.items() if name.startswith(start)})


def _minus(loss: Loss) -> Measure:
    return lambda outputs, batch: -loss(outputs, batch)
