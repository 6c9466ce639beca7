"""Average precision: Σ (recall at a threshold - recall at the one above) · precision there, over all scores; mean of the classes."""

from __future__ import annotations

import numpy as np

from engine.metrics.accumulator import Array
from engine.metrics.ranking import Ranking


class Accumulator(Ranking):
    """Without interpolation, as scikit-learn has it."""

    def value(self) -> float | None:
        """Mean of the classes, each against the rest."""
        return self.mean_of(_precision)


def _precision(scores: Array, wanted: Array) -> float:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(wanted[order])[ends]
    precision, recall = found / (ends + 1), found / wanted.sum()
    return float((np.diff(recall, prepend=0.0) * precision).sum())
