"""Share of the examples that find one of their own class among the ten nearest other examples, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Mean, Targets

MOST_EXAMPLES = 20_000
"""Every example is compared with every other one; of a larger set, the first ones are."""
_CHUNK = 512


class Accumulator(Mean):
    """Keeps the embeddings, of length 1; examples without another one of their class do not count."""

    neighbours = 10

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._embeddings: list[Array] = []
        self._labels: list[Array] = []
        self._kept = 0

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        left = MOST_EXAMPLES - self._kept
        if left <= 0:
            return
        vectors = outputs[0][:left].reshape(len(outputs[0][:left]), -1).astype(np.float32)
        self._embeddings.append(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
        self._labels.append(self.target(targets)[:left].reshape(-1))
        self._kept += len(vectors)

    def value(self) -> float | None:
        """None where no two examples are of one class."""
        if not self._kept:
            return None
        embeddings, labels = np.concatenate(self._embeddings), np.concatenate(self._labels)
        found = [self._found(embeddings, labels, start) for start in range(0, len(labels), _CHUNK)]
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        counted = counts[places] > 1
        return float(np.concatenate(found)[counted].mean()) if counted.any() else None

    def _found(self, embeddings: Array, labels: Array, start: int) -> Array:
        rows = np.arange(start, min(start + _CHUNK, len(labels)))
        likeness = embeddings[rows] @ embeddings.T
        likeness[np.arange(len(rows)), rows] = -np.inf
        count = min(self.neighbours, max(1, len(labels) - 1))
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        return np.asarray((labels[nearest] == labels[rows][:, None]).any(axis=1))
