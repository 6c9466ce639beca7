"""Operators that look across a batch, computed as if the parts of all processes were one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from engine.training.across import batch_sum, masked_batch_norm, normalize, uniform
from engine.training.parallel.lost import lost

_DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
)


def total_(tensor: Tensor) -> Tensor:
    """Sum over all processes, in place; the same bits in each of them."""
    with lost():
        dist.all_reduce(tensor)
    return tensor


class _Total(torch.autograd.Function):
    """Sum over all processes. The sum reaches every process's loss, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return total_(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total_(gradients[0].clone(memory_format=torch.contiguous_format))


class WholeBatch(TorchFunctionMode):
    """While active, batch normalization in training uses statistics of the whole batch, and random numbers are drawn for all of it.

    Every process draws the same random numbers as a single one would, and keeps those of its examples `start` to `stop` of `count`.
    Works on functional calls, so the module is as it was, whatever its layers are made of.
    """

    def __init__(self, start: int, stop: int, count: int) -> None:
        super().__init__()
        self._start, self._stop, self._count = start, stop, count

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Replace the operators that look across the batch; leave all others alone."""
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func in _DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        if func is masked_batch_norm:
            return normalize(*args, **kwargs, total=_Total.apply)
        if func is batch_sum:
            return total_(batch_sum(*args, **kwargs).clone())
        if func is uniform:
            (rows,) = args
            return uniform(rows.new_empty(self._count))[self._start : self._stop]
        return func(*args, **kwargs)

    def _dropout(self, drop: Callable[..., Tensor], values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`drop`, at the places of this part in a batch that is zero elsewhere."""
        local = self._stop - self._start
        if not training or p == 0 or values.shape[0] % local:  # no batch dimension in front: nothing to take a part of
            return drop(values, p, training, inplace)
        rows = values.shape[0] // local
        before, after = rows * self._start, rows * (self._count - self._stop)
        padding = [0, 0] * (values.ndim - 1) + [before, after]
        dropped = drop(functional.pad(values, padding), p, True, False)
        return dropped[before : before + values.shape[0]]


def _batch_norm(  # noqa: PLR0917 - torch's own signature
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalization (Ioffe, Szegedy, 2015, algorithm 1) over the values of all processes; `values` is (N, C, …)."""
    if not training:
        return functional.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    return normalize(values, None, running_mean, running_var, weight, bias, momentum, eps, total=_Total.apply)
