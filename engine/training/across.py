"""Operations that look across a batch, besides those of torch: `engine.training.parallel` computes them over the batches of all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

Total = Callable[[Tensor], Tensor]


def uniform(rows: Tensor) -> Tensor:
    """A number from 0 to 1 for each row, drawn evenly by torch's generator; `rows` is (N, …) of a floating-point type."""
    if has_torch_function((rows,)):
        drawn: Tensor = handle_torch_function(uniform, (rows,), rows)
        return drawn
    return torch.rand(len(rows), dtype=rows.dtype, device=rows.device)


def batch_sum(rows: Tensor) -> Tensor:
    """The sum over the first dimension, for a result that no gradient is wanted of."""
    if has_torch_function((rows,)):
        summed: Tensor = handle_torch_function(batch_sum, (rows,), rows)
        return summed
    return rows.detach().sum(0)


def masked_batch_norm(  # noqa: PLR0917 - like torch's own
    values: Tensor,
    taken: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch normalization in training by the statistics of some of the rows; all rows are normalized by them.

    `values` is (N, C, …), `taken` (N,) is 1 where a row counts and 0 where it does not. With fewer than two values a channel there are
    no statistics: the running ones serve, and stay as they are.
    """
    arguments = (values, taken, running_mean, running_var, weight, bias, momentum, eps)
    if has_torch_function((values,)):
        normalized: Tensor = handle_torch_function(masked_batch_norm, (values,), *arguments)
        return normalized
    return normalize(*arguments, total=lambda part: part)


def normalize(  # noqa: PLR0917 - like torch's own
    values: Tensor,
    taken: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    *,
    total: Total,
) -> Tensor:
    """`masked_batch_norm` with the sum over all parts of the batch as `total`, through which gradients flow; None takes all rows.

    The variance is the mean square of differences from the mean, not a difference of squares, which would cost digits.
    """
    if values.dtype in (torch.bfloat16, torch.float16):  # of mixed precision: sums need more digits
        wide = normalize(values.float(), taken, running_mean, running_var, weight, bias, momentum, eps, total=total)
        return wide.to(values.dtype)
    over = [dimension for dimension in range(values.ndim) if dimension != 1]
    shape = [1, -1] + [1] * (values.ndim - 2)
    each = values.numel() // (len(values) * values.shape[1])
    factor = None if taken is None else taken.detach().to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    rows = torch.tensor(float(len(values)), device=values.device) if taken is None else taken.detach().sum()
    count = float(total(rows.to(torch.float64) * each))

    def mean_of(part: Tensor) -> Tensor:
        return total((part if factor is None else part * factor).sum(over)) / count

    if count >= 2:
        mean = mean_of(values)
        centred = values - mean.view(shape)
        variance = mean_of(centred.square())
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    elif running_mean is not None and running_var is not None:
        centred, variance = values - running_mean.view(shape), running_var
    else:
        centred, variance = values, values.new_ones(values.shape[1])
    scale: Any = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    result: Tensor = centred * scale.view(shape)
    return result if bias is None else result + bias.view(shape)
