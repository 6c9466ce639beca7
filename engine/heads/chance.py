"""Does a network know anything about the examples? Its answers beside those that do not look at the input. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.heads import Head
from engine.contract.metric import accumulator
from engine.metrics.confusion import Confusion
from engine.tasks import task_of

Array = NDArray[Any]
LEAST_EXAMPLES = 30
"""With fewer examples, everything is near chance."""
LEAST_KAPPA = 0.05
"""Share of the way from chance to always right; below it a network knows next to nothing."""
LEAST_R2 = 0.02
"""Share of the targets' variance explained; always naming their mean explains none."""


class Chance:
    """Takes the uploaded model's answers in, and returns which of its outputs do no better than chance."""

    def __init__(self, heads: Sequence[Head]) -> None:
        """Judge the heads that have targets and decide between classes, and those of plain values."""
        judged = [head for head in heads if head.has_targets and len(head.indices) == 1]
        self._deciding = [(head, Confusion(head)) for head in judged if head.decides]
        self._values = [(head, accumulator("r2")(head)) for head in judged if head.task == "regression"]
        self._count = 0

    def add(self, outputs: Sequence[Array], targets: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
        """Take one batch in."""
        for head, found in (*self._deciding, *self._values):
            target = task_of(head).prepare(head, targets, inputs)
            if target is not None:
                found.add([outputs[head.index]], {head.target or "": target}, None)
        self._count += len(outputs[0]) if outputs and outputs[0].ndim else 0

    def sentences(self) -> tuple[str, ...]:
        """One for each output near chance."""
        if self._count < LEAST_EXAMPLES:
            return ()
        found = []
        for head, confusion in self._deciding:
            right, expected, count = _agreement(confusion)
            if count and expected < 1:
                kappa, noise = (right - expected) / (1 - expected), math.sqrt(expected / (1 - expected) / min(count, self._count))
                if kappa < max(LEAST_KAPPA, 2 * noise):
                    found.append(f"output {head.name!r} is right in {100 * right:.1f} % of the cases, chance is {100 * expected:.1f} %")
        for head, explained in self._values:
            share = explained.value()
            if share is not None and share < LEAST_R2:
                found.append(f"output {head.name!r} is no nearer to its targets than their mean (R² {share:.3g})")
        return tuple(found)


def _agreement(found: Confusion) -> tuple[float, float, int]:
    """Share of right answers, the share that answers as frequent but drawn by chance would get (Cohen, 1960), and how many there were."""
    if not found.wanted.size:
        return 0.0, 0.0, 0
    if found.labels_count is not None:  # each label is a yes or no
        each = np.maximum(found.labels_count, 1)
        named, wanted = found.named / each, found.wanted / each
        right = 1 - (found.named + found.wanted - 2 * found.right) / each
        expected = named * wanted + (1 - named) * (1 - wanted)
        return float(right.mean()), float(expected.mean()), int(found.labels_count.max())
    total = int(found.wanted.sum())
    return float(found.right.sum() / total), float((found.named * found.wanted).sum() / total**2), total
