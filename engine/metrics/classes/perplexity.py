"""Exponential of the mean negative log-likelihood of all positions: among how many classes, equally likely, the network is torn."""

from __future__ import annotations

import math

from engine.metrics.classes import cross_entropy


class Accumulator(cross_entropy.Accumulator):
    """Of the whole set, and not a mean of the batches' perplexities."""

    def value(self) -> float | None:
        """None where it would be infinite."""
        mean = super().value()
        return None if mean is None or mean > math.log(1e300) else math.exp(mean)
