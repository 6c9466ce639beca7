"""Area under the ROC curve: how likely a wanted example has a higher score than another one, a tie counting half; mean of the classes."""

from __future__ import annotations

import numpy as np

from engine.metrics.accumulator import Array
from engine.metrics.ranking import Ranking


class Accumulator(Ranking):
    """By ranks (Mann and Whitney, 1947)."""

    def value(self) -> float | None:
        """Mean of the classes, each against the rest."""
        return self.mean_of(_area)


def _area(scores: Array, wanted: Array) -> float:
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives = int(wanted.sum())
    return float((ranks[wanted].sum() - positives * (positives + 1) / 2) / (positives * (len(wanted) - positives)))
