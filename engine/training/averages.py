"""The exponential moving average of a network's weights during a training (Polyak, Juditsky, 1992; Tarvainen, Valpola, 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_STATISTICS = ("running_mean", "running_var")


class Averages:
    """Averages of the trained parameters and of batch normalization's running statistics; everything else is the module's own."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.values: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in _averaged(module).items()}
        """By the name that the tensor has in the module; in place all the time, as they are saved with the training."""

    @torch.no_grad()
    def update(self, module: nn.Module, iteration: int) -> None:
        """Take in the state after optimizer step `iteration`, from 1; early averages forget their beginning faster."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        own = _averaged(module)
        torch._foreach_lerp_(list(self.values.values()), [own[name].detach() for name in self.values], 1 - decay)

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module holds the averages; afterwards its own values again, bit by bit."""
        before = {name: tensor.detach().clone() for name, tensor in _averaged(module).items()}
        self.load(module)
        try:
            yield
        finally:
            _put(module, before)

    def load(self, module: nn.Module) -> None:
        """Leave the averages in the module."""
        _put(module, self.values)


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for path, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            found |= {f"{path}.{name}" if path else name: getattr(layer, name) for name in _STATISTICS}
    return found


@torch.no_grad()
def _put(module: nn.Module, values: dict[str, Tensor]) -> None:
    own = _averaged(module)
    for name, value in values.items():
        own[name].copy_(value)
