"""Mean over the examples of the cosine between both networks' outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.metrics.accumulator import Array, Mean, Targets

_TINY = 1e-12


class Accumulator(Mean):
    """Of each floating-point output, an example one vector; equal vectors have 1, even of zeros."""

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        assert reference is not None
        for own, other in zip(outputs, reference, strict=True):
            if np.issubdtype(own.dtype, np.floating):
                rows = len(own) if own.ndim else 1
                left, right = (array.astype(np.float64).reshape(rows, -1) for array in (other, own))
                norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
                same = (left == right).all(axis=1)
                self.take(np.where(same, 1.0, (left * right).sum(axis=1) / np.maximum(norms, _TINY)))
