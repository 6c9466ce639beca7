"""Signal-to-noise ratio: 10·log10(Σ reference² / Σ (reference - output)²) over all examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.contract.heads import Head
from engine.metrics.accumulator import Array, Targets

MAX_SQNR_DB = 200.0
"""Reported where two outputs are equal, as JSON has no infinity."""
_TINY = 1e-12


class Accumulator:
    """Sums of squares of the floating-point outputs."""

    def __init__(self, head: Head) -> None:
        self._signal = self._noise = 0.0
        self._seen = False

    def add(self, outputs: Sequence[Array], targets: Targets | None, reference: Sequence[Array] | None) -> None:
        """Take one batch in."""
        assert reference is not None
        for own, other in zip(outputs, reference, strict=True):
            if np.issubdtype(own.dtype, np.floating):
                wide = other.astype(np.float64)
                self._signal += float(np.square(wide).sum())
                self._noise += float(np.square(wide - own).sum())
                self._seen = True

    def value(self) -> float | None:
        """In decibel, between ±`MAX_SQNR_DB`."""
        return ratio_db(self._signal, self._noise) if self._seen else None


def ratio_db(signal: float, noise: float) -> float:
    """10·log10(signal / noise) of two powers, between ±`MAX_SQNR_DB`."""
    if not math.isfinite(noise):
        return -MAX_SQNR_DB
    ratio = max(signal, _TINY * _TINY) / max(noise, _TINY * _TINY)
    return MAX_SQNR_DB if noise == 0 else float(np.clip(10 * math.log10(ratio), -MAX_SQNR_DB, MAX_SQNR_DB))
