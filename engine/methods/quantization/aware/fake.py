"""Numbers rounded to the grid of a QDQ file in the forward pass, bit by bit as the runtime does it, with gradients that pass straight through.

A number x becomes (clamp(round(x / step), low, high)) · step, where low and high count from the zero point; halves round to even, and the
division is a division, as in QuantizeLinear. Sources: Bengio et al., 2013 (straight-through estimator); Jacob et al., CVPR 2018;
Esser et al., Learned Step Size Quantization, ICLR 2020.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.methods.quantization.rounding import BIAS_LEVELS, PAIR, SMALLEST_SCALE, Scaling

_BLOCK = 2**20
"""Numbers of a weight that are looked at together: in twice their precision, and several times over."""
_SMALLEST_RATIO = 1e-3
"""A learned step does not become smaller than this share of the calibrated one, nor negative."""


class Round(torch.autograd.Function):
    """(values, step, low, high) ↦ the nearest number of the grid.

    Gradients (Esser et al., equations 3 and 5), with v = value / step: of a value 1 where v rounds to a number of the grid, else 0; of the
    step round(v) - v between `low` and `high`, and beyond them that end.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        """The step is a scalar, or has the rank of the values."""
        ctx.save_for_backward(values, step)
        ctx.limits = low, high
        return (values / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Straight through, cut at the ends."""
        values, step = ctx.saved_tensors
        (low, high), gradient = ctx.limits, gradients[0]
        units = values / step
        nearest = units.round() if ctx.needs_input_grad[1] else units.round_()
        # The largest weight stands at the end of its grid up to rounding, on either side.
        of_values = gradient * ((nearest >= low) & (nearest <= high))
        if not ctx.needs_input_grad[1]:
            return of_values, None, None, None
        units = torch.where((units >= low) & (units <= high), nearest - units, units.clamp(low, high))
        return of_values, (gradient * units).sum_to_size(step.shape), None, None


class Through(torch.autograd.Function):
    """(values, rounded) ↦ rounded, with the gradient of the values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor) -> Tensor:
        """What was rounded."""
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Straight through."""
        return gradients[0], None


class _Scaled(torch.autograd.Function):
    """(ratio, unit, factor) ↦ ratio · unit, the gradient of the product times `factor` / unit.

    Of a step that is learned as a share of the calibrated one: plain gradient descent on the ratio then moves the step as descent on the
    step itself would with its gradient times `factor`, and Adam moves every step by the same share, whatever the unit of its tensor.
    """

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, unit: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(unit)
        ctx.factor = factor
        return unit * ratio.clamp_min(_SMALLEST_RATIO)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (unit,) = ctx.saved_tensors
        return gradients[0] * (ctx.factor / unit), None, None


def step_factor(count: int, high: int) -> float:
    """What the gradient of a step is multiplied by: 1 / √(count · high), `count` numbers sharing the step (Esser et al., section 2.2)."""
    return 1 / math.sqrt(max(1, count) * max(1, high))


class FakeQuantize(nn.Module):
    """Rounds activations as QuantizeLinear and DequantizeLinear do with one scale and zero point; the zero point stays."""

    unit: Tensor
    ratio: Tensor

    def __init__(self, how: Scaling, *, learned: bool) -> None:
        super().__init__()
        limits, zero = np.iinfo(how.zero_point.dtype), int(how.zero_point)
        self.low, self.high = limits.min - zero, limits.max - zero
        self._how, self.learned = how, learned
        self.register_buffer("unit", torch.tensor(float(how.scale)))
        if learned:
            self.ratio = nn.Parameter(torch.ones(()))

    def step(self, count: int = 1) -> Tensor:
        """The scale as it is now; `count` numbers of one example share it."""
        if not self.learned:
            return self.unit
        scaled: Tensor = _Scaled.apply(self.ratio, self.unit, step_factor(count, max(self.high, -self.low)))  # type: ignore[no-untyped-call]  # inherited from torch
        return scaled

    def forward(self, values: Tensor) -> Tensor:
        """The values as the quantized file reads them."""
        count = math.prod(values.shape[1:])
        values = values.float()  # where the network computes in fewer bits while it trains
        rounded: Tensor = Round.apply(values, self.step(count), self.low, self.high)  # type: ignore[no-untyped-call]  # inherited from torch
        return rounded

    def scaling(self) -> Scaling:
        """How the file stores the tensor."""
        return Scaling(np.float32(self.step().item()), self._how.zero_point)


class WeightStep(nn.Module):
    """The step of one weight in a file: of the whole tensor, or of each index of its dimension `axis`."""

    unit: Tensor
    ratio: Tensor

    def __init__(self, weight: Tensor, axis: int | None, levels: int, *, learned: bool, portable: bool = False) -> None:
        """`levels` is the largest integer; `portable` keeps two together within 128, see `rounding.portable_scales`."""
        super().__init__()
        self.axis, self.levels, self.learned = axis, levels, learned
        self._needed = paired if portable else largest
        if learned:
            unit = self._needed(weight.detach(), axis, levels)
            self.register_buffer("unit", unit)
            self.ratio = nn.Parameter(torch.ones_like(unit))

    def forward(self, weight: Tensor) -> Tensor:
        """The step of the present weight: the learned one, or the one that its largest magnitude needs."""
        if not self.learned:
            return self._needed(weight.detach(), self.axis, self.levels)
        factor = step_factor(weight.numel() // max(1, self.unit.numel()), self.levels)
        scaled: Tensor = _Scaled.apply(self.ratio, self.unit, factor)  # type: ignore[no-untyped-call]  # inherited from torch
        return scaled

    def learned_step(self) -> Tensor:
        """The step that was learned, whatever the weight."""
        return self.unit * self.ratio.detach().clamp_min(_SMALLEST_RATIO)


def largest(weight: Tensor, axis: int | None, levels: int) -> Tensor:
    """The step with which `levels` steps reach the largest magnitude, as `rounding.weight_scales` has it."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    peak = weight.abs().amax(others) if others else weight.abs()
    step = (peak.double() / levels).float()
    return torch.where(step > float(SMALLEST_SCALE), step, torch.ones_like(step))


