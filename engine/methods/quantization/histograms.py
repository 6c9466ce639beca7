"""Ranges read off histograms of what a tensor held."""

import numpy as np
from numpy.typing import NDArray

BINS = 2048
_LEVELS = 128
"""Levels of a signed 8-bit number on one side of zero."""
_STRIDE = 8
"""Thresholds that are tried stand this many bins apart."""
_SHARES, _LEAST_SHARE = 81, 0.2
"""Shares of each side of a range that are tried."""
_FLOOR = 1e-6
"""The share of a level that a clipped bin is given, so that clipping costs much but not everything."""


def percentile_range(counts: NDArray[np.int64], extrema: tuple[float, float], percentile: float) -> tuple[float, float]:
    """The range between `extrema` that keeps `percentile` percent of the values, cutting the same share at both ends."""
    edges = np.linspace(*extrema, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts) / max(1, counts.sum())])
    tail = (100.0 - percentile) / 200.0
    low = edges[int(np.searchsorted(share, tail, side="right")) - 1]
    high = edges[min(int(np.searchsorted(share, 1.0 - tail, side="left")), len(counts))]
    return float(low), float(high)


def mse_range(counts: NDArray[np.int64], extrema: tuple[float, float]) -> tuple[float, float]:
    """The range inside `extrema` that loses least when its numbers are stored in 8 bits: rounding inside, clipping outside of it.

    Source: Nagel et al., A White Paper on Neural Network Quantization, 2021, section 3.1.
    """
    edges = np.linspace(*extrema, len(counts) + 1)
    centres, mass = (edges[:-1] + edges[1:]) / 2, counts / max(1, counts.sum())
    zero = float(np.clip(0.0, *extrema))
    shares = np.linspace(1.0, _LEAST_SHARE, _SHARES)
    lows, highs = zero + (extrema[0] - zero) * shares, zero + (extrema[1] - zero) * shares
    clipped_low = np.array([np.sum(mass * np.square(np.maximum(low - centres, 0))) for low in lows])
    clipped_high = np.array([np.sum(mass * np.square(np.maximum(centres - high, 0))) for high in highs])
    # The stored range holds zero, whatever the numbers are.
    step = (np.maximum(highs, 0)[None, :] - np.minimum(lows, 0)[:, None]) / 255
    loss = np.square(step) / 12 + clipped_low[:, None] + clipped_high[None, :]
    low, high = np.unravel_index(int(loss.argmin()), loss.shape)
    return float(lows[low]), float(highs[high])


def entropy_threshold(counts: NDArray[np.int64]) -> float:
    """Where to clip magnitudes so that the quantized distribution diverges least (Kullback-Leibler) from the true one.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017. There the clipped mass is added to the last bin that is kept before the
    two are compared, so that a threshold below everything, where one bin holds it all, diverges by nothing: activations that do not
    come near zero, and few examples, collapse. Here both are compared on all bins, and clipped ones cost what they held.

    Args:
        counts: A histogram of absolute values over equal bins from 0 to the largest magnitude.

    Returns:
        The share of the largest magnitude to keep, in (0, 1].
    """
    bins = len(counts)
    values = counts.astype(np.float64)
    values[0] = values[1]
    """The peak of exact zeros that ReLU leaves is represented exactly by any threshold and would drown the rest."""
    total = values.sum()
    if total == 0:
        return 1.0
    truth = values / total
    occupied = truth > 0
    best, kept = np.inf, bins
    for size in range(bins, _LEVELS - 1, -_STRIDE):
        level = np.arange(size) * _LEVELS // size
        mass = np.bincount(level, weights=truth[:size], minlength=_LEVELS)
        width = np.bincount(level, weights=occupied[:size], minlength=_LEVELS)
        candidate = np.full(bins, _FLOOR)
        candidate[:size] = (mass / np.maximum(width, 1))[level]
        # What is clipped is stored as the largest number that there is.
        candidate[size - 1] += truth[size:].sum()
        held = occupied & (candidate > 0)
        divergence = float(np.sum(truth[held] * np.log(truth[held] / candidate[held])))
        if divergence < best:
            best, kept = divergence, size
    return kept / bins
