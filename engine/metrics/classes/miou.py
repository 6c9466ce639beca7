"""Mean over the classes of right / (named + wanted - right), the intersection over the union of their places in the whole set."""

from __future__ import annotations

from engine.metrics.confusion import Confusion


class Accumulator(Confusion):
    """From counts over the whole set."""

    def value(self) -> float | None:
        """None where no class occurs; one that is neither named nor wanted does not count."""
        union = self.named + self.wanted - self.right
        seen = union > 0
        return float((self.right[seen] / union[seen]).mean()) if seen.any() else None
