"""What computes a metric: fed batch by batch, asked for one value at the end. Numpy only, as files are scored in a process without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contract.heads import Head

Array = NDArray[Any]
Targets = Mapping[str, Array]
"""Targets of some examples by name; those of a head are under its `target`."""


class Accumulator(Protocol):
    """One metric of one head over all examples. Its value is that of the whole set, and not a mean of the batches' values."""

    def __init__(self, head: Head) -> None: ...

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in.

        Args:
            outputs: Of the head, usually one array, examples first.
            targets: Its targets, for a metric that needs them.
            reference: The baseline's outputs in place of `outputs`, for a metric that needs those.
        """

    def value(self) -> float | None:
        """The metric; None where nothing was seen that it can be measured on."""


class Mean:
    """A mean over all that was seen; subclasses add to it."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._sum, self._count = 0.0, 0

    def take(self, terms: Array) -> None:
        """Add numbers, each of which counts as one."""
        self._sum += float(terms.sum())
        self._count += terms.size

    def value(self) -> float | None:
        """Their mean."""
        return self._sum / self._count if self._count else None

    def target(self, targets: Targets | None) -> Array:
        """The head's own array; of targets that are made of an input, it has no name."""
        assert targets is not None
        return np.asarray(targets[self.head.target or ""])
