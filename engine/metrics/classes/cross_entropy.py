"""Mean negative log-likelihood of the targets, in nats; of labels that are independent of each other, the mean over all of them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import negative_log_likelihoods


class Accumulator(Mean):
    """Sums them up."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        self.take(negative_log_likelihoods(self.head, outputs[0], self.target(targets)))
