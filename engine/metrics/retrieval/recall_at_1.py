"""Share of the examples whose nearest other one is of their class, by the cosine of their embeddings."""

from __future__ import annotations

from engine.metrics.retrieval import recall_at_k


class Accumulator(recall_at_k.Accumulator):
    """The one nearest."""

    neighbours = 1
