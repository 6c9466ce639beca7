"""Numbers in 8 bits: scales and zero points of ranges, weights and biases. NumPy only.

A real number r is stored as the integer q with r ≈ scale · (q - zero_point). Source: Jacob et al., CVPR 2018, section 2.1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_SCALE = np.float32(1e-36)
"""Smaller scales would make products of two of them vanish in float32; what needs one is zero for every purpose."""
PAIR = 127.99
"""Rounded to integers, two numbers that add up to this add up to 128 at most."""
_BLOCK = 1 << 16
"""Weights that are looked at together: as many as stay in a processor's cache."""
BIAS_LEVELS = 2.0**30
"""Largest bias in units of its scale: half of an int32 is left for the products that are added to it."""


@dataclass(frozen=True)
class Scaling:
    """How one tensor of activations is stored: one scale and one zero point, as unsigned or signed bytes."""

    scale: np.float32
    zero_point: NDArray[Any]
    """A scalar of type uint8 or int8."""

    @property
    def bounds(self) -> tuple[np.float32, np.float32]:
        """The smallest and the largest number that can be stored."""
        limits, zero = np.iinfo(self.zero_point.dtype), int(self.zero_point)
        return np.float32(self.scale * np.float32(limits.min - zero)), np.float32(self.scale * np.float32(limits.max - zero))


def scaling(low: float, high: float, *, symmetric: bool, at_most: float | None = None) -> Scaling:
    """The scaling of a range, widened to hold zero; 1 and zero where the range is nothing but zero.

    Args:
        low: Smallest number.
        high: Largest number.
        symmetric: Signed bytes around zero, instead of unsigned ones with a zero point.
        at_most: A number that the largest storable one must not exceed, not even by rounding: the upper bound of a Clip before it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        peak = max(-low, high)
        scale = np.float32(peak / 127)
        return Scaling(scale if scale > SMALLEST_SCALE else np.float32(1), np.array(0, np.int8))
    scale = np.float32((high - low) / 255)
    if not scale > SMALLEST_SCALE:
        return Scaling(np.float32(1), np.array(0, np.uint8))
    zero = np.array(np.clip(np.rint(-low / float(scale)), 0, 255), np.uint8)
    found = Scaling(scale, zero)
    while at_most is not None and at_most >= high and found.bounds[1] > np.float32(at_most):
        found = Scaling(np.nextafter(found.scale, np.float32(0)), zero)
    return found


def rounded(values: NDArray[Any], how: Scaling) -> NDArray[Any]:
    """A constant in the storage of an activation."""
    limits = np.iinfo(how.zero_point.dtype)
    shifted = np.rint(values.astype(np.float64) / float(how.scale)) + int(how.zero_point)
    stored: NDArray[Any] = np.clip(shifted, limits.min, limits.max).astype(how.zero_point.dtype)
    return stored


def weight_scales(weight: NDArray[Any], axis: int | None, levels: int) -> NDArray[np.float32]:
    """The symmetric scale of a weight: a scalar, or one for each index of dimension `axis`. A channel of zeros has the scale 1."""
    others = None if axis is None else tuple(dim for dim in range(weight.ndim) if dim != axis)
    high = np.max(weight, axis=others, initial=0).astype(np.float64)
    low = np.min(weight, axis=others, initial=0).astype(np.float64)
    scales = (np.maximum(high, -low) / levels).astype(np.float32)
    return np.asarray(np.where(scales > SMALLEST_SCALE, scales, np.float32(1)), np.float32)


def portable_scales(weight: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
    """The symmetric scales, like `weight_scales`, with which no 8-bit kernel saturates.

    Processors without VNNI add the products of two neighbouring weights and two unsigned activations in 16 bits (`vpmaddubsw`), which overflow
    where weights of a sign add up to more than 128. So neighbours never do, in each order in which a kernel may go through
    them; with one scale for the whole tensor, any two of it.
    """
    peaks = np.abs(weight).max(None if axis is None else tuple(dim for dim in range(weight.ndim) if dim != axis), initial=0)
    scales = np.asarray(peaks, np.float64) / 127
    if axis is None:
        rows = weight.reshape(1, -1)
        scales = np.maximum(scales, max(_pair(rows)[0], _pair(-rows)[0]) / PAIR)
    else:
        channels = np.moveaxis(weight, axis, 0)
        step = max(1, _BLOCK * len(channels) // max(1, weight.size))
        sums = [_largest_sums(channels[start : start + step]) for start in range(0, len(channels), step)]
        scales = np.maximum(scales, np.concatenate([*sums, np.zeros(0)]) / PAIR)
    stored = scales.astype(np.float32)
    return np.asarray(np.where(stored > SMALLEST_SCALE, stored, np.float32(1)), np.float32)


def within_pairs(integers: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Integers of which no two that a kernel adds up exceed 128: the smaller of two gives up what is too much."""
    kept = np.array(integers, order="C")
    if axis is None:
        limit = 64 if max(_pair(side.reshape(1, -1))[0] for side in (kept, -kept)) > 128 else 127
        return np.asarray(np.clip(kept, -limit, limit))
    for place in range(len(_orders(kept, axis))):
        rows = _orders(kept, axis)[place]
        for sign in (1, -1):
            side = sign * rows[:, : rows.shape[1] // 2 * 2].astype(np.int64)
            left, right = side[:, 0::2], side[:, 1::2]
            excess = np.where((left > 0) & (right > 0), np.maximum(left + right - 128, 0), 0)
            left_is_less = left <= right
            rows[:, 0 : side.shape[1] : 2] -= (sign * np.where(left_is_less, excess, 0)).astype(rows.dtype)
            rows[:, 1 : side.shape[1] : 2] -= (sign * np.where(left_is_less, 0, excess)).astype(rows.dtype)
        kept = _from_order(rows, kept.shape, axis, place)
    return kept


def _orders(weight: NDArray[Any], axis: int | None) -> list[NDArray[Any]]:
    """A weight as (outputs, inputs) in each order of its inputs: of a convolution channels first, and channels last."""
    if axis is None:
        return [weight.reshape(1, -1)]
    rows = np.moveaxis(weight, axis, 0)
    plain = rows.reshape(len(rows), -1).copy()
    return [plain] if weight.ndim == 2 else [plain, np.moveaxis(rows, 1, -1).reshape(len(rows), -1).copy()]


def _from_order(rows: NDArray[Any], shape: tuple[int, ...], axis: int, place: int) -> NDArray[Any]:
    """Undoes `_orders`."""
    moved = (shape[axis], *(size for dim, size in enumerate(shape) if dim != axis))
    if place:
        rows = np.moveaxis(rows.reshape(moved[0], *moved[2:], moved[1]), -1, 1)
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))


