"""Share of the examples (and positions, and labels) for which both networks decide the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import decisions


class Accumulator(Mean):
    """Counts equal decisions; outputs that are plain values have none."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        assert reference is not None
        for own, other in zip(outputs, reference, strict=True):
            if self.head.decides or not np.issubdtype(own.dtype, np.floating):
                self.take(decisions(self.head, own) == decisions(self.head, other))
