"""Share of the examples whose best class, or whose yes or no, is the right one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import among_best, counts, decisions, labelled_rows


class Accumulator(Mean):
    """Counts right answers; of equal scores the first class is named, as argmax does."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        target = self.target(targets)
        if self.head.class_axis is None:
            right = decisions(self.head, outputs[0]).reshape(-1) == target.reshape(-1).astype(bool)
            self.take(right[counts(self.head, target).reshape(-1)])
        else:
            self.take(among_best(*labelled_rows(self.head, outputs[0], target), k=1))
