"""Whether the examples that ranges are read off look like those that the result is scored on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engine.methods.step import StepContext

EXAMPLES = 64
"""Of each side, evenly spaced."""
OVERSHOOT = 0.5
"""Values further outside than this share of the calibrated range are of another scale, not outliers of the same one."""
MOST_OUTSIDE = 0.05
FINEST = 1 / 16
"""A range this much narrower uses less than four of the eight bits."""

Range = tuple[float, float]


def warn_shifted(calibrated: Any, places: NDArray[np.int64], context: StepContext) -> None:
    """Warn where an input has another scale or offset on the evaluated examples than on the calibration examples at `places`.

    Values outside the calibrated range are cut off, and values in a small part of it share a few of its levels: both make a poor
    result that looks like the method's fault.
    """
    splits = {} if context.data is None else context.data.splits
    evaluated = splits.get(context.evaluation_split)
    if evaluated is None:
        return
    before = _values(calibrated, places)
    found = {}
    for name, values in _values(evaluated, np.arange(evaluated.count)).items():
        reason = difference(before[name], values) if name in before else None
        if reason is not None:
            found[name] = reason
    if found:
        context.warn(
            "calibration_shifted",
            "Calibration and evaluation examples differ in scale or offset: "
            + "; ".join(f"input {name!r}: {reason}" for name, reason in found.items())
            + ". Check that both splits were preprocessed in the same way.",
            inputs=found,
        )


def difference(calibrated: NDArray[Any], evaluated: NDArray[Any]) -> str | None:
    """How the values of one input differ between the two, as a clause; None where they are alike, or one of them holds one number alone."""
    low, high = _range(calibrated)
    least, most = _range(evaluated)
    span = high - low
    if span <= 0 or not np.isfinite((low, high, least, most)).all():
        return None
    where = f"from {low:.4g} to {high:.4g} when calibrated, from {least:.4g} to {most:.4g} when evaluated"
    outside = float(np.mean((evaluated < low) | (evaluated > high)))
    if max(low - least, most - high) > OVERSHOOT * span or outside > MOST_OUTSIDE:
        return f"{where} ({outside:.1%} of the values are cut off)"
    if 0 < most - least < FINEST * span:
        return f"{where}, a {span / (most - least):.3g}th of the range"
    return None


def _range(values: NDArray[Any]) -> Range:
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)


def _values(split: Any, places: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
    """Floating-point inputs by name, of at most `EXAMPLES` examples, one after the other."""
    few = places[np.unique(np.linspace(0, len(places) - 1, EXAMPLES).astype(np.int64))]
    return dict(_floats(split.batch(few)[0]))


def _floats(feed: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, array in feed.items():
        if np.issubdtype(array.dtype, np.floating):
            yield name, array
