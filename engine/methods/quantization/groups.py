"""Weights in groups that share a scale and a zero point, and their bits packed into bytes. NumPy only.

A weight w of a group is stored as the integer q with w ≈ scale · (q - zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.methods.quantization.refined import gptq

Rows = NDArray[np.float64]
_SMALLEST = 1e-30
_SHRUNK = np.linspace(1.0, 0.75, 11)
"""Shares of a group's range that are tried."""
_NORM, _SHARPER, _ROUNDS = 0.7, 1.01, 12
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
    count = -(-inputs // size)
    held = np.zeros((outputs, count * size))
    held[:, :inputs] = weight
    inside = np.arange(count * size).reshape(count, size) < inputs
    blocks = held.reshape(outputs, count, size)
    scales, zeros = _fitted(blocks, inside, bits=bits, symmetric=symmetric, search=refinement != "nearest")
    top = 2**bits - 1
    if refinement == "gptq" and moments is not None:
        steps, points = (spread(part, size, inputs) for part in (scales, zeros))
        integers = gptq(weight, moments, steps.astype(np.float64), (0, top), points.astype(np.float64))
    else:
        integers = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top).reshape(outputs, -1)[:, :inputs].astype(np.int32)
    return Grouped(integers.astype(np.uint8), scales.astype(np.float32), zeros.astype(np.uint8), size, bits)


def _fitted(blocks: Rows, inside: NDArray[np.bool_], *, bits: int, symmetric: bool, search: bool) -> tuple[Rows, Rows]:
    """Scales and zero points of (outputs, groups), as the file will hold them."""
    top = 2**bits - 1
    middle = float(2 ** (bits - 1))

    def grid(share: float) -> tuple[Rows, Rows]:
        low, high = np.minimum(blocks.min(2), 0) * share, np.maximum(blocks.max(2), 0) * share
        if symmetric:
            scales = np.maximum(-low / middle, high / (middle - 1))
            return _stored(scales), np.full(scales.shape, middle)
        scales = _stored((high - low) / top)
        return scales, np.clip(np.rint(-low / scales), 0, top)

    best_scales, best_zeros = grid(1.0)
    if not search:
        return best_scales, best_zeros
    least = _error(blocks, best_scales, best_zeros, top, inside)
    for share in _SHRUNK:
        scales, zeros = grid(share)
        tried = [zeros] if symmetric else [zeros, _half_quadratic(blocks, scales, zeros, top, inside)]
        for points in tried:
            error = _error(blocks, scales, points, top, inside)
            better = error < least
            best_scales, best_zeros = np.where(better, scales, best_scales), np.where(better, points, best_zeros)
            least = np.where(better, error, least)
    return best_scales, best_zeros


def _stored(scales: Rows) -> Rows:
    """Scales as float32 holds them; 1 for a group of nothing but zeros."""
    held = scales.astype(np.float32).astype(np.float64)
    return np.where(held > _SMALLEST, held, 1.0)


def _error(blocks: Rows, scales: Rows, zeros: Rows, top: int, inside: NDArray[np.bool_]) -> Rows:
    integers = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
    difference = (blocks - scales[..., None] * (integers - zeros[..., None])) * inside
    return np.asarray(np.einsum("ogi,ogi->og", difference, difference))


def _half_quadratic(blocks: Rows, scales: Rows, zeros: Rows, top: int, inside: NDArray[np.bool_]) -> Rows:
    """Zero points for which few weights are far off, by turns of a shrunk error and a mean. Source: Badri and Shaji, HQQ, 2023."""
    points, sharpness = zeros.copy(), 10.0 / np.maximum(scales[..., None], _SMALLEST)
    count = np.maximum(inside.sum(1), 1)
    for _ in range(_ROUNDS):
        integers = np.clip(np.rint(blocks / scales[..., None] + points[..., None]), 0, top)
        error = blocks - scales[..., None] * (integers - points[..., None])
        size = np.abs(error)
        kept = np.sign(error) * np.maximum(size - np.maximum(size, _SMALLEST) ** (_NORM - 1) / sharpness, 0)
        points = ((integers - (blocks - kept) / scales[..., None]) * inside).sum(2) / count
        sharpness *= _SHARPER
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


def from_nibbles(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What `nibbles` packed."""
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(*stored.shape[:-1], -1)
