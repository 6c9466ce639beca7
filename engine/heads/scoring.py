"""Metrics of all heads together: overall, where the worst counts, and of each output. Numpy only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metric import accumulator, catalogue
from engine.metrics.accumulator import Accumulator
from engine.metrics.scores import counts
from engine.tasks import task_of

Array = NDArray[Any]


def measurable(heads: Sequence[Head], wanted: Collection[str] = (), *, usual: bool = True) -> dict[str, list[Head]]:
    """The metrics against targets, each with the heads that it is measured on: those `usual` for the heads' tasks, and those wanted."""
    found: dict[str, list[Head]] = {}
    for head in heads:
        task = task_of(head)
        chosen = (name for name in (*task.metrics, *task.more) if name in wanted or (usual and name in task.metrics))
        for name in chosen if head.has_targets else ():
            found.setdefault(name, []).append(head)
    return found


class Scores:
    """Takes batches in and gives figures by `<metric>` and, of several outputs, `<metric>.<output>`."""

    def __init__(self, heads: Sequence[Head], wanted: Collection[str] = (), *, usual: bool = True, fidelity: bool = True) -> None:
        """Measure metrics against targets (see `measurable`), and `fidelity` to a reference."""
        self.heads = heads
        own = measurable(heads, wanted, usual=usual)
        baseline = {name: list(heads) for name, metric in catalogue().items() if metric.needs == "baseline"} if fidelity else {}
        self._against_targets = {name: [(head, _new(name, head)) for head in of] for name, of in own.items()}
        self._against_reference = {name: [(head, _new(name, head)) for head in of] for name, of in baseline.items()}
        self._counted: Counter[str] = Counter()

    def add(
        self,
        outputs: Sequence[Array],
        targets: Mapping[str, Array],
        inputs: Mapping[str, Array],
        reference: Sequence[Array] | None = None,
    ) -> None:
        """Take one batch in: the network's outputs, the dataset's targets by name, the inputs, and the baseline's outputs.

        Raises `shape_mismatch` where outputs and reference differ in shape.
        """
        if reference is not None and self._against_reference:
            _same_shapes(reference, outputs)
            bounded, expected = _bounded(outputs), _bounded(reference)
            for pairs in self._against_reference.values():
                for head, found in pairs:
                    found.add([bounded[i] for i in head.indices], None, [expected[i] for i in head.indices])
        prepared = {head.name: task_of(head).prepare(head, targets, inputs) for head in self.heads if head.has_targets}
        for head in self.heads:
            target = prepared.get(head.name)
            if target is not None:
                self._counted[head.name] += int(counts(head, target).any(axis=tuple(range(1, target.ndim))).sum())
        for pairs in self._against_targets.values():
            for head, found in pairs:
                target = prepared[head.name]
                if target is not None:
                    found.add([outputs[i] for i in head.indices], {head.target or "": target}, None)

    @property
    def counted(self) -> dict[str, int]:
        """By output, the examples with a target that counts: those without are in no metric against targets."""
        return dict(self._counted)

    def figures(self) -> dict[str, float]:
        """All that have a finite value (a label whose score is -inf costs infinitely much), in the catalogue's order."""
        every = self._against_targets | self._against_reference
        figures: dict[str, float] = {}
        single: dict[str, float] = {}
        for name in (name for name in catalogue() if name in every):
            values = {head.name: value for head, found in every[name] if (value := found.value()) is not None and math.isfinite(value)}
            if values:
                figures[name] = catalogue()[name].worst(values.values())
            if len(self.heads) > 1:
                single |= {f"{name}.{output}": value for output, value in values.items()}
        return figures | single


def _new(name: str, head: Head) -> Accumulator:
    found: Accumulator = accumulator(name)(head)
    return found


def _bounded(arrays: Sequence[Array]) -> list[Array]:
    """Infinite outputs (masked classes) as the largest numbers, so that equal ones cancel."""
    return [np.nan_to_num(array) if np.issubdtype(array.dtype, np.floating) else array for array in arrays]


def _same_shapes(reference: Sequence[Array], outputs: Sequence[Array]) -> None:
    shapes = [[list(array.shape) for array in arrays] for arrays in (reference, outputs)]
    if shapes[0] != shapes[1]:
        raise EngineError("shape_mismatch", f"The outputs changed their shapes from {shapes[0]} to {shapes[1]}.", category="internal")
