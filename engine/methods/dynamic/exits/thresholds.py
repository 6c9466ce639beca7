"""How sure an exit has to be, for a budget of multiply-accumulates. Numpy only.

Budgeted batch classification (Huang et al., 2018, section 4.2): the share of examples that stop at exit k is z·(1 - q)^(k-1)·q, with
q such that the budget is used up, and the threshold of an exit lets just so many of the validation examples stop there, the surest of
those that have not stopped before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
NEVER = math.inf
ALWAYS = -1e30


@dataclass(frozen=True)
class Calibrated:
    """The thresholds of one budget."""

    budget: float
    """Share of the whole network's multiply-accumulates."""
    thresholds: tuple[float, ...]
    """One for each exit but the last; infinite where nothing stops."""
    shares: tuple[float, ...]
    """Of the validation examples that stop at each exit."""
    macs_count: float
    """Mean of the validation examples."""


def shares_of(costs: Sequence[float], budget: float) -> NDArray[np.float64]:
    """Shares q_k ∝ p^k whose mean cost is `budget`; `costs` rise. All at the first or the last exit where the budget is beyond them."""
    cost = np.asarray(costs, dtype=np.float64)
    places = np.arange(len(cost))

    def shares(log_p: float) -> NDArray[np.float64]:
        weights = np.exp(log_p * places - max(0.0, log_p * places[-1]))
        return np.asarray(weights / weights.sum())

    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(shares(middle) @ cost) < budget else (low, middle)
    return shares((low + high) / 2)


def calibrate(confidences: Floats, costs: Sequence[float], budget: float, whole: float) -> Calibrated:
    """Thresholds for one budget.

    Args:
        confidences: Of every validation example (rows) at every exit (columns).
        costs: Multiply-accumulates up to each exit, all earlier exits included.
        budget: Mean multiply-accumulates, as a share of `whole`.
        whole: Multiply-accumulates of the whole network.
    """
    count, exits = confidences.shape
    bounds = np.rint(count * np.cumsum(shares_of(costs, budget * whole))).astype(int)
    thresholds: list[float] = []
    running = np.ones(count, dtype=bool)
    for place in range(exits - 1):
        wanted = int(bounds[place]) - (count - int(running.sum()))
        thresholds.append(_threshold(confidences[running, place], wanted))
        running &= ~(confidences[:, place] >= thresholds[-1])
    taken = stops(confidences, thresholds)
    shares = np.bincount(taken, minlength=exits) / count
    return Calibrated(budget, tuple(thresholds), tuple(float(share) for share in shares), float(shares @ np.asarray(costs)))


def stops(confidences: Floats, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """The exit, from 0, at which each example stops: the first one that is sure enough, else the last."""
    sure = np.column_stack([confidences[:, :-1] >= np.asarray(thresholds, dtype=confidences.dtype), np.ones(len(confidences), dtype=bool)])
    return np.asarray(sure.argmax(axis=1))


def _threshold(confidences: Floats, wanted: int) -> float:
    """A threshold that about `wanted` of the confidences reach. It lies between two of them, so that rounding sends none another way."""
    if wanted <= 0 or not len(confidences):
        return NEVER
    values, counts = np.unique(np.asarray(confidences, dtype=np.float64), return_counts=True)
    reached = np.cumsum(counts[::-1])[::-1]
    place = int(np.abs(reached - wanted).argmin())
    if wanted < reached[-1] - wanted:
        return NEVER
    if place == 0:
        return ALWAYS
    return float((values[place - 1] + values[place]) / 2)
