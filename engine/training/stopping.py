"""Early stopping: the best state of a training so far, and whether it is time to end (Prechelt, Early Stopping, but When?, 1998)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.metric import catalogue
from engine.contract.params import EarlyStopping

Figures = Mapping[str, float]


class Stopping:
    """What was seen of one training, an epoch at a time."""

    def __init__(self, params: EarlyStopping) -> None:
        self._params = params
        self._lower = params.metric == "loss" or catalogue()[params.metric].goal == "min"
        self.best: dict[str, Tensor] = {}
        """The state dict at its best, on the CPU; saved with the training."""
        self.marks: dict[str, Tensor] = {"value": torch.tensor(math.nan, dtype=torch.float64), "epoch": torch.tensor(0)}
        """The best value, and the epoch of it."""

    @property
    def epoch(self) -> int:
        """Of the best state; 0 before any was seen."""
        return int(self.marks["epoch"])

    def look(self, module: nn.Module, figures: Figures, epoch: int) -> bool:
        """Take in the figures of the state after `epoch`; returns whether the training is to end.

        Raises `metric_unknown` where the figures lack the metric.
        """
        value = figures.get(f"validation.{self._params.metric}")
        if value is None:
            raise EngineError(
                "metric_unknown",
                f"early_stopping looks at {self._params.metric}, which is not measured on the validation examples of this network.",
                hint=f"There are: {', '.join(sorted(name.removeprefix('validation.') for name in figures if name.startswith('validation.')))}.",
            )
        if not self.best or self._better(value):
            self.best.clear()
            self.best.update({name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()})
            self.marks["value"].fill_(value)
            self.marks["epoch"].fill_(epoch)
        return epoch - self.epoch >= self._params.patience

    def load(self, module: nn.Module) -> None:
        """Leave the best state in the module, if there is one."""
        if self.best:
            module.load_state_dict(self.best)

    def _better(self, value: float) -> bool:
        best = float(self.marks["value"])
        if math.isnan(best) or math.isnan(value):
            return not math.isnan(value)
        return (best - value if self._lower else value - best) > self._params.min_delta
