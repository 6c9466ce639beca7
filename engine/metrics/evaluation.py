"""Quality figures from arrays of outputs; numpy only, so that the process that scores a published file needs no torch.

Outputs are arrays with the batch first. Label metrics need class scores of shape (N, C); fidelity to a baseline works on outputs of
any shape and number.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError

Array = NDArray[Any]
MAX_SQNR_DB = 200.0
"""Reported where two outputs are equal, as JSON has no infinity."""
_TINY = 1e-12


def is_probabilities(scores: Array) -> bool:
    """Whether every row of `scores` (N, C) is a distribution already, so that a second softmax would be wrong."""
    return bool(scores.size and scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3))


def class_scores(outputs: Sequence[Array]) -> Array:
    """The first output as class scores (N, C), C > 1. Raises `shape_mismatch` where it is something else."""
    scores = _without_unit_axes(outputs[0])
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise EngineError(
            "shape_mismatch",
            f"Labels need class scores of shape (batch, classes), but the first output has the shape {list(outputs[0].shape)}.",
            hint="Evaluate agreement, sqnr_db and cosine, which need no labels.",
        )
    return scores


def log_probabilities(scores: Array) -> Array:
    """Natural logarithms of the class probabilities; `scores` (N, C) are logits or probabilities."""
    scores = scores.astype(np.float64)
    if is_probabilities(scores):
        return np.asarray(np.log(np.maximum(scores, _TINY)))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def top_k_accuracy(scores: Array, labels: Array, k: int) -> float:
    """Share of examples whose label is among the `k` best scores; ties count by class index, as argmax does."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (scores > own).sum(axis=1)
    ties_before = ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None])).sum(axis=1)
    # A row with NaN compares false everywhere and must not count as right.
    numbers = ~np.isnan(scores).any(axis=1)
    return float(((ahead + ties_before < k) & numbers).mean())


def cross_entropy(scores: Array, labels: Array) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-np.take_along_axis(log_probabilities(scores), labels[:, None], axis=1).mean())


def label_metrics(outputs: Sequence[Array], labels: Array, wanted: Iterable[str] = ("top1", "cross_entropy")) -> dict[str, float]:
    """`top1`, `top5` and `cross_entropy` as wanted. Raises `shape_mismatch` where labels and class scores do not fit."""
    scores = class_scores(outputs)
    if len(labels) and int(labels.max()) >= scores.shape[1]:
        raise EngineError(
            "shape_mismatch",
            f"The dataset has the label {int(labels.max())}, but the model gives only {scores.shape[1]} class scores.",
            hint="Labels count from 0 to classes - 1.",
        )
    figures: dict[str, Callable[[], float]] = {
        "top1": lambda: top_k_accuracy(scores, labels, 1),
        "top5": lambda: top_k_accuracy(scores, labels, min(5, scores.shape[1])),
        "cross_entropy": lambda: cross_entropy(scores, labels),
    }
    return {name: figure() for name, figure in figures.items() if name in set(wanted)}


def sqnr_db(reference: Sequence[Array], outputs: Sequence[Array]) -> float:
    """Signal-to-noise ratio of all floating-point outputs together: 10·log10(Σ reference² / Σ (reference - output)²)."""
    signal = noise = 0.0
    for left, right in _floating(reference, outputs):
        signal += float(np.square(left).sum())
        noise += float(np.square(left - right).sum())
    return ratio_db(signal, noise)


def ratio_db(signal: float, noise: float) -> float:
    """10·log10(signal / noise) of two powers, between ±`MAX_SQNR_DB`."""
    if not math.isfinite(noise):
        return -MAX_SQNR_DB
    ratio = max(signal, _TINY * _TINY) / max(noise, _TINY * _TINY)
    return MAX_SQNR_DB if noise == 0 else float(np.clip(10 * math.log10(ratio), -MAX_SQNR_DB, MAX_SQNR_DB))


def cosine(reference: Sequence[Array], outputs: Sequence[Array]) -> float:
    """Mean over the examples of the cosine between the two networks' outputs, all floating-point outputs in one vector.

    Where outputs do not share their first dimension (a recurrent state has its layers there), all numbers make one vector.
    """
    pairs = list(_floating(reference, outputs))
    lengths = {len(left) if left.ndim else 1 for left, _ in pairs}
    rows = lengths.pop() if len(lengths) == 1 else 1
    left, right = (np.concatenate([pair[side].reshape(rows, -1) for pair in pairs], axis=1) for side in (0, 1))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    same = (left == right).all(axis=1)
    return float(np.where(same, 1.0, (left * right).sum(axis=1) / np.maximum(norms, _TINY)).mean())


def agreement(reference: Sequence[Array], outputs: Sequence[Array]) -> float:
    """Share of examples for which both networks name the same class; needs class scores."""
    return float((class_scores(reference).argmax(axis=1) == class_scores(outputs).argmax(axis=1)).mean())


def fidelity_metrics(reference: Sequence[Array], outputs: Sequence[Array]) -> dict[str, float]:
    """`agreement` (where the first output holds class scores), `sqnr_db` and `cosine` (where an output is floating-point)."""
    shapes = [[list(array.shape) for array in arrays] for arrays in (reference, outputs)]
    if shapes[0] != shapes[1]:
        raise EngineError("shape_mismatch", f"The outputs changed their shapes from {shapes[0]} to {shapes[1]}.", category="internal")
    figures: dict[str, float] = {}
    scores = _without_unit_axes(reference[0])
    if scores.ndim == 2 and scores.shape[1] > 1:
        figures["agreement"] = agreement(reference, outputs)
    if any(np.issubdtype(array.dtype, np.floating) for array in reference):
        figures |= {"sqnr_db": sqnr_db(reference, outputs), "cosine": cosine(reference, outputs)}
    return figures


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share measured on `count` examples; 95 % by default (Wilson, 1927)."""
    if count <= 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _without_unit_axes(scores: Array) -> Array:
    """(N, C, 1, 1) as (N, C): what a network that ends in a pooling layer gives."""
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    return scores


def _floating(reference: Sequence[Array], outputs: Sequence[Array]) -> Iterable[tuple[Array, Array]]:
    for left, right in zip(reference, outputs, strict=True):
        if np.issubdtype(left.dtype, np.floating):
            yield left.astype(np.float64), right.astype(np.float64)
