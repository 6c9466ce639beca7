"""The best state of a training, by its loss on examples that it does not see."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.methods.context import Context
from engine.training.batches import Examples, batches
from engine.training.loop import Loss, Moment

_MOST_EXAMPLES = 4096
_TOGETHER = 256


class Best:
    """Keeps the state of least loss; lives in the memory of the training, so that another attempt goes on with it."""

    def __init__(self, module: nn.Module, examples: Examples, loss: Loss, context: Context) -> None:
        """`examples` are those on which states are compared, of which the first few thousand are read."""
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
        found: float = self._context.replicas.once(lambda: self._measured(module))
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

    def _measured(self, module: nn.Module) -> float:
        mode, total, seen = module.training, 0.0, 0
        module.eval()
        for batch in batches(self._examples, self._context.input_names, _TOGETHER, self._context.device):
            total += float(self._loss(module(*batch.inputs), batch)) * len(batch.indices)
            seen += len(batch.indices)
            if seen >= _MOST_EXAMPLES:
                break
        module.train(mode)
        return total / max(1, seen)
