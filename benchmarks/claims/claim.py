"""What a claim is: something that is measured for each seed, and what has to hold for the mean over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.bench import Bench

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """One sentence that can be false."""

    sentence: str
    paper: str
    """The paper's figure, as it states it."""
    figure: Callable[[Figures], float]
    """What is compared, from the figures of one seed."""
    margin: float
    at_most: bool = False
    """The figure has to stay at or below the margin, instead of at or above it."""
    every_seed: bool = False
    """Exact statements hold for every seed, not for the mean."""

    def result(self, identifier: str, measured: Sequence[Figures]) -> dict[str, Any]:
        """The row of the report."""
        values = [self.figure(figures) for figures in measured]
        mean = statistics.fmean(values)
        worst = max(values) if self.at_most else min(values)
        decisive = worst if self.every_seed else mean
        return {
            "id": identifier,
            "claim": self.sentence,
            "paper": self.paper,
            "ours": mean,
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "seeds": len(values),
            "margin": self.margin,
            "comparison": "<=" if self.at_most else ">=",
            "values": values,
            "passed": decisive <= self.margin if self.at_most else decisive >= self.margin,
        }


@dataclass(frozen=True)
class Claim:
    """Measurements that several checks share."""

    id: str
    measure: Callable[[Bench, int], Figures]
    """Figures for one seed."""
    checks: tuple[Check, ...]
    alone: bool = False
    """Times things, so nothing else may run beside it."""


def difference(left: str, right: str) -> Callable[[Figures], float]:
    """`left` minus `right`."""
    return lambda figures: figures[left] - figures[right]


def quotient(left: str, right: str) -> Callable[[Figures], float]:
    """`left` over `right`."""
    return lambda figures: figures[left] / figures[right]


def one(name: str) -> Callable[[Figures], float]:
    """The figure itself."""
    return lambda figures: figures[name]
