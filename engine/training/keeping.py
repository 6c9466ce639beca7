"""Which state a training ends with: the last one, the average of all, or the best one that validation examples saw."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor, nn

from engine.contract.params import TrainingFields
from engine.training.averages import Averages
from engine.training.stopping import Stopping


class Keeping:
    """The averages of a training and its best state, as far as its parameters ask for them."""

    def __init__(self, module: nn.Module, params: TrainingFields) -> None:
        self._averages = Averages(module, params.ema_decay) if params.ema_decay is not None else None
        self._stopping = Stopping(params.early_stopping) if params.early_stopping is not None else None

    @property
    def memories(self) -> dict[str, dict[str, Tensor]]:
        """What has to be saved with the training, by group."""
        averages = {} if self._averages is None else {"average": self._averages.values}
        return averages if self._stopping is None else {**averages, "best": self._stopping.best, "marks": self._stopping.marks}

    def step_done(self, module: nn.Module, iteration: int) -> None:
        """Take in the state after an optimizer step, from 1."""
        if self._averages is not None:
            self._averages.update(module, iteration)

    def epoch_done(self, module: nn.Module, validate: Callable[[nn.Module], dict[str, float]], epoch: int) -> tuple[dict[str, float], bool]:
        """Figures of the state that the training would end with now, and whether it is to end."""
        with self._averages.in_place(module) if self._averages is not None else nullcontext():
            figures = validate(module)
            ends = self._stopping is not None and self._stopping.look(module, figures, epoch)
        return figures, ends

    def leave(self, module: nn.Module) -> int | None:
        """Put the kept state into the module; returns the epoch of the best one, where one was looked for."""
        if self._averages is not None:
            self._averages.load(module)
        if self._stopping is None:
            return None
        self._stopping.load(module)
        return self._stopping.epoch
