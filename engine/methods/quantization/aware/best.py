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
from engine.training.losses import Loss, accuracy_of, means


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
    """Keeps the state of least loss among those that answer no fewer examples right than the first; lives in the memory of the training,
    so that another attempt goes on with it."""

    def __init__(self, module: nn.Module, examples: Examples, loss: Loss, context: Context) -> None:
        """`examples` are those on which states are compared; the state of now is the first."""
        self._examples, self._context = examples, context
        right = accuracy_of(context.trained_heads(examples))
        self._measures = (loss,) if right is None else (loss, right)
        self.memory: dict[str, Tensor] = {
            "best.loss": torch.tensor(math.inf, dtype=torch.float64),
            "best.right": torch.zeros((), dtype=torch.float64),
            "best.first_right": torch.zeros((), dtype=torch.float64),
            "best.epoch": torch.zeros(()),
        }
        self.memory |= {f"best.state.{name}": value.detach().clone() for name, value in module.state_dict().items()}
        self.first = self.offer(module, 0)
        self.memory["best.first_right"].copy_(self.memory["best.right"])

    @property
    def found(self) -> Offered:
        """Of the best state."""
        return Offered(float(self.memory["best.loss"]), float(self.memory["best.right"]) if len(self._measures) > 1 else None)

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
        loss, right = values[0], values[1] if len(values) > 1 else None
        worse = right is not None and right < float(self.memory["best.first_right"])
        if loss < float(self.memory["best.loss"]) and not worse:
            for name, value in (("best.loss", loss), ("best.right", right or 0.0), ("best.epoch", epoch)):
                self.memory[name].fill_(value)
            for name, value in module.state_dict().items():
                self.memory[f"best.state.{name}"].copy_(value)
        return Offered(loss, right)

    def restore(self, module: nn.Module) -> None:
        """Put the best state back."""
        start = "best.state."
        module.load_state_dict({name.removeprefix(start): value for name, value in self.memory.items() if name.startswith(start)})
