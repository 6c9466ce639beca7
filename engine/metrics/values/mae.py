"""Mean absolute error over all values, in the targets' unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.metrics.accumulator import Array, Mean, Targets


class Accumulator(Mean):
    """Sums absolute errors up."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        own = outputs[0].astype(np.float64)
        self.take(np.abs(own - self.target(targets).reshape(own.shape)))
