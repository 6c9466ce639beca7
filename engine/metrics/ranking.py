"""All scores of a set beside what was wanted, for metrics that rank: they cannot be added up from batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import labelled_rows, log_probabilities

Curve = Callable[[Array, Array], float]
"""Scores and wanted (booleans, some true and some false) of one class to its figure."""


class Ranking(Mean):
    """Scores of every class (of two exclusive ones, of the second) and whether it was wanted."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._scores: list[Array] = []
        self._wanted: list[Array] = []

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        target = self.target(targets)
        if self.head.class_axis is not None:
            rows, labels = labelled_rows(self.head, outputs[0], target)
            scores, wanted = log_probabilities(rows), labels[:, None] == np.arange(rows.shape[1])
            if rows.shape[1] == 2:
                scores, wanted = scores[:, 1:], wanted[:, 1:]
        else:
            scores = outputs[0].reshape(len(outputs[0]), -1).astype(np.float64)
            wanted = target.reshape(scores.shape).astype(bool)
        self._scores.append(scores.astype(np.float32))
        self._wanted.append(wanted)

    def mean_of(self, curve: Curve) -> float | None:
        """Mean over the classes of which there are examples and counterexamples; None where there are none."""
        values = [curve(scores, wanted) for scores, wanted in self._classes() if 0 < wanted.sum() < len(wanted)]
        return float(np.mean(values)) if values else None

    def _classes(self) -> Iterator[tuple[Array, Array]]:
        if self._scores:
            scores, wanted = np.concatenate(self._scores), np.concatenate(self._wanted)
            yield from zip(scores.T, wanted.T, strict=True)
