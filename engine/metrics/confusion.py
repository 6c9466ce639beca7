"""Right and wrong answers counted by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets
from engine.metrics.scores import counts, decisions, labelled_rows


class Confusion(Mean):
    """For every class (or independent label): how often it was right, how often it was named, how often it was the target."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self.right = self.named = self.wanted = np.zeros(0, dtype=np.int64)
        self.labels_count: Array | None = None
        """How often each label was decided on, where they are independent of each other."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        target = self.target(targets)
        if self.head.class_axis is not None:
            rows, labels = labelled_rows(self.head, outputs[0], target)
            answers = rows.argmax(axis=1)
            count = rows.shape[1]
        else:
            target = target.reshape(outputs[0].shape)
            answers, labels, counted = decisions(self.head, outputs[0]), target.astype(bool), counts(self.head, target)
            if self.head.labels_axis is not None:  # each label by itself: how well its yes is found
                yes, wished, known = (_by_label(item, self.head.labels_axis) for item in (answers, labels, counted))
                found = known.sum(axis=0)
                self.labels_count = found if self.labels_count is None else self.labels_count + found
                self._count_in((yes & wished & known).sum(axis=0), (yes & known).sum(axis=0), (wished & known).sum(axis=0))
                return
            answers, labels = (item[counted].astype(np.int64) for item in (answers, labels))
            count = 2
        hits = np.bincount(labels[answers == labels], minlength=count)
        self._count_in(hits, np.bincount(answers, minlength=count), np.bincount(labels, minlength=count))

    def _count_in(self, right: Array, named: Array, wanted: Array) -> None:
        if not self.right.size:
            self.right = self.named = self.wanted = np.zeros(len(right), dtype=np.int64)
        self.right, self.named, self.wanted = self.right + right, self.named + named, self.wanted + wanted


def _by_label(decided: Array, axis: int) -> Array:
    """(examples and positions, labels)."""
    return np.moveaxis(decided, axis, -1).reshape(-1, decided.shape[axis])
