"""Mean over the examples of the cosine between both networks' outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets

_TINY = 1e-12


class Accumulator(Mean):
    """Of each floating-point output, an example one vector; equal vectors have 1, even of zeros.

    Single numbers have no direction but their sign: where an example is one number, all examples together are one vector.
    """

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._products = np.zeros(3)

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        assert reference is not None
        for own, other in zip(outputs, reference, strict=True):
            if np.issubdtype(own.dtype, np.floating):
                rows = len(own) if own.ndim else 1
                left, right = (array.astype(np.float64).reshape(rows, -1) for array in (other, own))
                if left.shape[1] == 1:
                    self._products += [float((left * right).sum()), float(np.square(left).sum()), float(np.square(right).sum())]
                    continue
                norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
                same = (left == right).all(axis=1)
                self.take(np.where(same, 1.0, (left * right).sum(axis=1) / np.maximum(norms, _TINY)))

    def value(self) -> float | None:
        """The mean, or the cosine of all single numbers."""
        product, left, right = (float(item) for item in self._products)
        if left or right:
            return product / max(math.sqrt(left * right), _TINY)
        return super().value()