def paired(weight: Tensor, axis: int | None, levels: int) -> Tensor:
    """The step with which two integers that a kernel adds up make 128 at most, as `rounding.portable_scales` has it."""
    if axis is None:
        rows = weight.reshape(1, -1)
        sums = torch.stack([side.topk(min(2, rows.shape[1]), dim=1).values.clamp_min(0).double().sum(1) for side in (rows, -rows)]).amax(0)
    else:
        rows = weight.movedim(axis, 0)
        sums = torch.cat([_neighbours(part) for part in rows.split(max(1, _BLOCK * len(rows) // max(1, rows.numel())))])
    peaks = torch.maximum(rows.flatten(1).amax(1), -rows.flatten(1).amin(1))
    step = torch.maximum(sums / PAIR, peaks.double() / levels).float()
    step = torch.where(step > float(SMALLEST_SCALE), step, torch.ones_like(step))
    return step[0] if axis is None else step


def _neighbours(rows: Tensor) -> Tensor:
    """The largest magnitude of two neighbours of a sign together in each row, in each order in which a kernel goes through it."""
    sums = []
    for order in [rows] if rows.ndim == 2 else [rows, rows.movedim(1, -1)]:
        flat = order.flatten(1).double()
        flat = torch.nn.functional.pad(flat, (0, flat.shape[1] % 2))
        pairs = flat[:, 0::2], flat[:, 1::2]
        sums.append((pairs[0].clamp_min(0) + pairs[1].clamp_min(0)).amax(1))
        sums.append(-(pairs[0].clamp_max(0) + pairs[1].clamp_max(0)).amin(1))
    return torch.stack(sums).amax(0)


class Weigher:
    """How one layer reads its weight and its bias in the quantized file."""

    def __init__(self, step: WeightStep, source: FakeQuantize | None) -> None:
        """`source` rounds what the layer multiplies, where that is rounded: only then is the bias stored in integers."""
        self._step, self._source = step, source

    def stored(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight that the file holds, and the bias in units of activation · weight step; the gradient of the latter passes straight
        through."""
        step = own = self._fitting(self._step(weight), bias)
        if self._step.axis is not None:
            shape = [1] * weight.ndim
            shape[self._step.axis] = -1
            step = step.view(shape)
        rounded: Tensor = Round.apply(weight, step, -self._step.levels, self._step.levels)  # type: ignore[no-untyped-call]  # inherited from torch
        if self._source is None or bias is None:
            return rounded, bias
        with torch.no_grad():
            units = own * self._source.step()
            integers = (bias.double() / units.double()).round_().float() * units
        held: Tensor = Through.apply(bias, integers)  # type: ignore[no-untyped-call]  # inherited from torch
        return rounded, held

    def _fitting(self, step: Tensor, bias: Tensor | None) -> Tensor:
        """The step, raised where the bias would not fit into 32 bits; see `rounding.bias_fits`."""
        if self._source is None or bias is None:
            return step
        least = bias.detach().double().abs() / (BIAS_LEVELS * self._source.step().detach().double())
        return torch.maximum(step, (least if step.ndim else least.max()).float())
