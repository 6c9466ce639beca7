"""Weights in groups that share a scale and a zero point, and their bits packed into bytes. NumPy only.

A weight w of a group is stored as the integer q with w ≈ scale · (q - zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.methods.quantization.refined import gptq

Rows = NDArray[np.float64]
Block = NDArray[np.float32]
_SMALLEST = 1e-30
_SHRUNK = (0.95, 0.9, 0.85, 0.8)
"""Shares of a group's range that are tried besides the whole."""
_AT_ONCE = 1 << 18
"""Weights that are fitted at a time, so that they stay in the cache."""
_NORM, _SHARPER, _ROUNDS = 0.7, 1.01, 6
"""The norm of the error, how fast it sharpens, and the rounds of half-quadratic splitting."""


@dataclass(frozen=True)
class Grouped:
    """One matrix."""

    integers: NDArray[np.uint8]
    """(outputs, inputs), from 0 to 2^bits - 1."""
    scales: NDArray[np.float32]
    """(outputs, groups)."""
    zeros: NDArray[np.uint8]
    """(outputs, groups)."""
    size: int
    """Inputs of a group; the last one may be smaller."""
    bits: int

    def widened(self) -> NDArray[np.float32]:
        """The weights that the file stands for."""
        scales, zeros = (spread(part, self.size, self.integers.shape[1]) for part in (self.scales, self.zeros.astype(np.float32)))
        return np.asarray(scales * (self.integers.astype(np.float32) - zeros), np.float32)


def spread(part: NDArray[np.float32], size: int, inputs: int) -> NDArray[np.float32]:
    """A figure of each group for each of its weights."""
    return np.repeat(part, size, axis=1)[:, :inputs]


def grouped(weight: Rows, *, bits: int, size: int, symmetric: bool, refinement: str, moments: Rows | None = None) -> Grouped:
    """Store a matrix.

    Args:
        weight: (outputs, inputs).
        bits: 4 or 8.
        size: Inputs of a group.
        symmetric: Whether zero stands in the middle of the integers.
        refinement: `nearest`, `hqq` or `gptq`.
        moments: (inputs, inputs) of the inputs, for `gptq`.
    """
    outputs, inputs = weight.shape
    size = min(size, max(inputs, 1))
    count, top = -(-inputs // size), 2**bits - 1
    inside = np.arange(count * size).reshape(count, size) < inputs
    scales, zeros = np.empty((outputs, count), np.float32), np.empty((outputs, count), np.float32)
    integers = np.empty((outputs, inputs), np.uint8)
    step = max(1, _AT_ONCE // max(1, inputs))
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        held = np.zeros((len(weight[part]), count * size), np.float32)
        held[:, :inputs] = weight[part]
        blocks = held.reshape(-1, count, size)
        scales[part], zeros[part] = _fitted(blocks, inside, bits=bits, symmetric=symmetric, search=refinement != "nearest")
        chosen = np.clip(np.rint(blocks / scales[part, :, None]) + zeros[part, :, None], 0, top)
        integers[part] = chosen.reshape(-1, count * size)[:, :inputs]
    if refinement == "gptq" and moments is not None:
        steps, points = (spread(part, size, inputs).astype(np.float64) for part in (scales, zeros))
        integers = gptq(weight, moments, steps, (0, top), points).astype(np.uint8)
    return Grouped(integers, scales, zeros.astype(np.uint8), size, bits)


def _fitted(blocks: Block, inside: NDArray[np.bool_], *, bits: int, symmetric: bool, search: bool) -> tuple[Block, Block]:
    """Scales and zero points of (outputs, groups), as the file will hold them."""
    top, middle = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    lows, highs = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)

    def grid(share: float) -> tuple[Block, Block]:
        low, high = lows * np.float32(share), highs * np.float32(share)
        if symmetric:
            scales = _stored(np.maximum(-low / middle, high / (middle - 1)))
            return scales, np.full_like(scales, middle)
        scales = _stored((high - low) / top)
        return scales, np.clip(np.rint(-low / scales), 0, top)

    scales, zeros = grid(1.0)
    if not search:
        return scales, zeros
    least = _error(blocks, scales, zeros, top, inside)
    for share in _SHRUNK:
        scales, zeros, least = _better((scales, zeros, least), grid(share), blocks, top, inside)
    if not symmetric:
        turned = _half_quadratic(blocks, scales, zeros, top, inside)
        scales, zeros, least = _better((scales, zeros, least), (scales, turned), blocks, top, inside)
    return scales, zeros


def _better(
    best: tuple[Block, Block, Block], tried: tuple[Block, Block], blocks: Block, top: np.float32, inside: NDArray[np.bool_]
) -> tuple[Block, Block, Block]:
    """The better of two choices for each group."""
    error = _error(blocks, *tried, top, inside)
    wins = error < best[2]
    return np.where(wins, tried[0], best[0]), np.where(wins, tried[1], best[1]), np.where(wins, error, best[2])


def _stored(scales: Block) -> Block:
    """1 for a group of nothing but zeros."""
    return np.where(scales > _SMALLEST, scales, np.float32(1)).astype(np.float32)


def _error(blocks: Block, scales: Block, zeros: Block, top: np.float32, inside: NDArray[np.bool_]) -> Block:
    integers = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
    difference = (blocks - scales[..., None] * (integers - zeros[..., None])) * inside
    return np.asarray(np.einsum("ogi,ogi->og", difference, difference), np.float32)


def _half_quadratic(blocks: Block, scales: Block, zeros: Block, top: np.float32, inside: NDArray[np.bool_]) -> Block:
    """Zero points for which few weights are far off, by turns of a shrunk error and a mean. Source: Badri and Shaji, HQQ, 2023."""
    # The sharpness of the splitting is in units of a step, so that it does not depend on how large the weights are.
    points, sharpness = zeros.copy(), np.float32(10.0)
    count = np.maximum(inside.sum(1), 1)
    for _ in range(_ROUNDS):
        integers = np.clip(np.rint(blocks / scales[..., None] + points[..., None]), 0, top)
        steps = blocks / scales[..., None] - (integers - points[..., None])
        size = np.abs(steps)
        kept = np.sign(steps) * np.maximum(size - np.maximum(size, np.float32(1e-6)) ** np.float32(_NORM - 1) / sharpness, 0)
        points = (((integers - blocks / scales[..., None] + kept) * inside).sum(2) / count).astype(np.float32)
        sharpness *= np.float32(_SHARPER)
    return np.clip(np.rint(points), 0, top)


def packed_blocks(stored: Grouped) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Weights, scales and zero points as MatMulNBits reads them: low nibble first, the last group filled up with its zero point."""
    outputs, inputs = stored.integers.shape
    count = stored.scales.shape[1]
    whole = np.repeat(stored.zeros, stored.size, axis=1)
    whole[:, :inputs] = stored.integers
    zeros = stored.zeros
    if stored.bits == 4:
        whole = nibbles(whole)
        zeros = nibbles(np.concatenate([zeros, np.zeros((outputs, count % 2), np.uint8)], axis=1))
    return whole.reshape(outputs, count, -1), stored.scales, zeros


def nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers below 16 to a byte along the last dimension, which is even; the first one in the low half."""
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << 4), np.uint8)
