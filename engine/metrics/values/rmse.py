"""Square root of the mean squared error over all values, in the targets' unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.metrics.accumulator import Array, Mean, Targets


class Accumulator(Mean):
    """Sums squared errors up."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        own = outputs[0].astype(np.float64)
        self.take(np.square(own - self.target(targets).reshape(own.shape)))

    def value(self) -> float | None:
        """The root of their mean."""
        mean = super().value()
        return None if mean is None else math.sqrt(mean)
