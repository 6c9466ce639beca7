"""All scores of a set beside what was wanted, for metrics that rank: they cannot be added up from batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import counts, labelled_rows, log_probabilities

Curve = Callable[[Array, Array], float]
"""Scores and wanted (booleans, some true and some false) of one class to its figure."""


class Ranking(Mean):
    """Scores of every class (of two exclusive ones, of the second) and whether it was wanted."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._scores: list[Array] = []
        self._wanted: list[Array] = []
        self._counted: list[Array] = []

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        target = self.target(targets)
        if self.head.class_axis is not None:
            rows, labels = labelled_rows(self.head, outputs[0], target)
            scores, wanted = log_probabilities(rows, self.head.scale), labels[:, None] == np.arange(rows.shape[1])
            if rows.shape[1] == 2:
                scores, wanted = scores[:, 1:], wanted[:, 1:]
            counted = np.ones(wanted.shape, dtype=bool)
        else:
            scores = outputs[0].reshape(len(outputs[0]), -1).astype(np.float64)
            wanted, counted = target.reshape(scores.shape).astype(bool), counts(self.head, target).reshape(scores.shape)
        self._scores.append(scores.astype(np.float32))
        self._wanted.append(wanted)
        self._counted.append(counted)

    def mean_of(self, curve: Curve) -> float | None:
        """Mean over the classes of which there are examples and counterexamples; None where there are none."""
        values = [curve(scores, wanted) for scores, wanted in self._classes() if 0 < wanted.sum() < len(wanted)]
        return float(np.mean(values)) if values else None

    def _classes(self) -> Iterator[tuple[Array, Array]]:
        if self._scores:
            scores, wanted, counted = (np.concatenate(item) for item in (self._scores, self._wanted, self._counted))
            for one, wished, known in zip(scores.T, wanted.T, counted.T, strict=True):
                yield one[known], wished[known]
