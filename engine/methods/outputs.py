"""Outputs of networks that were computed earlier, or by another runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-3
"""Outputs of two runtimes count as the same up to a thousandth of each number and a ten thousandth of the largest: kernels add up in
another order, which costs some 1e-6; a wrong operator costs far more."""


def rows_at(output: NDArray[Any], places: NDArray[np.int64], count: int) -> NDArray[Any]:
    """The given examples of an output; all of it where it has other things than examples in its first dimension."""
    return output[places[0] : places[-1] + 1] if len(output) == count else output


def same_outputs(kept: NDArray[Any], own: NDArray[Any]) -> bool:
    """Whether two runtimes gave the same outputs, up to rounding."""
    if kept.shape != own.shape:
        return False
    if not np.issubdtype(own.dtype, np.floating):
        return np.array_equal(kept, own)
    scale = float(np.abs(own[np.isfinite(own)]).max(initial=0.0))
    return bool(np.allclose(own, kept, rtol=_TOLERANCE, atol=_TOLERANCE * 0.1 * scale))
