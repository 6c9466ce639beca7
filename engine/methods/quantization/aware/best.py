"""The best state of a training, by its loss on examples that it does not see."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.methods.context import Context
from engine.training.batches import Examples
from engine.training.loop import Moment
from engine.training.losses import Loss, mean_loss


class Best:
    """Keeps the state of least loss; lives in the memory of the training, so that another attempt goes on with it."""

    def __init__(self, module: nn.Module, examples: Examples, loss: Loss, context: Context) -> None:
        """`examples` are those on which states are compared."""
        self._examples, self._loss, self._context = examples, loss, context
        self.memory: dict[str, Tensor] = {"best.loss": torch.tensor(math.inf, dtype=torch.float64), "best.epoch": torch.zeros(())}
        self.memory |= {f"best.state.{name}": value.detach().clone() for name, value in module.state_dict().items()}
        self.offer(module, 0)

    @property
    def loss(self) -> float:
        """Of the best state."""
        return float(self.memory["best.loss"])

    @property
    def epoch(self) -> int:
        """After which it was the state; 0 is the beginning."""
        return int(self.memory["best.epoch"])

    def after_epoch(self, moment: Moment, record: dict[str, float]) -> None:
        """For the hooks of a training."""
        record["validation.loss"] = self.offer(moment.module, moment.epoch)

    @torch.no_grad()
    def offer(self, module: nn.Module, epoch: int) -> float:
        """Compare the present state; returns its loss."""
        found: float = self._context.replicas.once(
            lambda: mean_loss(module, self._examples, self._loss, self._context.input_names, self._context.device)
        )
        if found < self.loss:
            self.memory["best.loss"].fill_(found)
            self.memory["best.epoch"].fill_(epoch)
            for name, value in module.state_dict().items():
                self.memory[f"best.state.{name}"].copy_(value)
        return found

    def restore(self, module: nn.Module) -> None:
        """Put the best state back."""
        start = "best.state."
        module.load_state_dict({name.removeprefix(start): value for name, value in self.memory.items() if name.startswith(start)})
