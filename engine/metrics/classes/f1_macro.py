"""Mean over the classes of F1 = 2·right / (named + wanted); of classes that are neither named nor wanted there is none."""

from __future__ import annotations

from engine.metrics.confusion import Confusion


class Accumulator(Confusion):
    """From counts over the whole set."""

    def value(self) -> float | None:
        """None where no class occurs."""
        both = self.named + self.wanted
        seen = both > 0
        return float((2 * self.right[seen] / both[seen]).mean()) if seen.any() else None
