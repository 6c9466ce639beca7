"""Share of the examples of which every decision is right: each label, each position."""

from __future__ import annotations

from collections.abc import Sequence

from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import decisions


class Accumulator(Mean):
    """Counts examples."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        answers = decisions(self.head, outputs[0])
        wanted = self.target(targets).reshape(answers.shape)
        right = answers == wanted
        if self.head.ignored is not None:
            right |= wanted == self.head.ignored
        self.take(right.reshape(len(right), -1).all(axis=1))
