"""k-means of single numbers. NumPy only."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Start = Literal["linear", "density", "random"]
_MOST_ROUNDS = 300


def cluster(values: NDArray[np.float32], count: int, start: Start, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most `count` centres in ascending order, each the mean of the numbers nearest to it (Lloyd, 1982).

    Centres that no number is nearest to are left out. Sources of the starts: Han et al., Deep Compression, section 3.1.
    """
    ordered = np.sort(values.astype(np.float64), axis=None)
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return distinct.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = _start(ordered, distinct, count, start, rng)
    for _ in range(_MOST_ROUNDS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        sizes = np.diff(bounds)
        found = (sums[bounds[1:]] - sums[bounds[:-1]])[sizes > 0] / sizes[sizes > 0]
        if len(found) == len(centres) and np.array_equal(found, centres):
            break
        centres = found
    return np.unique(centres.astype(np.float32))


def nearest(values: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The index of the nearest of up to 256 ascending centres, in the shape of the values."""
    middles = (centres[1:].astype(np.float64) + centres[:-1].astype(np.float64)) / 2
    return np.searchsorted(middles, values.astype(np.float64)).astype(np.uint8)


def _start(
    ordered: NDArray[np.float64], distinct: NDArray[np.float64], count: int, start: Start, rng: np.random.Generator
) -> NDArray[np.float64]:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.unique(np.quantile(ordered, (np.arange(count) + 0.5) / count))
    return np.sort(rng.choice(distinct, count, replace=False))
