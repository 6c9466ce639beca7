"""Coefficient of determination: 1 - Σ (target - output)² / Σ (target - mean target)²."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets


class Accumulator(Mean):
    """The mean over the columns of vectors; of images and sequences, whose single places hardly vary, all of them together.

    Deviations from the mean are merged batch by batch (Chan, Golub, LeVeque, 1983), which loses no digits where the mean is large.
    """

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._seen = 0
        self._mean: Array = np.zeros(0)
        self._spread: Array = np.zeros(0)
        self._error: Array = np.zeros(0)
        self._together = False

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        count = len(outputs[0])
        own, wanted = (item.astype(np.float64).reshape(count, -1) for item in (outputs[0], self.target(targets)))
        mean, error = wanted.mean(axis=0), np.square(wanted - own).sum(axis=0)
        spread = np.square(wanted - mean).sum(axis=0)
        if not self._seen:
            self._mean, self._spread, self._error = mean, spread, error
            self._together = outputs[0].ndim > 2
        else:
            between, total = mean - self._mean, self._seen + count
            self._spread = self._spread + spread + np.square(between) * self._seen * count / total
            self._mean = self._mean + between * count / total
            self._error = self._error + error
        self._seen += count

    def value(self) -> float | None:
        """At most 1; None where no target varies."""
        error, spread = (item.sum(keepdims=True) if self._together else item for item in (self._error, self._spread))
        varies = spread > 0
        return float((1 - error[varies] / spread[varies]).mean()) if varies.any() else None
