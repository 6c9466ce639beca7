"""Which classes a compressed network recognizes worse or better than the original. Numpy only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.heads import Head
from engine.contract.report import ClassChange
from engine.tasks import task_of

Array = NDArray[Any]
MOST_CLASSES = 10_000
"""Outputs with more classes are not looked at: few of their classes have examples enough."""
MOST_SHOWN = 100
"""Classes of one output that are told, those that changed most."""


class ClassChanges:
    """Counts, class by class, how many examples the original and the result get right."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self._counted = [(head, _Counts()) for head in heads if head.has_targets and task_of(head).name == "classification"]

    def add(self, outputs: Sequence[Array], targets: Mapping[str, Array], inputs: Mapping[str, Array], original: Sequence[Array]) -> None:
        """Take one batch in: what the result and the original gave for the same examples."""
        for head, counts in self._counted:
            target = task_of(head).prepare(head, targets, inputs)
            after, before = outputs[head.indices[0]], original[head.indices[0]]
            if target is not None and after.ndim == 2 and after.shape == before.shape and after.shape[1] <= MOST_CLASSES:
                counts.add(target, before.argmax(axis=1), after.argmax(axis=1), after.shape[1])

    def changes(self) -> tuple[ClassChange, ...]:
        """The classes of every output, those first that lost most."""
        return tuple(change for head, counts in self._counted for change in counts.changes(head.name))


class _Counts:
    def __init__(self) -> None:
        self._examples = self._before = self._after = np.zeros(0, dtype=np.int64)
        self._taken_for: Counter[tuple[int, int]] = Counter()
        """Target and answer, of examples that the original had right and the result has not."""

    def add(self, target: Array, before: Array, after: Array, classes: int) -> None:
        if not len(self._examples):
            self._examples, self._before, self._after = (np.zeros(classes, dtype=np.int64) for _ in range(3))
        known = (target >= 0) & (target < classes)
        target, before, after = target[known], before[known], after[known]
        self._examples += np.bincount(target, minlength=classes)
        self._before += np.bincount(target[before == target], minlength=classes)
        self._after += np.bincount(target[after == target], minlength=classes)
        lost = (before == target) & (after != target)
        self._taken_for.update(zip(target[lost].tolist(), after[lost].tolist(), strict=True))

    def changes(self, output: str) -> list[ClassChange]:
        lost = self._before - self._after
        kept = sorted(np.flatnonzero(self._examples).tolist(), key=lambda number: (-abs(int(lost[number])), number))[:MOST_SHOWN]
        return [self._change(output, number) for number in sorted(kept, key=lambda number: (-int(lost[number]), number))]

    def _change(self, output: str, number: int) -> ClassChange:
        answers = {answer: count for (target, answer), count in self._taken_for.items() if target == number}
        mostly = max(answers, key=lambda answer: (answers[answer], -answer), default=None)
        return ClassChange(
            output=output,
            class_number=number,
            examples_count=int(self._examples[number]),
            right_before_count=int(self._before[number]),
            right_after_count=int(self._after[number]),
            mostly_taken_for=mostly,
        )
