"""Outputs of a head in the form in which metrics count: rows of class scores, logarithms of probabilities, decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.heads import Head, Scale

Array = NDArray[Any]
_TINY = 1e-12


def class_rows(head: Head, output: Array) -> Array:
    """The class scores of every example and position as rows (positions, classes), positions in the order of the targets'."""
    axis = head.class_axis
    assert axis is not None
    last = np.moveaxis(output, axis, -1)
    return last.reshape(-1, last.shape[-1])


def labelled_rows(head: Head, output: Array, target: Array) -> tuple[Array, Array]:
    """Rows of class scores and the class of each, without the places that do not count."""
    rows, labels = class_rows(head, output), target.reshape(-1).astype(np.int64, copy=False)
    if head.ignored is not None:
        counted = labels != head.ignored
        rows, labels = rows[counted], labels[counted]
    return rows, labels


def counts(head: Head, target: Array) -> Array:
    """Which places count, in the shape of the targets."""
    return np.ones(target.shape, dtype=bool) if head.ignored is None else np.asarray(target != head.ignored)


def is_probabilities(rows: Array, tolerance: float = 1e-3) -> bool:
    """Whether every row is a distribution already, so that a second softmax would be wrong."""
    return bool(rows.size and rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1, atol=tolerance))


def log_probabilities(rows: Array, scale: Scale | None) -> Array:
    """Natural logarithms of the class probabilities; `rows` are of the stated scale, or of the one that is seen where it is None.

    Rows of probabilities that were rounded to a few bits do not add up to 1: they are probabilities all the same.
    """
    rows = rows.astype(np.float64)
    if scale == "probabilities" or (scale is None and is_probabilities(rows)):
        return np.asarray(np.log(np.maximum(rows, _TINY)))
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def negative_log_likelihoods(head: Head, output: Array, target: Array) -> Array:
    """-log p(target) of every place that counts, in nats: of the class, or of each yes or no."""
    if head.class_axis is not None:
        rows, labels = labelled_rows(head, output, target)
        return np.asarray(-np.take_along_axis(log_probabilities(rows, head.scale), labels[:, None], axis=1))
    assert head.threshold is not None
    counted = counts(head, target).reshape(-1)
    values, yes = output.reshape(-1).astype(np.float64)[counted], target.reshape(-1).astype(bool)[counted]
    if head.scale == "probabilities":
        return np.asarray(-np.log(np.maximum(np.where(yes, values, 1 - values), _TINY)))
    return np.asarray(np.logaddexp(0, np.where(yes, -values, values)))


def decisions(head: Head, output: Array) -> Array:
    """The class that is named at every place, or each yes or no; integers and booleans are decisions already."""
    if head.class_axis is not None:
        return np.asarray(output.argmax(axis=head.class_axis))
    if head.threshold is not None:
        return np.asarray(output > head.threshold)
    return output


def among_best(rows: Array, labels: Array, k: int) -> Array:
    """Whether each row's own class is among its `k` best scores; ties count by class index, as argmax does."""
    own = np.take_along_axis(rows, labels[:, None], axis=1)
    ahead = (rows > own).sum(axis=1)
    ties_before = ((rows == own) & (np.arange(rows.shape[1]) < labels[:, None])).sum(axis=1)
    # A row with NaN compares false everywhere and must not count as right.
    numbers = ~np.isnan(rows).any(axis=1)
    return np.asarray((ahead + ties_before < k) & numbers)