def _largest_sums(channels: NDArray[Any]) -> NDArray[np.float64]:
    """The largest magnitude of the sum of two neighbours of one sign (the first and the second, the third and the fourth …) of each channel."""
    orders = [channels] if channels.ndim == 2 else [channels, np.moveaxis(channels, 1, -1)]
    found = np.zeros(len(channels))
    for order in orders:
        rows = order.reshape(len(order), -1).astype(np.float64)
        if rows.shape[1] % 2:
            rows = np.concatenate([rows, np.zeros((len(rows), 1))], axis=1)
        for side in (np.maximum(rows, 0), np.minimum(rows, 0)):
            found = np.maximum(found, np.abs(side[:, 0::2] + side[:, 1::2]).max(1, initial=0))
    return found


def _pair(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of the two largest positive numbers of each row."""
    count = min(2, rows.shape[1])
    if not count:
        return np.zeros(len(rows))
    largest = np.partition(rows, rows.shape[1] - count, axis=1)[:, -count:]
    return np.asarray(np.maximum(largest, 0).astype(np.float64).sum(1))


def rounded_weight(weight: NDArray[Any], scales: NDArray[np.float32], axis: int | None, levels: int) -> NDArray[np.int8]:
    """The 8-bit integers of a weight: weight ≈ integers · scales, |integers| ≤ levels."""
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    quotient = weight.astype(np.float32) / scales.reshape(shape)
    integers: NDArray[np.int8] = np.clip(np.rint(quotient, out=quotient), -levels, levels).astype(np.int8)
    return integers


def bias_fits(bias: NDArray[Any], scales: NDArray[np.float32], activation: np.float32) -> NDArray[np.float32]:
    """The weight's scales, raised where the bias of a channel would not fit into 32 bits at `activation · scale`.

    A bias that large in comparison with all products drowns what coarser weights lose.
    """
    least = np.abs(bias.astype(np.float64)) / (BIAS_LEVELS * float(activation))
    if scales.ndim == 0:
        return np.asarray(np.maximum(scales, least.max(initial=0.0)), np.float32)
    return np.maximum(scales, least).astype(np.float32)
