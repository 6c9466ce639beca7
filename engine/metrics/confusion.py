"""Right and wrong answers counted by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import decisions, labelled_rows


class Confusion(Mean):
    """For every class (or independent label): how often it was right, how often it was named, how often it was the target."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self.right = self.named = self.wanted = np.zeros(0, dtype=np.int64)
        self.labels_count: int | None = None
        """How often each label was decided on, where they are independent of each other."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        target = self.target(targets)
        if self.head.class_axis is not None:
            rows, labels = labelled_rows(self.head, outputs[0], target)
            answers = rows.argmax(axis=1)
            count = rows.shape[1]
        elif outputs[0].ndim > 1 and outputs[0].shape[1] > 1:  # each label by itself: how well its yes is found
            yes, wished = (_by_label(item) for item in (decisions(self.head, outputs[0]), target.astype(bool)))
            self.labels_count = (self.labels_count or 0) + len(yes)
            self._count_in((yes & wished).sum(axis=0), yes.sum(axis=0), wished.sum(axis=0))
            return
        else:
            answers, labels = (item.reshape(-1).astype(np.int64) for item in (decisions(self.head, outputs[0]), target.astype(bool)))
            count = 2
        hits = np.bincount(labels[answers == labels], minlength=count)
        self._count_in(hits, np.bincount(answers, minlength=count), np.bincount(labels, minlength=count))

    def _count_in(self, right: Array, named: Array, wanted: Array) -> None:
        if not self.right.size:
            self.right = self.named = self.wanted = np.zeros(len(right), dtype=np.int64)
        self.right, self.named, self.wanted = self.right + right, self.named + named, self.wanted + wanted


def _by_label(decided: Array) -> Array:
    """(examples and positions, labels)."""
    return np.moveaxis(decided, 1, -1).reshape(-1, decided.shape[1])
